"""Calls that are mistaken get an error that says so, and never a number."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from prorank import Reranker
from prorank.by_script import ByScript
from prorank.cli.shared import print_json
from prorank.engine.scores import argmax_grade
from prorank.integrations.remote import Remote
from prorank.integrations.source import Local
from prorank.util.errors import CheckpointError, InputError, InputTypeError, ProrankError


@pytest.fixture(scope="module")
def reranker(bert_folder):
    return Reranker(bert_folder, prompt="prorank-short", max_length=64, precision="fp32")


@pytest.fixture(scope="module")
def checkpoint(reranker, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    reranker.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "wrong, says",
    [
        (("北京", "上海"), r"pair 1 .* got str .*\[\(query, document\)\]"),
        (["ab", "cd"], r"pair 1 .* got str"),
        (("apple", {"text": "river"}), r"\[\(query, document\)\]"),
        ("apple", "pairs must be a list"),
        (b"apple", "pairs must be a list"),
        ({"apple": "river"}, "not dict"),
        ({("apple", "river")}, "not set"),
        (7, "not int"),
        (None, "not NoneType"),
        ([("apple", "river"), ("apple", "river", "stone")], "pair 2 has 3 parts"),
        ([("apple",)], "pair 1 has 1 parts"),
        ([{"query": "apple", "document": "river"}], "pair 1 .* got dict"),
        ([{"apple", "river"}], "pair 1 .* got set"),
        ([b"ab"], "pair 1 .* got bytes"),
        ([("apple", "river"), ("apple", b"river")], "pair 2: a document must be a string .* got bytes"),
        ([("apple", "river"), (b"apple", "river")], "pair 2: a query must be a string, got bytes"),
        ([("apple", ["river"])], "pair 1: a document"),
        ([("apple", {"text": 7})], "string under 'text'"),
        *(
            ([("apple", {"text": "river", "title": title})], f"'title' must be a string, got {type(title).__name__}")
            for title in (7, 0, 0.0, False, [], {}, ())
        ),
    ],
)
def test_what_is_no_list_of_pairs_is_refused(reranker, wrong, says):
    for call in (reranker.score, reranker.score_detailed):
        with pytest.raises(InputTypeError, match=says):
            call(wrong)


def test_any_ordered_iterable_of_pairs_is_taken(reranker):
    pairs = [("apple", "river"), ("apple", "stone")]
    expected = reranker.score(pairs)
    for same in ((pair for pair in pairs), tuple(pairs), [list(pair) for pair in pairs], np.array(pairs), iter(pairs)):
        assert reranker.score(same) == expected
    assert reranker.score(iter([])) == []
    windows = Reranker(reranker.settings.base_model, prompt="prorank-short", precision="fp32", passages="max")
    assert windows.score(pair for pair in pairs) == pytest.approx(expected)


def test_an_empty_query_says_which_pair(reranker):
    with pytest.raises(InputError, match="pair 2: the query is empty"):
        reranker.score([("apple", "river"), (" ", "river")])


@pytest.mark.parametrize("documents", ["river", b"river", {"text": "river"}, {"river", "stone"}, 7, None])
def test_what_is_no_list_of_documents_is_refused(reranker, documents):
    with pytest.raises(InputTypeError, match="documents must be a list of documents"):
        reranker.rank("apple", documents)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (b"stone", "document 2: a document must be a string .* got bytes"),
        ({"title": "stone"}, "document 2: a document mapping needs a string under 'text'"),
        ("\ud83d", "document 2: the document holds half of a surrogate pair"),
    ],
)
def test_a_mistaken_document_is_named_by_its_number_wherever_documents_are_given(reranker, wrong, says):
    ranks = (reranker.rank, Local(reranker).rank, Remote("http://127.0.0.1:1").rank)
    for rank in ranks:
        with pytest.raises((InputError, InputTypeError), match=f"^{says}"):
            rank("apple", ["river", wrong])
        with pytest.raises(InputError, match=r"^the query is empty"):
            rank(" ", ["river"])


@pytest.mark.parametrize("wrong", ["yes", "no", "", 1, 0, {"tokens": [2]}])
def test_a_cascade_of_another_type_is_refused_however_it_is_given(bert_folder, reranker, wrong):
    pair = object.__new__(ByScript)
    pair.models = {"one": reranker}
    for attempt in (
        lambda: Reranker(bert_folder, prompt="prorank-short", cascade=wrong),
        lambda: reranker.rank("apple", ["river"], cascade=wrong),
        lambda: reranker.rank("apple", [], cascade=wrong),
        lambda: reranker.reading(wrong),
        lambda: ByScript(cascade=wrong),
        lambda: pair.reading(wrong),
    ):
        with pytest.raises(InputTypeError, match="cascade must be True, False or a Cascade, got "):
            attempt()


def test_documents_may_come_from_a_generator(reranker):
    words = ["river", "stone"]
    expected = reranker.rank("apple", words, return_documents=True)
    assert reranker.rank("apple", (word for word in words), return_documents=True) == expected


@pytest.mark.parametrize("wrong", [True, 2.0, "2", 0, -1])
@pytest.mark.parametrize("name", ["max_length", "max_new_tokens", "token_budget"])
def test_sizes_are_whole_numbers_of_at_least_one(bert_folder, name, wrong):
    with pytest.raises((InputError, InputTypeError), match=name):
        Reranker(bert_folder, prompt="prorank-short", **{name: wrong})


@pytest.mark.parametrize("wrong", [True, 1.0, "1", 0, -1])
def test_top_k_is_a_whole_number_of_at_least_one(reranker, wrong):
    with pytest.raises((InputError, InputTypeError), match="top_k"):
        reranker.rank("apple", ["river", "stone"], top_k=wrong)


@pytest.mark.parametrize("wrong", ["0.5", True, float("nan"), 1.5, -0.1])
def test_a_threshold_is_a_probability(reranker, wrong):
    with pytest.raises((InputError, InputTypeError), match="threshold"):
        reranker.rank("apple", ["river"], threshold=wrong)


@pytest.mark.parametrize("name", ["score", "family", "precision", "passages"])
def test_unknown_choices_are_listed(bert_folder, name):
    with pytest.raises(InputError, match=f"{name} must be one of .*; got 'nope'"):
        Reranker(bert_folder, prompt="prorank-short", **{name: "nope"})


@pytest.mark.parametrize("option", [{"prompt": "yesno"}, {"score": "argmax_grade"}, {"family": "masked"}])
def test_a_checkpoint_brings_its_own(checkpoint, option):
    with pytest.raises(CheckpointError, match=f"brings its own {next(iter(option))}"):
        Reranker(checkpoint, **option)


@pytest.mark.parametrize("option", [{"compile_layers": True}, {"for_training": True}, {"precision": "bf16"}])
def test_an_export_refuses_what_it_cannot_honour(exported, option):
    with pytest.raises(CheckpointError, match="export"):
        Reranker(exported / "openvino", **option)


def test_an_export_runs_on_the_cpu_only(exported, monkeypatch):
    assert Reranker(exported / "openvino", device="cpu").score([("apple", "river")])
    monkeypatch.setattr("prorank.engine.runtime.resolve_device", lambda device: torch.device("cuda"))
    with pytest.raises(CheckpointError, match=r"runs on the CPU, not on 'cuda'"):
        Reranker(exported / "openvino", device="cuda")


def test_an_export_keeps_its_budget_of_tokens(exported, monkeypatch):
    reranker = Reranker(exported / "openvino", token_budget=20)
    shapes, run = [], reranker.backend.graph
    monkeypatch.setattr(reranker.backend, "graph", lambda ids, mask: (shapes.append(ids.size), run(ids, mask))[1])
    reranker.score([("apple", "river stone")] * 6)
    assert len(shapes) == 6 or max(shapes) <= 20


@pytest.mark.parametrize("device", ["gpu", "cuda", "cuda:99", "tpu", "meta", "", 7])
def test_a_device_that_is_not_here_is_named(bert_folder, device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has it")
    with pytest.raises(InputError, match=r"no device .* here \(one of auto, cpu"):
        Reranker(bert_folder, prompt="prorank-short", device=device)


def broken(checkpoint, **options):
    """The checkpoint, one of its weights not a number any more since it was loaded."""
    reranker = Reranker(checkpoint, precision="fp32", **options)
    weights = dict(reranker.backbone.model.named_parameters())
    name = next(name for name in weights if name.endswith("layer.1.output.dense.bias"))
    weights[name].data[0] = float("nan")
    return reranker


@pytest.mark.parametrize("passages", [None, "max"])
def test_scores_that_are_not_numbers_are_an_error(checkpoint, passages):
    reranker = broken(checkpoint, passages=passages)
    pairs = [("apple", "river"), ("apple", "stone")]
    for attempt in (
        lambda: reranker.score(pairs),
        lambda: reranker.score_detailed(pairs),
        lambda: reranker.score_sequences(reranker.tokenizer.encode(pairs)[0]),
        lambda: reranker.rank("apple", ["river", "stone"]),
        lambda: reranker.rank("apple", ["river", "stone"], threshold=0.5),
    ):
        with pytest.raises(InputError, match=r"1 is nan, and 1 more"):
            attempt()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("part", ["query.weight", "layer.1.output.dense.bias"])
def test_weights_that_are_not_numbers_are_refused_at_load(checkpoint, tmp_path, call, part, value):
    folder = shutil.copytree(checkpoint, tmp_path / "damaged")
    weights = load_file(folder / "model.safetensors")
    weights[next(name for name in weights if name.endswith(part))][..., 0] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"{part} holds numbers that are not finite"):
        Reranker(folder, precision="fp32")
    code, out, err = call("rerank", "apple", "river", "-m", folder, "--json")
    assert code == 2 and not out and "not finite" in err


def test_the_pair_is_numbered_also_when_its_passages_are_scored(bert_folder, monkeypatch):
    reranker = Reranker(bert_folder, prompt="prorank-short", max_length=32, precision="fp32", passages="max")
    whole = reranker._any_scores

    def last_is_nan(*arguments):
        scores, malformed = whole(*arguments)
        scores[-1] = float("nan")
        return scores, malformed

    monkeypatch.setattr(reranker, "_any_scores", last_is_nan)
    with pytest.raises(InputError, match=r"^score 2 is nan"):
        reranker.score([("apple", "river " * 100), ("apple", "stone")])


def test_the_most_probable_grade_of_nan_is_nan():
    assert argmax_grade(torch.tensor([[0.0, float("nan")], [0.0, 1.0]])).tolist()[1] == 1.0
    assert argmax_grade(torch.tensor([[0.0, float("nan")]])).isnan().all()


@pytest.mark.parametrize("wrong", [[1.0, float("nan")], [1.0, float("inf")], np.array([0.0, -np.inf])])
def test_a_score_that_is_no_number_has_no_probability(reranker, wrong):
    with pytest.raises(InputError, match="score 2 is"):
        reranker.probability(wrong)


@pytest.mark.parametrize("wrong", [1.0, "1.0", ["1.0"], [None], [[1.0]], [[1.0], [1.0, 2.0]], {"a": 1.0}])
def test_probabilities_need_a_list_of_numbers(reranker, wrong):
    with pytest.raises(InputTypeError, match="scores must be a list of numbers"):
        reranker.probability(wrong)
    assert reranker.probability([]) == []


def test_json_for_programs_never_holds_nan(capsys):
    for value in (float("nan"), float("inf")):
        with pytest.raises(ProrankError, match="NaN or infinite"):
            print_json([{"score": value}])
    assert capsys.readouterr().out == ""
    print_json({"score": 0.5})
    assert json.loads(capsys.readouterr().out) == {"score": 0.5}


@pytest.mark.parametrize(
    "options, says",
    [
        ({"instruction": 3}, "instruction must be a text, got 3"),
        ({"compile_layers": "no"}, "compile_layers must be True or False, got 'no'"),
        ({"for_training": 1}, "for_training must be True or False"),
        ({"trust_remote_code": "yes"}, "trust_remote_code must be True or False"),
        ({"prompt": 7}, "prompt must be a name"),
        ({"batch_size": 0}, "no option 'batch_size'.*token_budget"),
        ({"model": None}, "a model is a name or a folder, got None"),
        ({"model": 3}, "a model is a name or a folder, got 3"),
        ({"backbone": 3}, "no option 'backbone'"),
    ],
)
def test_options_of_another_type_are_refused(options, says):
    with pytest.raises(InputTypeError, match=says):
        Reranker(**options)


def test_parts_in_the_wrong_places_are_named(reranker):
    backbone, tokenizer, settings = reranker.backend, reranker.tokenizer, reranker.settings
    with pytest.raises(InputTypeError, match="no option 'backbone'"):
        Reranker(backbone=backbone, tokenizer=tokenizer, settings=settings)
    with pytest.raises(InputTypeError, match="tokenizer must be a PairTokenizer"):
        Reranker(backbone, settings, tokenizer)
    with pytest.raises(InputTypeError, match=r"settings must be CheckpointSettings, got \{\}"):
        Reranker(backbone, tokenizer, {})


def test_a_damaged_weight_is_not_taken_for_a_model_that_cannot_be_packed(checkpoint, caplog):
    with pytest.raises(InputError, match="nan"):
        broken(checkpoint).score([("apple", "river")])
    assert "packed" not in caplog.text
