"""A collection's own candidate lists: whatever has none is said wherever lists are read, and refused where all do."""

import json
import shutil

import pytest
from rich.console import Console
from tiny_runs import tiny

from prorank.data.collection import load_collection
from prorank.pipeline.run import first_stage_row, run_recipe
from prorank.training.context import prepare_data
from prorank.util.errors import DataError

SPLITS = ("train", "dev", "test")


@pytest.fixture
def with_lists(word_collection, tmp_path):
    """A function that writes a copy of the collection with lists for each split's queries but the first so many."""

    def write(name="c", **without):
        folder = shutil.copytree(word_collection, tmp_path / name)
        (folder / "candidates").mkdir()
        for split, count in without.items():
            queries = list(load_collection(folder).judgments(split))[count:]
            rows = [f"{query}\td{i}\n" for query in queries for i in range(0, 60, 6)]
            (folder / "candidates" / f"{split}.tsv").write_text("query-id\tcorpus-id\n" + "".join(rows))
        return folder

    return write


def prepared(folder, bert_folder, tmp_path, **changes):
    recipe = tiny(bert_folder, folder, first_stage__method="candidates", **changes)
    return prepare_data(recipe, tmp_path / "run", Console(quiet=True))


def test_a_recipe_is_refused_where_no_measured_query_has_candidates(with_lists, word_collection, bert_folder, tmp_path):
    for folder in (word_collection, with_lists(train=0), with_lists("empty", test=10)):
        with pytest.raises(DataError, match=r"no candidates for a query of dev or test.*first_stage.method=bm25"):
            run_recipe(tiny(bert_folder, folder, first_stage__method="candidates"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("without", "said", "label"),
    [
        ({"train": 0, "dev": 0, "test": 0}, {}, "candidates (BM25)"),
        ({"test": 0}, {"train": "24 of 24", "dev": "6 of 6"}, "candidates (BM25)"),
        ({"train": 0, "dev": 0, "test": 3}, {"test": "3 of 10"}, "candidates (BM25), 3 lists of BM25"),
        ({"dev": 0}, {"train": "24 of 24", "test": "10 of 10"}, "BM25"),
    ],
)
def test_a_recipe_says_whose_lists_bm25_makes(with_lists, bert_folder, tmp_path, caplog, without, said, label):
    context = prepared(with_lists(**without), bert_folder, tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        f"c: {said[split]} queries of split '{split}' have no candidates; BM25 makes their lists"
        for split in SPLITS
        if split in said
    ]
    assert first_stage_row(context)["stage"] == label


def test_every_command_that_reads_candidates_tells_queries_that_they_lack(with_lists, bert_folder, tmp_path, call):
    part, none = with_lists("all/part", test=4), with_lists("none", test=10)
    form = ("evaluate", bert_folder, "--prompt", "prorank-short", "--depth", 2)
    lacks = "candidates/test.tsv of part lacks 4 of 10 judged queries; they score 0"
    code, out, err = call(*form, part, "--candidates", "--json")
    assert code == 0 and lacks in " ".join(err.split()) and json.loads(out)["queries"] == 10
    code, _, err = call(*form, none, "--candidates")
    assert code == 2 and "candidates/test.tsv of none holds none of the 10 judged queries" in err
    for output in ("first", "kept"):  # the second finds the first stage's run in the cache
        code, _, err = call(*form, tmp_path / "all", "--suite", "open", "--output", tmp_path / output)
        assert code == 0 and lacks in " ".join(err.split())


def test_candidates_that_stand_twice_are_doubtful_and_kept_once(with_lists):
    folder = with_lists(test=0)
    before = load_collection(folder)
    file = folder / "candidates" / "test.tsv"
    first = file.read_text().splitlines()[1]
    file.write_text(f"{file.read_text()}{first}\n")
    after = load_collection(folder)
    (problem,) = after.problems
    assert problem.kind == "second candidate of a pair" and problem.line == 102
    assert after.candidates == before.candidates and after.fingerprint == before.fingerprint
