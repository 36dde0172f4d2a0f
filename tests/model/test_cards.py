"""Cards of saved and exported copies state the licence, languages and base that the loaded model's card states."""

import shutil
from types import SimpleNamespace

import pytest
from tiny_runs import tiny

from prorank import Reranker
from prorank.export.export import export
from prorank.model.cards import CARRIED, stated
from prorank.model.checkpoint import describe
from prorank.pipeline.stages import save_stage
from prorank.shipped import FOLDERS

HEAD = {
    "license": "other",
    "license_name": "göttlich: 1.0",
    "language": ["no", "en"],
    "base_model": "owner/name",
}
CARD = """---
license: other
license_name: "göttlich: 1.0"
language: [no, en]
base_model: owner/name
datasets: [mine]
---
# Mine
"""
WRITTEN = CARD.encode()
FP32 = {"precision": "fp32", "device": "cpu"}


def carried(folder):
    return {key: value for key, value in stated(str(folder)).items() if key in CARRIED}


@pytest.fixture
def with_card(tmp_path):
    """Makes a reranker of a model's folder whose card says something."""

    def make(folder, card=WRITTEN):
        copy = shutil.copytree(folder, tmp_path / "source")
        (copy / "README.md").write_bytes(card)
        prompt = "prorank-short" if "bert" in str(folder) else "prorank"
        return Reranker(copy, prompt=prompt, max_length=420 if prompt == "prorank" else 64, **FP32)

    return make


@pytest.mark.parametrize("name", ["prorank-mini", "prorank-mini-multilingual"])
def test_a_saved_copy_of_a_shipped_model_keeps_its_licence_and_languages(name, tmp_path):
    Reranker(name, **FP32).save_pretrained(tmp_path)
    known, found = describe(name), describe(tmp_path)
    assert found["licence"] == known["licence"] is not None and found["languages"] == known["languages"] is not None
    assert carried(tmp_path) == carried(FOLDERS[name]) and len(carried(tmp_path)) == 3


@pytest.mark.parametrize("card", [CARD, CARD.replace("\n", "\r\n")], ids=["", "crlf"])
def test_a_saved_copy_keeps_what_the_card_states(card, with_card, bert_folder, tmp_path):
    reranker = with_card(bert_folder, card.encode())
    reranker.save_pretrained(tmp_path / "copy")
    assert carried(tmp_path / "copy") == HEAD
    Reranker(tmp_path / "copy", **FP32).save_pretrained(tmp_path / "copy")  # over itself too
    assert carried(tmp_path / "copy") == HEAD
    reranker.save_pretrained(tmp_path / "own", card="# My card")
    assert (tmp_path / "own" / "README.md").read_text() == "# My card"


@pytest.mark.parametrize("target", ["int8-rowwise", "onnx", "sequence-classification", "sentence-transformers"])
def test_an_export_keeps_what_the_card_states(target, with_card, bert_folder, one_layer_folder, tmp_path):
    masked = target in ("int8-rowwise", "onnx")
    export(with_card(bert_folder if masked else one_layer_folder), target, tmp_path / "export")
    assert carried(tmp_path / "export") == HEAD
    assert describe(tmp_path / "export")["languages"] == ["no", "en"]


@pytest.mark.parametrize(
    "card", [b"", b"# No head", b"---\n: [\n---\n", b"---\nlicense: \xe9\n---\n", b"---\n- a\n---\n"]
)
def test_a_card_that_states_nothing_stops_no_save(card, with_card, bert_folder, tmp_path):
    with_card(bert_folder, card).save_pretrained(tmp_path / "copy")
    assert carried(tmp_path / "copy") == {} and "pipeline_tag" in stated(str(tmp_path / "copy"))


def test_the_card_of_the_start_does_not_speak_of_trained_weights(with_card, bert_folder, word_collection, tmp_path):
    reranker = with_card(bert_folder)
    recipe = tiny(tmp_path / "source", word_collection)
    context = SimpleNamespace(recipe=recipe, collection=SimpleNamespace(fingerprint="x"))
    save_stage(context, reranker, tmp_path / "trained")
    assert carried(tmp_path / "trained") == {} and (tmp_path / "trained" / "README.md").is_file()
