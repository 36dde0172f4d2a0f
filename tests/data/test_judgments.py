"""Judgments: both forms in which they are written, and the grades that they may hold."""

import gzip
import json

import pytest
from conftest import write_collection

from prorank.data.collection import load_collection
from prorank.data.trec import read_qrels
from prorank.util.errors import DataError

HEADER = "query-id\tcorpus-id\tscore\n"


def judged(folder, **rows):
    """A collection of two documents and two queries whose splits hold these rows."""
    write_collection(folder, {"d1": "Owls hunt.", "d2": "Cats sleep."}, {"q1": "who hunts", "q2": "who sleeps"}, {})
    for split, text in rows.items():
        (folder / "qrels" / f"{split}.tsv").write_text(HEADER + text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "text",
    ["q 0 d 2\nq 0 e 0\n", HEADER + "q\td\t2\nq\te\t0\n", "query_id\tdoc_id\tscore\nq\td\t2\nq\te\t0\n"],
    ids=["trec", "beir", "underscores"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_both_forms_of_qrels(tmp_path, text, packed):
    path = tmp_path / ("a.gz" if packed else "a")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert read_qrels(path) == {"q": {"d": 2, "e": 0}}


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("1_0", "an integer, got '1_0'"),
        ("\u0663", "an integer, got '\u0663'"),
        ("+1", "an integer"),
        ("2147483647", "at most 1000, got 2147483647"),
        ("-1001", "at least -1000"),
        ("9" * 5000, "at most 1000"),
    ],
    ids=["underscore", "another script", "plus", "time", "below", "digits"],
)
def test_grades_that_are_not_plain_or_too_large_are_refused_with_their_line(tmp_path, call, cell, message):
    folder = judged(tmp_path / "a", test=f"q1\td1\t{cell}\n")
    with pytest.raises(DataError, match=rf"test\.tsv:2: score must be {message}"):
        load_collection(folder)
    code, _, err = call("data", "check", folder)
    assert code == 2 and "test.tsv:2: score must be" in err


@pytest.mark.parametrize("cell", ["0", "-1000", "1000", "001", "2 "])
def test_plain_grades_within_the_bound_are_read(tmp_path, cell):
    loaded = load_collection(judged(tmp_path / "a", test=f"q1\td1\t{cell}\n"))
    assert loaded.judgments("test") == {"q1": {"d1": int(cell)}}


@pytest.mark.parametrize("rows", ["", "q1\td1\t0\n", "q1\td1\t-1\nq2\td2\t0\n", "zz\td1\t1\n"])
def test_a_split_that_nothing_can_be_measured_on_is_doubtful(tmp_path, call, rows):
    folder = judged(tmp_path / "a", test=rows, train="q1\td2\t1\n")
    code, out, _ = call("data", "check", folder)
    assert code == 0 and "a/qrels/test.tsv:1: split without a relevant document" in " ".join(out.split())
    assert "judge a document with a grade of at least 1" in out and "qrels/train" not in out
    code, _, err = call("data", "check", folder, "--strict")
    assert code == 2 and "split without a relevant document" in err
    (folder / "qrels" / "test.tsv").write_text("")  # not even a header
    with pytest.raises(DataError, match="split without a relevant document"):
        load_collection(folder, strict=True)


def test_queries_that_no_metric_counts_are_counted(tmp_path, call, bert_folder):
    folder = judged(tmp_path / "all" / "a", test="q1\td1\t1\nq2\td1\t0\n")
    code, out, _ = call("data", "check", folder, "--json")
    assert code == 0 and json.loads(out)["splits"]["test"]["queries_without_relevant"] == 1
    assert "without a relevant document" in call("data", "check", folder)[1]
    said = "1 judged query without a relevant document: left out of the means"
    form = ("evaluate", bert_folder, "--prompt", "prorank-short", "--depth", 2)
    code, out, err = call(*form, folder, "--output", tmp_path / "one")
    assert code == 0 and said in " ".join(out.split()), err
    found = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert (found["queries"], found["queries_without_relevant"]) == (1, 1)
    code, _, err = call(*form, tmp_path / "all", "--suite", "open", "--output", tmp_path / "suite")
    assert code == 0 and said in " ".join(err.split())
    (found,) = json.loads((tmp_path / "suite" / "suite.json").read_text())["collections"]
    assert (found["queries"], found["queries_without_relevant"]) == (1, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q 0 d x\n", "a:1: score must be an integer"),
        ("q 0 d 1\nq 0 e 1700000000\n", "a:2: score must be at most 1000"),
        ("q 0 d 1\nq 0 d 0\n", "a:2: document 'd' is judged twice for query 'q'"),
    ],
)
def test_malformed_qrels(tmp_path, text, message):
    (tmp_path / "a").write_text(text)
    with pytest.raises(DataError, match=message):
        read_qrels(tmp_path / "a")
