import json
import logging

import numpy as np
import pytest
import torch
from conftest import WORDS, bert_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank import Reranker
from prorank.checkpoint import describe
from prorank.engine import length_batches, score_pairs, slot_logits
from prorank.errors import CheckpointError, PromptError
from prorank.reranker import document_text


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
    together = score_pairs(reranker.backbone, reranker.tokenizer, pairs).scores
    reranker.backbone.token_budget = 1
    small = score_pairs(reranker.backbone, reranker.tokenizer, pairs).scores
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


_CACHE = {}


def cached(folder):
    if folder not in _CACHE:
        _CACHE[folder] = Reranker.from_pretrained(folder, prompt="prorank-short", max_length=64, precision="fp32")
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
