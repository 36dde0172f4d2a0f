"""Benchmarks in their own layouts: small hand-checked samples, as their authors publish the files."""

import json
import math
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank import Reranker
from prorank.data.collection import load_collection
from prorank.data.convert import convert
from prorank.evaluation.evaluator import evaluate_model, first_stage_lists
from prorank.evaluation.metrics import evaluate_run
from prorank.evaluation.p_mrr import p_mrr, rank_change
from prorank.util.errors import DataError, ProrankError


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def followir_files(tmp_path):
    source = tmp_path / "core17-instructions"
    lines(source / "corpus.jsonl", [{"_id": d, "title": "", "text": f"stone {d}"} for d in ("a", "b", "c")])
    query = {"_id": "310", "text": "radio waves", "keywords": "radio", "short_query": "radio"}
    instructions = {"instruction_og": "Any document.", "instruction_changed": "Only cancer."}
    lines(source / "queries.jsonl", [query | instructions])
    og, changed = {"a": 1.0, "b": 1.0, "c": 0.0}, {"a": 1.0, "b": 0.0, "c": 0.0}
    for name, judged in (("og", og), ("changed", changed)):
        rows = [{"query-id": "310", "corpus-id": d, "score": score} for d, score in judged.items()]
        lines(source / f"qrels_{name}" / "test.jsonl", rows)
    lines(source / "top_ranked.jsonl", [{"qid": "310", "pid": d} for d in ("c", "b", "a")])
    return source


def test_followir(followir_files, tmp_path, bert_folder, call):
    output = tmp_path / "followir"
    code, out, _ = call("data", "convert", "followir", followir_files, "--output", output)
    assert code == 0 and "prorank data check" in " ".join(out.split())
    loaded = load_collection(output, strict=True)
    assert loaded.queries == {"310-og": "radio waves Any document.", "310-changed": "radio waves Only cancer."}
    assert loaded.judgments("test") == {"310-og": {"a": 1, "b": 1, "c": 0}, "310-changed": {"a": 1, "b": 0, "c": 0}}
    assert loaded.candidates["test"] == {"310-og": ["c", "b", "a"], "310-changed": ["c", "b", "a"]}
    # b stood first and then last of three: it fell, 1 - 1/3
    run = {"310-og": {"b": 3.0, "a": 2.0, "c": 1.0}, "310-changed": {"a": 3.0, "c": 2.0, "b": 1.0}}
    assert p_mrr(run, loaded.judgments("test")) == {"310": pytest.approx(2 / 3)}
    Reranker(bert_folder, prompt="prorank-short", max_length=64).save_pretrained(tmp_path / "model")
    summary = evaluate_model(str(tmp_path / "model"), str(output), candidates=True)
    assert -1 <= summary["rows"][1]["p_mrr"] <= 1
    shown = call("evaluate", tmp_path / "model", output, "--candidates")[1]
    assert "p-MRR of reranked" in shown


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_rank_change_is_bounded_odd_and_has_the_sign_of_the_fall(before, after):
    change = rank_change(before, after)
    assert -1 < change < 1 and change == pytest.approx(-rank_change(after, before))
    assert (change > 0) == (after > before)


@pytest.fixture
def bright_files(tmp_path):
    source = tmp_path / "BRIGHT"

    def parquet(name, rows):
        file = source / name / "biology-00000-of-00001.parquet"
        file.parent.mkdir(parents=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)

    example = {"query": "why stone", "reasoning": "", "id": "0", "gold_answer": "x"}
    first = example | {"excluded_ids": ["a.txt"], "gold_ids_long": ["page"], "gold_ids": ["b.txt", "b.txt"]}
    second = example | {"id": "1", "excluded_ids": ["N/A"], "gold_ids_long": ["page"], "gold_ids": ["a.txt"]}
    parquet("examples", [first, second])
    parquet("documents", [{"id": f"{d}.txt", "content": f"why stone {d}"} for d in "abc"])
    parquet("long_documents", [{"id": "page", "content": "why stone a b c"}])
    return source


def test_bright(bright_files, tmp_path):
    convert("bright", bright_files, tmp_path / "biology", part="biology", long=False, force=False)
    loaded = load_collection(tmp_path / "biology", strict=True)
    assert loaded.judgments("test") == {"0": {"b.txt": 1}, "1": {"a.txt": 1}}
    assert loaded.excluded == {"0": ["a.txt"]}
    lists, _ = first_stage_lists(loaded, "test", loaded.judgments("test"), None, False, depth=2)
    assert set(lists["0"]) == {"b.txt", "c.txt"} and set(lists["1"]) == {"a.txt", "b.txt", "c.txt"}
    convert("bright", bright_files, tmp_path / "long", part="biology", long=True, force=False)
    assert load_collection(tmp_path / "long").judgments("test") == {"0": {"page": 1}, "1": {"page": 1}}


def test_bright_names_what_it_has(bright_files, tmp_path):
    with pytest.raises(ProrankError, match="--part biology"):
        convert("bright", bright_files, tmp_path / "o", part=None, long=False, force=False)
    with pytest.raises(DataError, match="--part takes biology"):
        convert("bright", bright_files, tmp_path / "o", part="pony", long=False, force=False)
    assert not (tmp_path / "o").exists() and not list(tmp_path.glob(".o*"))
    with pytest.raises(ProrankError, match="deletes only collections"):
        convert("bright", bright_files, bright_files, part="biology", long=False, force=True)
    assert (bright_files / "examples").is_dir()


@pytest.fixture
def dl_files(tmp_path):
    source = tmp_path / "dl"
    source.mkdir()
    (source / "msmarco-test2019-queries.tsv").write_text("7\twhat is stone\n8\tnot judged\n")
    (source / "2019qrels-pass.txt").write_text("7 Q0 p1 3\n7 Q0 p2 1\n7 Q0 p3 0\n7 Q0 p9 2\n")
    rows = [("7", p, "what is stone", f"text {p}") for p in ("p3", "p2", "p1")] + [("8", "p4", "not judged", "t")]
    (source / "msmarco-passagetest2019-top1000.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    return source


def test_trec_dl(dl_files, tmp_path):
    convert("trec-dl", dl_files, tmp_path / "lists", part=None, long=False, force=False)
    loaded = load_collection(tmp_path / "lists", strict=True)
    assert loaded.queries == {"7": "what is stone"}
    assert set(loaded.documents) == {"p1", "p2", "p3"}
    assert loaded.judgments("test") == {"7": {"p1": 3, "p2": 1, "p3": 0}}  # p9 is in no list
    (dl_files / "collection.tsv").write_text("".join(f"{p}\ttext {p}\n" for p in ("p1", "p2", "p3", "p9")))
    convert("trec-dl", dl_files, tmp_path / "lists", part="2019", long=False, force=True)
    qrels = load_collection(tmp_path / "lists", strict=True).judgments("test")
    assert qrels == {"7": {"p1": 3, "p2": 1, "p3": 0, "p9": 2}}
    run = {"7": {"p2": 3.0, "p1": 2.0, "p3": 1.0}}
    found = evaluate_run(run, qrels, relevant_from=2)
    gains = (1 / math.log2(2) + 3 / math.log2(3)) / (3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4))
    assert found.mean("ndcg@10") == pytest.approx(gains)  # graded whatever the level
    assert found.mean("mrr@10") == 0.5 and evaluate_run(run, qrels).mean("mrr@10") == 1.0
    assert found.mean("r@100") == 0.5  # p1 of p1 and p9


def test_bad_files_are_named(dl_files, followir_files, tmp_path):
    (dl_files / "2020qrels-pass.txt").write_text("7 Q0 p1\n")
    with pytest.raises(DataError, match="chooses a year"):
        convert("trec-dl", dl_files, tmp_path / "o", part=None, long=False, force=False)
    (dl_files / "2019qrels-pass.txt").write_text("7 Q0 p1 high\n")
    with pytest.raises(DataError, match=r"2019qrels-pass\.txt:1: score must be an integer"):
        convert("trec-dl", dl_files, tmp_path / "o", part="2019", long=False, force=False)
    (followir_files / "queries.jsonl").write_text('{"_id": "1", "text": "t"}\n')
    with pytest.raises(DataError, match=r"queries\.jsonl:1: 'instruction_og' is missing"):
        convert("followir", followir_files, tmp_path / "o", part=None, long=False, force=False)
    (followir_files / "queries.jsonl").unlink()
    with pytest.raises(DataError, match="no such file"):
        convert("followir", followir_files, tmp_path / "o", part=None, long=False, force=False)


def test_a_collection_is_replaced_whole_or_not_at_all(dl_files, tmp_path, monkeypatch):
    convert("trec-dl", dl_files, tmp_path / "lists", part=None, long=False, force=False)
    before = load_collection(tmp_path / "lists").fingerprint
    (dl_files / "2019qrels-pass.txt").write_text("7 Q0 p1 1\n")

    rename, named = Path.rename, []

    def stopped(self, target):
        named.append(Path(target).name)
        if named.count("lists") == 1 and named[-1] == "lists":  # the new one would take the name
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt):
        convert("trec-dl", dl_files, tmp_path / "lists", part=None, long=False, force=True)
    assert load_collection(tmp_path / "lists").fingerprint == before and not list(tmp_path.glob(".lists*"))
