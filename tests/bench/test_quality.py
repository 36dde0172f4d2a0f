"""Many collections in one table: lists, rivals, adjusted tests, and what is not measured twice."""

import json
import shutil

import pytest
from transformers import AutoTokenizer

from prorank import Reranker
from prorank.bench.quality import adjusted, passage_seconds, passage_texts
from prorank.bench.tables import quality_rows
from prorank.cli.main import app
from prorank.data.collection import load_collection
from prorank.data.trec import read_run
from prorank.evaluation.evaluator import evaluate_model
from prorank.shipped import FOLDERS


@pytest.fixture(scope="module")
def own_lists(word_collection, tmp_path_factory):
    """The same collection with candidate lists of its own: four documents a test query."""
    folder = tmp_path_factory.mktemp("own") / "listed"
    shutil.copytree(word_collection, folder)
    (folder / "candidates").mkdir()
    loaded = load_collection(folder)
    everything = list(loaded.documents)
    lines = ["query-id\tcorpus-id"]
    for query, judged in loaded.judgments("test").items():
        ids = [*judged, *[d for d in everything if d not in judged][:3]]
        lines += [f"{query}\t{document}" for document in ids]
    (folder / "candidates" / "test.tsv").write_text("\n".join(lines) + "\n")
    return folder


def test_all_stages_rerank_the_same_lists(own_lists, bert_folder, encoder_folder, tmp_path):
    summary = evaluate_model(
        str(bert_folder),
        str(own_lists),
        candidates=True,
        dense=str(encoder_folder),
        hybrid=0.2,
        prompt="prorank-short",
        max_length=64,
        output=tmp_path / "out",
    )
    assert [row["stage"] for row in summary["rows"]] == ["candidates (BM25)", "bi-encoder", "reranked", "hybrid"]
    runs = [read_run(tmp_path / "out" / stage / "run.trec") for stage in ("bi-encoder", "reranked", "hybrid")]
    lists = load_collection(own_lists).candidates["test"]
    for run in runs:
        assert {query: set(documents) for query, documents in run.items()} == {q: set(d) for q, d in lists.items()}
    dense, reranked = summary["rows"][1], summary["rows"][2]
    assert summary["versus_dense"]["difference"] == pytest.approx(reranked["ndcg@10"] - dense["ndcg@10"])


def test_bench_measures_each_collection_once(
    own_lists,
    word_collection,
    bert_folder,
    encoder_folder,
    tmp_path,
    call,
    monkeypatch,
):
    checkpoint = tmp_path / "checkpoint"
    Reranker(bert_folder, prompt="prorank-short", max_length=64).save_pretrained(checkpoint)
    command = ["bench", "quality", word_collection, own_lists, "-m", checkpoint, "--dense", encoder_folder]
    command += ["--work", tmp_path / "work", "--depth", 5, "--output", tmp_path / "quality.json"]
    code, out, err = call(*command)
    assert code == 0, err
    found = json.loads((tmp_path / "quality.json").read_text())
    firsts = [summary["rows"][0]["stage"] for summary in found["collections"]]
    assert firsts == ["BM25", "candidates (BM25)"]
    assert found["adjusted"] == adjusted(found["collections"])
    assert all(len(cells) == 8 for cells in quality_rows(found))
    assert call(*command)[0] == 2  # the file is there

    def refuse(*_, **__):
        raise AssertionError("measured twice")

    monkeypatch.setattr("prorank.bench.quality.evaluate_model", refuse)
    code, out, _ = call(*command, "--force", "--markdown")
    assert code == 0 and out.count("\n") == 4 and out.startswith("| collection |")
    other = [*command[:-1], tmp_path / "other.json"]
    for option, value in (("--hybrid", 0.5), ("--max-queries", 4), ("--max-length", 40), ("--depth", 4)):
        code, _, err = call(*other, option, value)
        assert code == 2 and "other settings" in err and f"{option[2:].replace('-', '_')}: " in err
    with pytest.raises(AssertionError, match="measured twice"):  # --force starts over
        monkeypatch.setattr("prorank.cli.main.main", lambda: app(standalone_mode=False))
        call(*other, "--hybrid", 0.5, "--force")


@pytest.mark.parametrize("folder", ["bert_folder", "qwen_folder", "prorank-mini-multilingual"])
def test_passages_are_as_long_as_said_in_every_vocabulary(folder, request):
    path = FOLDERS[folder] if folder in FOLDERS else request.getfixturevalue(folder)
    tokenizer = AutoTokenizer.from_pretrained(path)
    texts = passage_texts(tokenizer, 4, 50)
    for text in texts:
        assert 50 <= len(tokenizer(text, add_special_tokens=False)["input_ids"]) <= 53


def test_passages_are_timed_with_their_length(bert_folder):
    found = passage_seconds(Reranker(bert_folder, prompt="prorank-short", max_length=64), 3, 20, repeats=3)
    assert found["passages"] == 3 and 20 < found["tokens_of_a_pair"] <= 64
    assert 0 < found["least_seconds"] <= found["median_seconds"]
