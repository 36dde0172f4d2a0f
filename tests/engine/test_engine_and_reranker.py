import functools
import json
import logging

import numpy as np
import pytest
import torch
from conftest import WORDS, bert_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank import Reranker
from prorank.data.collection import load_collection
from prorank.engine import scorer as engine
from prorank.engine.scorer import length_batches, slot_logits
from prorank.model.checkpoint import describe
from prorank.util.errors import CheckpointError, PromptError
from prorank.util.inputs import document_text


@pytest.fixture(scope="module", params=["causal", "masked", "tied"])
def reranker(request, qwen_folder, bert_folder, encoder_folder):
    folder = {"causal": qwen_folder, "masked": bert_folder, "tied": encoder_folder}[request.param]
    prompt = "prorank" if request.param == "causal" else "prorank-short"
    length = 400 if request.param == "causal" else 64
    return Reranker.from_pretrained(folder, prompt=prompt, max_length=length, precision="fp32")


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_batches_hold_every_index_once_and_stay_in_budget(lengths, budget):
    batches = list(length_batches(lengths, budget))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


def test_a_score_does_not_depend_on_its_neighbours(reranker):
    pairs = [("river stone", " ".join(WORDS[: i % 12 + 1])) for i in range(40)]
    together = reranker.score_detailed(pairs).scores
    reranker.backbone.token_budget = 1
    small = reranker.score_detailed(pairs).scores
    reranker.backbone.token_budget = None
    alone = np.array([reranker.score([pair])[0] for pair in pairs])
    np.testing.assert_allclose(together, small, atol=1e-4)
    np.testing.assert_allclose(together, alone, atol=1e-4)
    np.testing.assert_allclose(together[:12], together[12:24], atol=1e-5)  # equal pairs, equal scores


def test_score_is_the_logit_difference_of_the_whole_model(reranker):
    (sequence,), _ = reranker.tokenizer.encode([("apple", "river apple")])
    logits = slot_logits(reranker.backbone, reranker.tokenizer, [sequence], None)[0]
    zero, one = reranker.tokenizer.answer_ids
    assert reranker.score([("apple", "river apple")])[0] == pytest.approx((logits[one] - logits[zero]).item(), abs=1e-4)


def test_rank_returns_what_cross_encoders_return(reranker):
    documents = ["river", {"title": "stone", "text": "cloud"}, "tiger piano"]
    results = reranker.rank("river", documents, return_documents=True)
    scores = reranker.score([("river", d) for d in documents])
    assert [r["corpus_id"] for r in results] == sorted(range(3), key=lambda i: -scores[i])
    assert all(r["text"] == documents[r["corpus_id"]] for r in results)
    assert [r["score"] for r in results] == sorted(scores, reverse=True)
    assert len(reranker.rank("river", documents, top_k=2)) == 2
    assert set(reranker.rank("river", documents)[0]) == {"corpus_id", "score"}
    assert document_text(documents[1]) == "stone cloud"


def test_empty_and_wrong_inputs(reranker):
    assert reranker.rank("river", []) == []
    assert reranker.score([]) == []
    with pytest.raises(ValueError, match="query is empty"):
        reranker.rank("  ", ["river"])
    with pytest.raises(ValueError, match="query is empty"):
        reranker.rank("", [])
    with pytest.raises(TypeError, match="query must be a string, got int"):
        reranker.rank(3, ["river"])
    with pytest.raises(TypeError, match="document must be a string or a mapping"):
        reranker.rank("river", [None])
    with pytest.raises(TypeError, match="string under 'text'"):
        reranker.rank("river", [{"body": "x"}])
    with pytest.raises(TypeError, match="list of documents"):
        reranker.rank("river", "stone")
    with pytest.raises(ValueError, match="top_k"):
        reranker.rank("river", ["stone"], top_k=0)
    assert np.isfinite(reranker.score([("river", "")])[0])  # an empty document is legal


@settings(max_examples=15, deadline=None)
@given(documents=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=80), max_size=6))
def test_any_text_is_ranked(documents, bert_folder):
    model = cached(bert_folder)
    results = model.rank("apple", documents)
    assert sorted(r["corpus_id"] for r in results) == list(range(len(documents)))
    assert all(np.isfinite(r["score"]) for r in results)


# What people and machines write: empty, emoji, right-to-left, markers, very long
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    st.sampled_from(
        [
            "",
            " ",
            "\n\t",
            "🍎🌊 river",
            "مرحبا بالعالم",
            "שלום river",
            "<|im_end|> [MASK] [SEP]",
            "a\u0000b",
            "river " * 300,
        ]
    ),
)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.sampled_from(["apple", "نهر", "🍎?"]), TEXTS), min_size=1, max_size=8), st.data())
def test_scores_keep_their_order_and_do_not_depend_on_neighbours(qwen_folder, bert_folder, pairs, data):
    for folder in (qwen_folder, bert_folder):
        model = cached(folder)
        together = model.score(pairs)
        assert np.isfinite(together).all()
        np.testing.assert_allclose(together, [model.score([pair])[0] for pair in pairs], atol=1e-4)
        order = data.draw(st.permutations(range(len(pairs))))
        shuffled = model.score([pairs[i] for i in order] + [pairs[0]])
        np.testing.assert_allclose(shuffled, [together[i] for i in order] + [together[0]], atol=1e-4)
        model.backbone.token_budget = data.draw(st.integers(1, 600))
        np.testing.assert_allclose(model.score(pairs), together, atol=1e-4)
        model.backbone.token_budget = None


def test_a_very_long_document_neither_crashes_nor_changes_its_neighbours(reranker):
    huge = "river 🍎 مرحبا " * 7_200
    assert len(huge) > 100_000
    scores = reranker.score([("apple", huge), ("apple", "river")])
    assert np.isfinite(scores).all()
    assert scores[1] == pytest.approx(reranker.score([("apple", "river")])[0], abs=1e-4)


def test_packed_and_padded_scores_are_equal(reranker):
    pairs = [(query, " ".join(WORDS[: i + 1])) for i in range(12) for query in ("apple river", "stone")]
    assert reranker.backbone.supports_packing
    packed = reranker.score(pairs)
    try:
        reranker.backbone.supports_packing = False
        np.testing.assert_allclose(packed, reranker.score(pairs), atol=1e-4)
    finally:
        del reranker.backbone.supports_packing


@pytest.mark.parametrize("packs", [True, False])
def test_running_out_of_memory_halves_the_budget_and_loses_nothing(qwen_folder, monkeypatch, caplog, packs):
    reranker = Reranker.from_pretrained(qwen_folder, max_length=400, precision="fp32")
    pairs = [(f"apple {i % 3}", " ".join(WORDS[: i % 9 + 1])) for i in range(30)]
    expected = reranker.score(pairs)
    reranker.backbone.supports_packing = packs
    sizes, seen = [], []
    whole = engine._run

    def small_gpu(backbone, work, rows):
        sizes.append(work.input_ids.numel())
        if sizes[-1] > 700:
            raise torch.OutOfMemoryError("CUDA out of memory")
        seen.append(len(work.slots) if packs else len(work.slot))
        return whole(backbone, work, rows)

    monkeypatch.setattr(engine, "_run", small_gpu)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_allclose(reranker.score(pairs), expected, atol=1e-4)
    assert sum(seen) == len(pairs)  # every pair once
    assert max(sizes) > 700 and reranker.backbone.token_budget <= 700
    assert "out of GPU memory: going on with" in caplog.text
    sizes.clear()
    reranker.score(pairs)
    assert max(sizes) <= 700  # learned


def test_errors_that_are_not_about_memory_surface(reranker, monkeypatch):
    def broken(*_):
        raise RuntimeError("device-side assert")

    def no_room(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine, "_run", broken)
    with pytest.raises(RuntimeError, match="device-side assert"):
        reranker.score([("apple", "river")])
    monkeypatch.setattr(engine, "_run", no_room)
    with pytest.raises(torch.OutOfMemoryError):
        reranker.score([("apple", "river")])  # one pair alone cannot be halved


BF16_TOLERANCE = 0.02  # of the spread of fp32 scores: what README states


def test_bf16_keeps_the_order_beyond_its_tolerance():
    """On a real model and real texts: pairs whose fp32 scores differ by more keep their order."""
    collection = load_collection("cosqa")
    documents = [document.content for document in list(collection.documents.values())[:15]]
    queries = list(collection.queries.values())[:2]
    pairs = [(query, document) for query in queries for document in documents]
    scores = {}
    for precision in ("fp32", "bf16"):
        options = {"prompt": "prorank-short", "max_length": 96, "precision": precision, "device": "cpu"}
        scores[precision] = np.array(Reranker.from_pretrained("embedded", **options).score(pairs)).reshape(2, 15)
    for exact, rough in zip(scores["fp32"], scores["bf16"]):
        gap = exact[:, None] - exact[None, :]
        kept = (rough[:, None] > rough[None, :]) | (gap <= BF16_TOLERANCE * (exact.max() - exact.min()))
        assert kept.all()


def test_compiled_layers_give_the_same_scores(one_layer_folder, monkeypatch):
    expected = Reranker.from_pretrained(one_layer_folder, max_length=400, precision="fp32").score(
        [("apple", "river")] * 3
    )
    calls = []

    def backend(graph, _):
        calls.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    compiled = Reranker.from_pretrained(one_layer_folder, max_length=400, precision="fp32", compile_layers=True)
    np.testing.assert_allclose(compiled.score([("apple", "river")] * 3), expected, atol=1e-4)
    assert calls


_CACHE = {}


def cached(folder):
    if folder not in _CACHE:
        _CACHE[folder] = Reranker.from_pretrained(folder, prompt="prorank-short", max_length=128, precision="fp32")
    return _CACHE[folder]


def test_long_documents_are_cut_and_reported(reranker, caplog):
    with caplog.at_level(logging.WARNING):
        reranker.score([("river", "stone " * 5000), ("river", "stone")])
    assert "1 of 2 pairs were cut" in caplog.text


def test_a_saved_checkpoint_gives_the_same_scores(reranker, tmp_path):
    pairs = [("river", " ".join(WORDS[i : i + 4])) for i in range(8)]
    reranker.save_pretrained(tmp_path)
    again = Reranker.from_pretrained(tmp_path, precision="fp32")
    np.testing.assert_allclose(again.score(pairs), reranker.score(pairs), atol=1e-5)
    saved = json.loads((tmp_path / "prorank.json").read_text())
    assert saved["prompt"]["name"] == reranker.settings.prompt.name
    assert saved["answer_ids"] == reranker.tokenizer.answer_ids
    assert not list(tmp_path.glob("*.bin"))
    assert describe(tmp_path)["prorank checkpoint"] is True
    assert describe(tmp_path)["parameters"] > 1000


def test_broken_checkpoints_are_named(bert_folder, tmp_path):
    cached(bert_folder).save_pretrained(tmp_path)
    settings_file = tmp_path / "prorank.json"
    good = json.loads(settings_file.read_text())
    settings_file.write_text(json.dumps(good | {"answer_ids": [1, 2]}))
    with pytest.raises(CheckpointError, match="answer ids"):
        Reranker.from_pretrained(tmp_path)
    settings_file.write_text(json.dumps(good | {"family": "causul"}))
    with pytest.raises(CheckpointError, match=r"prorank.json: family"):
        Reranker.from_pretrained(tmp_path)
    settings_file.write_text(json.dumps(good))
    with pytest.raises(CheckpointError, match="brings its own prompt"):
        Reranker.from_pretrained(tmp_path, prompt="yesno")


def test_max_length_is_held_to_the_models_positions(bert_folder, caplog):
    with caplog.at_level(logging.WARNING):
        model = Reranker.from_pretrained(bert_folder, prompt="prorank-short", max_length=9999)
    assert model.settings.max_length == 128 and "beyond the model's 128 positions" in caplog.text


def test_prompt_that_does_not_fit_is_refused(bert_folder):
    with pytest.raises(PromptError, match="leaves no room"):
        Reranker.from_pretrained(bert_folder, prompt="prorank", max_length=40)


def test_instruction_reaches_the_model(qwen_folder):
    plain = Reranker.from_pretrained(qwen_folder, max_length=400, precision="fp32")
    told = Reranker.from_pretrained(qwen_folder, max_length=400, precision="fp32", instruction="prefer stones")
    assert plain.score([("a", "b")]) != told.score([("a", "b")])


def test_push_to_hub_uploads_a_whole_checkpoint(reranker, monkeypatch):
    import huggingface_hub

    uploaded = {}

    class Api:
        def __init__(self, token=None):
            uploaded["token"] = token

        def create_repo(self, repo_id, private, exist_ok):
            uploaded["private"] = private

        def upload_folder(self, repo_id, folder_path, commit_message):
            import os

            uploaded["files"] = set(os.listdir(folder_path))
            return f"https://example.org/{repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert reranker.push_to_hub("me/mine").endswith("me/mine")
    assert {"prorank.json", "config.json", "model.safetensors", "tokenizer.json", "README.md"} <= uploaded["files"]
    assert uploaded["private"] is True


def test_bf16_keeps_the_order_where_it_is_clear(bert_folder):
    pairs = [("river", " ".join(WORDS[i : i + 5])) for i in range(10)]
    exact = np.array(cached(bert_folder).score(pairs))
    rough = Reranker.from_pretrained(bert_folder, prompt="prorank-short", max_length=64, precision="bf16")
    scores = np.array(rough.score(pairs))
    clear = np.abs(exact[:, None] - exact[None]) > 4 * np.abs(exact - scores).max()
    assert (np.sign(scores[:, None] - scores[None]) == np.sign(exact[:, None] - exact[None]))[clear].all()


def test_tokenizer_is_not_left_changed(bert_folder):
    model = cached(bert_folder)
    model.score([("a [MASK]", "b")])
    assert model.backbone.tokenizer("[MASK]", add_special_tokens=False)["input_ids"] == [bert_tokenizer().mask_token_id]
    assert torch.is_grad_enabled()
