"""Collections by name: ir_datasets' ids, hub data sets in their own layouts, all from small files in place."""

import json
from pathlib import Path

import huggingface_hub
import ir_datasets
import pyarrow
import pyarrow.parquet
import pytest

from prorank.data import benchmarks, hub
from prorank.data.collection import load_collection
from prorank.evaluation.evaluator import first_stage_lists
from prorank.util.errors import DataError


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """register(name, **parts): a data set of files in ir_datasets' registry."""
    registry = ir_datasets.util.Registry()
    monkeypatch.setattr(ir_datasets, "registry", registry)
    kinds = {
        "docs": ir_datasets.formats.TsvDocs,
        "queries": ir_datasets.formats.TsvQueries,
        "qrels": lambda file: ir_datasets.formats.TrecQrels(file, {}),
        "lists": ir_datasets.formats.TrecScoredDocs,
    }

    def register(name, **texts):
        parts = []
        for kind, text in texts.items():
            file = tmp_path / f"{name.replace('/', '-')}-{kind}"
            file.write_text(text)
            parts.append(kinds[kind](ir_datasets.util.LocalDownload(file)))
        registry.register(name, ir_datasets.datasets.base.Dataset(*parts))

    return register


DOCS, QUERIES, QRELS = "d1\tred stone\nd2\tblue river\nd3\tgreen tree\n", "q1\tstone\n", "q1 0 d1 2\nq1 0 d2 -1\n"


def test_an_id_of_ir_datasets_is_a_collection(registered, call):
    registered("toy/test", docs=DOCS, queries=QUERIES, qrels=QRELS)
    loaded = load_collection("irds:toy/test", strict=True)
    assert loaded.name == "irds:toy/test" and loaded.queries == {"q1": "stone"}
    assert {d.id: d.content for d in loaded.documents.values()}["d2"] == "blue river"
    assert loaded.judgments("test") == {"q1": {"d1": 2, "d2": 0}}  # grades below 0 count as 0
    code, out, err = call("evaluate", "prorank-mini", "irds:toy/test", "--depth", 2)
    assert code == 0 and "BM25" in out and "reranked" in out, err


def test_splits_below_an_id_are_its_splits(registered):
    registered("toy", docs=DOCS, queries=QUERIES)
    registered("toy/train", docs=DOCS, queries=QUERIES, qrels=QRELS)
    registered("toy/validation", docs=DOCS, queries="q2\tgreen\n", qrels="q2 0 d3 1\n")
    loaded = load_collection("irds:toy", strict=True)
    assert sorted(loaded.qrels) == ["dev", "train"] and loaded.queries == {"q1": "stone", "q2": "green"}


def test_official_lists_alone_are_read_where_that_is_asked_for(registered):
    lists = "q1 Q0 d1 1 5.0 x\nq1 Q0 d2 2 4.0 x\n"
    registered("toy/judged", docs=DOCS, queries=QUERIES, qrels=QRELS, lists=lists)
    assert set(load_collection("irds:toy/judged").documents) == {"d1", "d2", "d3"}
    loaded = load_collection("irds-lists:toy/judged", strict=True)
    assert set(loaded.documents) == {"d1", "d2"} and loaded.candidates == {"test": {"q1": ["d1", "d2"]}}
    found, name = first_stage_lists(loaded, "test", loaded.judgments("test"), None, True, 10)
    assert name == "candidates (BM25)" and set(found["q1"]) == {"d1", "d2"}


def test_unknown_and_empty_ids_are_told(registered):
    registered("toy", docs=DOCS, queries=QUERIES)
    with pytest.raises(DataError, match="no such id"):
        load_collection("irds:absent")
    with pytest.raises(DataError, match="no documents or no judgments"):
        load_collection("irds:toy")


def parquet(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


def test_a_network_that_fails_is_told_with_the_id(registered, monkeypatch):
    def load(name):
        raise ConnectionError("no\nroute")

    monkeypatch.setattr(ir_datasets, "load", load)
    with pytest.raises(DataError, match="irds:toy/test: ir_datasets could not get its files: no route"):
        load_collection("irds:toy/test")


def test_bright_and_followir_are_read_from_their_authors_files(tmp_path, monkeypatch):
    asked = []

    def download(name, repo_type, allow_patterns):
        asked.append((name, repo_type, allow_patterns))
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(benchmarks, "on_hub", lambda name, kind: name)
    example = {"id": "0", "query": "why", "gold_ids": ["b"], "gold_ids_long": ["p"], "excluded_ids": ["a"]}
    parquet(tmp_path / "xlangai/BRIGHT/examples/pony-00000-of-00001.parquet", [example])
    parquet(tmp_path / "xlangai/BRIGHT/documents/pony-00000-of-00001.parquet", [{"id": d, "content": d} for d in "ab"])
    loaded = load_collection("bright:pony", strict=True)
    assert loaded.judgments("test") == {"0": {"b": 1}} and loaded.excluded == {"0": ["a"]}
    assert asked == [("xlangai/BRIGHT", "dataset", ["examples/pony-*", "documents/pony-*"])]

    source = Path(tmp_path / "jhu-clsp/core17-instructions")
    rows = {"corpus.jsonl": [{"_id": "a", "text": "stone"}], "top_ranked.jsonl": [{"qid": "1", "pid": "a"}]}
    rows["queries.jsonl"] = [{"_id": "1", "text": "t", "instruction_og": "o", "instruction_changed": "c"}]
    rows |= {f"qrels_{x}/test.jsonl": [{"query-id": "1", "corpus-id": "a", "score": 1.0}] for x in ("og", "changed")}
    for name, lines in rows.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    loaded = load_collection("followir:core17", strict=True)
    assert loaded.queries == {"1-og": "t o", "1-changed": "t c"} and loaded.candidates["test"]["1-og"] == ["a"]


CONFIGS = "---\nconfigs:\n{}---\n"
CONFIG = '- config_name: {0}\n  data_files:\n  - split: {1}\n    path: "{0}/*.parquet"\n'


@pytest.mark.parametrize(
    ("layout", "splits", "judgment"),
    [
        ("nano-beir", ("train", "train", "train"), {}),  # no scores
        ("chinese", ("dev", "dev", "dev"), {"score": 1.0}),
        ("code", ("corpus", "queries", "test"), {"score": 1}),
    ],
)
def test_hub_layouts_load_by_the_package_datasets(layout, splits, judgment, tmp_path, monkeypatch):
    names, folder = ("corpus", "queries", "qrels" if layout == "nano-beir" else "default"), tmp_path / "data"
    rows = ([{"_id": "d", "text": "石头", "title": ""}], [{"_id": "q", "text": "石"}])
    judged = [{"query-id": "q", "corpus-id": "d", **judgment}]
    for name, lines in zip(names, (*rows, judged)):
        parquet(folder / name / "part.parquet", lines)
    folder.joinpath("README.md").write_text(CONFIGS.format("".join(map(CONFIG.format, names, splits))))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    files = hub.hub_files(str(folder))
    assert [row["text"] for _, _, row in files.corpus] == ["石头"] and [r["_id"] for _, _, r in files.queries] == ["q"]
    assert {split: [cells for _, _, cells in lines] for split, lines in files.qrels.items()} == {
        splits[2]: [["q", "d", "1"]]
    }
