"""A training step beside sentence-transformers: both learn from the same lists, in processes of their own."""

import json

import pytest
import torch
import transformers
from conftest import SIZE, bert_tokenizer, save

from prorank.bench import step, step_worker
from prorank.data.collection import load_collection
from prorank.util.errors import DataError


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Measure in this process: what the workers were told."""
    told = []

    def measured(worker, spec, what):
        told.append(spec)
        (tmp_path / "spec.json").write_text(json.dumps(spec))
        step_worker.main(str(tmp_path / "spec.json"), str(tmp_path / "result.json"))
        return json.loads((tmp_path / "result.json").read_text())

    monkeypatch.setattr(step, "measured_alone", measured)
    return told


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_both_libraries_train_on_the_same_lists(kind, here, request, word_collection, tmp_path, call):
    model = request.getfixturevalue({"masked": "bert_folder", "causal": "qwen_folder"}[kind])
    arguments = ("--queries", 2, "--documents", 3, "--length", 256, "--steps", 2, "--lora", "0,4", "--device", "cpu")
    code, out, err = call(
        "bench", "step", model, "--collection", word_collection, *arguments, "--output", tmp_path / "step.json"
    )
    assert code == 0, err
    found = json.loads((tmp_path / "step.json").read_text())
    assert [(row["contender"], row["lora"]) for row in found["rows"]] == [
        (name, rank) for rank in (0, 4) for name in step.CONTENDERS
    ]
    assert all(len(row["all_seconds"]) == 3 and row["seconds"] > 0 for row in found["rows"])
    ours, theirs = found["rows"][:2]
    assert found["speed_ratio"]["0"] == pytest.approx(theirs["seconds"] / ours["seconds"])
    assert all(one["lists"] == here[0]["lists"] for one in here)
    assert [len(documents) for _, documents, _ in here[0]["lists"]] == [3, 3]
    assert f"every weight | {ours['seconds']:.2f} | {theirs['seconds']:.2f} |" in out and "| LoRA 4 |" in out


def test_what_cannot_be_measured_is_refused(word_collection, tmp_path, call):
    code, _, err = call("bench", "step", "embedded", "--lora=-1")
    assert code == 2 and "1 or more, or 0" in err
    torch.manual_seed(1)
    config = transformers.BertConfig(vocab_size=len(bert_tokenizer()), num_labels=1, **SIZE)
    folder = save(transformers.BertForSequenceClassification(config), bert_tokenizer(), tmp_path / "classifier")
    code, _, err = call("bench", "step", folder, "--collection", word_collection, "--queries", 2, "--documents", 3)
    assert code == 2 and "is a classifier" in err


def test_too_few_queries_are_told(word_collection):
    with pytest.raises(DataError, match=r"of 1000 queries find 3 documents"):
        step.lists_of_texts(load_collection(word_collection), 1_000, 3)
