"""Cutting a Unigram vocabulary: covered texts keep their pieces and vectors, other texts fall into smaller pieces."""

import json
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModel, BertConfig, BertModel, PreTrainedTokenizerFast

from prorank.model.vocabulary import commonest, cut_vocabulary
from prorank.util.errors import CheckpointError

ENGLISH = ["owls hunt mice at night", "a barn owl hunts in open fields", "mice hide from owls in the barn"] * 4
GREEK = ["οι κουκουβάγιες κυνηγούν ποντίκια τη νύχτα", "τα ποντίκια κρύβονται στον αχυρώνα"] * 4
CHINESE = ["猫头鹰在夜里捕捉老鼠", "老鼠躲在谷仓里"] * 4
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory):
    """A tiny encoder with a Unigram tokenizer of three languages, special tokens at both ends as XLM-R's."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=220, special_tokens=SPECIAL, unk_token="<unk>")
    tokenizer.train_from_iterator([*ENGLISH, *GREEK, *CHINESE], trainer)
    tokenizer.add_special_tokens(["<mask>"])
    described = json.loads(tokenizer.to_str())
    described["model"]["vocab"].append(["<mask>", 0.0])
    tokenizer = Tokenizer.from_str(json.dumps(described))
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    folder = tmp_path_factory.mktemp("multilingual")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", mask_token="<mask>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    rows = len(described["model"]["vocab"])
    config = BertConfig(
        vocab_size=rows,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
        pad_token_id=1,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def vectors(folder, texts):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    with torch.no_grad():
        return [model(**tokenizer(text, return_tensors="pt")).last_hidden_state for text in texts]


def pieces(folder, text):
    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).tokens


def test_covered_texts_keep_their_pieces_and_vectors(multilingual, tmp_path):
    found = cut_vocabulary(multilingual, tmp_path / "cut", [ENGLISH, CHINESE], coverage=1.0)
    assert found.after < found.before and found.covered == 1.0
    texts = [ENGLISH[0], CHINESE[1], "mice hunt owls"]
    assert [pieces(multilingual, t) for t in texts] == [pieces(tmp_path / "cut", t) for t in texts]
    for whole, cut in zip(vectors(multilingual, texts), vectors(tmp_path / "cut", texts)):
        assert torch.equal(whole, cut)


def test_a_small_language_is_covered_beside_a_large_one(multilingual, tmp_path):
    cut_vocabulary(multilingual, tmp_path / "cut", [ENGLISH * 50, GREEK[:2]], coverage=0.95)
    rare = cut_vocabulary(multilingual, tmp_path / "one", [ENGLISH * 50 + GREEK[:2]], coverage=0.95)
    assert pieces(tmp_path / "cut", GREEK[0]) == pieces(multilingual, GREEK[0])
    assert pieces(tmp_path / "one", GREEK[0]) != pieces(multilingual, GREEK[0])
    assert rare.covered >= 0.95


def test_what_is_not_covered_falls_into_characters_not_into_unknown(multilingual, tmp_path):
    cut_vocabulary(multilingual, tmp_path / "cut", [GREEK], coverage=0.2)
    found = pieces(tmp_path / "cut", GREEK[0])
    assert len(found) > len(pieces(multilingual, GREEK[0])) and "<unk>" not in found


def test_special_tokens_keep_their_meaning(multilingual, tmp_path):
    cut_vocabulary(multilingual, tmp_path / "cut", [ENGLISH], coverage=0.5)
    whole, cut = (PreTrainedTokenizerFast.from_pretrained(f) for f in (multilingual, tmp_path / "cut"))
    assert cut.mask_token == "<mask>" and cut.mask_token_id == len(cut) - 1 < whole.mask_token_id
    tables = [
        load_file(f / "model.safetensors")["embeddings.word_embeddings.weight"]
        for f in (multilingual, tmp_path / "cut")
    ]
    assert torch.equal(tables[0][whole.mask_token_id], tables[1][cut.mask_token_id])
    assert json.loads((tmp_path / "cut" / "config.json").read_text())["pad_token_id"] == cut.pad_token_id
    assert pieces(tmp_path / "cut", "owls")[0] == "<s>" and pieces(tmp_path / "cut", "owls")[-1] == "</s>"


def test_extra_pieces_are_the_likeliest_of_the_same_characters(multilingual, tmp_path):
    plain = cut_vocabulary(multilingual, tmp_path / "plain", [ENGLISH], coverage=0.3)
    more = cut_vocabulary(multilingual, tmp_path / "more", [ENGLISH], coverage=0.3, extra=5)
    assert more.after == plain.after + 5
    kept = dict(json.loads((tmp_path / "more" / "tokenizer.json").read_text())["model"]["vocab"])
    before = {p for p, _ in json.loads((tmp_path / "plain" / "tokenizer.json").read_text())["model"]["vocab"]}
    letters = {c for text in ENGLISH for c in text.replace(" ", "▁")} | {"▁"}
    added = kept.keys() - before
    assert all(letters.issuperset(piece) for piece in added)
    left = {
        p: s
        for p, s in json.loads((multilingual / "tokenizer.json").read_text())["model"]["vocab"]
        if p not in kept and letters.issuperset(p)
    }
    assert min(kept[p] for p in added) >= max(left.values())


def test_another_kind_of_tokenizer_is_refused(multilingual, tmp_path):
    folder = tmp_path / "bpe"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(Tokenizer(models.BPE()).to_str())
    with pytest.raises(CheckpointError, match="BPE tokenizer; only a Unigram one"):
        cut_vocabulary(folder, tmp_path / "cut", [ENGLISH])


def test_a_model_with_two_tables_of_words_is_refused_and_nothing_is_written(multilingual, tmp_path):
    weights = load_file(multilingual / "model.safetensors")
    folder = tmp_path / "two"
    folder.mkdir()
    for name in ("tokenizer.json", "config.json"):
        (folder / name).write_text((multilingual / name).read_text())
    table = weights["embeddings.word_embeddings.weight"]
    save_file(weights | {"cls.predictions.decoder.weight": table.clone()}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="one table of word embeddings"):
        cut_vocabulary(folder, tmp_path / "cut", [ENGLISH])
    assert not (tmp_path / "cut").exists()


def test_no_more_pieces_than_the_share_needs():
    assert commonest(Counter(a=90, b=9, c=1), 1.0) == ["a", "b", "c"]
    assert commonest(Counter(a=90, b=9, c=1), 0.9) == ["a"]
