"""The engine asks little of what reads pairs: anything that gives it scores, and the rest is refused in plain words."""

from contextlib import nullcontext

import pytest
import torch

from prorank import Reranker
from prorank.engine.scorer import answer_logits
from prorank.model.backbone import Backbone
from prorank.model.classifier import ClassifierBackbone
from prorank.model.sharing import ModelLock
from prorank.util.errors import CheckpointError


class Counting:
    """A backend without a model: the longer a pair, the more relevant."""

    supports_packing, position_offset, token_budget = False, 0, None
    device, compute_dtype = torch.device("cpu"), torch.float32

    def __init__(self, model):
        self.tokenizer, self.config, self.family = model.tokenizer, model.config, model.family
        self.lock = ModelLock()

    def inference(self):
        return nullcontext()

    def read(self, work, rows):
        length = work.attention_mask.sum(-1).float()
        return torch.stack([0 * length, length], -1)


@pytest.fixture
def counting(bert_folder):
    loaded = Reranker(bert_folder, prompt="prorank-short", max_length=64)
    return Reranker(Counting(loaded.backbone), loaded.tokenizer, loaded.settings)


def test_whatever_reads_pairs_ranks_documents(counting):
    found = counting.rank("river", ["stone", "stone cloud tiger", "stone cloud"])
    assert [result["corpus_id"] for result in found] == [1, 2, 0]
    assert counting.score([("river", "stone cloud")])[0] - counting.score([("river", "stone")])[0] == 1.0


def test_what_only_reads_is_neither_trained_nor_saved(counting, tmp_path):
    with pytest.raises(CheckpointError, match="cannot be saved again or trained"):
        counting.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    counting.tokenizer.stem = 0
    with pytest.raises(CheckpointError, match="answers of one token each"):
        answer_logits(counting.backend, counting.tokenizer, [[1, 2]])


def test_a_language_model_and_a_classifier_read_alike(bert_folder, tmp_path):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(bert_folder, num_labels=1)
    model.save_pretrained(tmp_path)
    language = Reranker(bert_folder, prompt="prorank-short", max_length=64)
    language.backbone.tokenizer.save_pretrained(tmp_path)
    classifier = Reranker(tmp_path, max_length=64)
    assert type(language.backbone) is Backbone and type(classifier.backbone) is ClassifierBackbone
    batch = classifier.tokenizer.collate(classifier.tokenizer.encode([("river", "stone")])[0])
    with torch.inference_mode():
        logits = classifier.backend.read(batch, None)
    assert logits.shape == (1, 2) and logits[0, 0] == 0.0
    assert classifier.score([("river", "stone")]) == pytest.approx([logits[0, 1].item()], abs=1e-5)
    classifier.save_pretrained(tmp_path / "saved")
    again = Reranker(tmp_path / "saved")
    assert again.score([("river", "stone")]) == pytest.approx(classifier.score([("river", "stone")]), abs=1e-6)
