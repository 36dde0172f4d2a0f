"""Documents that are the query itself (ArguAna, Quora): said, left out on demand, never a negative."""

import json

import pytest
from conftest import write_collection

from prorank.data.collection import QUERY_DOCUMENT, load_collection
from prorank.data.overlap import own_documents, without_query_documents
from prorank.data.trec import read_run
from prorank.evaluation.evaluator import first_stage_lists
from prorank.first_stage.bm25 import candidate_run
from prorank.first_stage.mining import mine_negatives
from prorank.recipe.loading import load_recipe
from prorank.recipe.sections import Quotas
from prorank.training.context import prepare_data
from prorank.training.lists import build_candidate_lists
from prorank.util.errors import DataError
from prorank.warmup.pairs import exchanged_pairs

TEXTS = {
    "a1": "Owls hunt at night because mice are awake then.",
    "a2": "Owls do not hunt at night only; mice are about in daylight too.",
    "a3": "The moon is far away.",
    "a4": "Mice sleep while owls do.",
    "a5": "Foxes hunt mice at night as owls do.",
}
QUERIES = {"a1": TEXTS["a1"], "a2": TEXTS["a2"], "q3": TEXTS["a3"], "q4": "how far is the moon"}
QRELS = {"test": {"a1": {"a2": 1}, "a2": {"a1": 1}, "q3": {"a4": 1}, "q4": {"a3": 1}}}


@pytest.fixture
def folder(tmp_path):
    return write_collection(tmp_path / "c", TEXTS, QUERIES, QRELS)


def test_data_check_says_which_queries_are_documents_and_what_to_do(folder, call):
    assert [p.detail for p in load_collection(folder).problems if p.kind == QUERY_DOCUMENT] == [
        "'a1' is document 'a1'",
        "'a2' is document 'a2'",
        "'q3' is document 'a3'",
    ]
    code, out, _ = call("data", "check", folder)
    assert code == 0 and "excluded.tsv" in out and "--exclude-query-document" in out
    (folder / "excluded.tsv").write_text("query-id\tcorpus-id\na1\ta1\na2\ta2\nq3\ta3\n")
    assert load_collection(folder, strict=True).problems == ()


def test_namesakes_of_another_text_are_nothing_special(tmp_path):
    folder = write_collection(tmp_path, {"1": "owls hunt", "2": "moon"}, {"1": "who"}, {"test": {"1": {"1": 1}}})
    assert load_collection(folder, strict=True).problems == ()


def test_a_document_that_is_judged_relevant_is_no_accident():
    from prorank.data.collection import Document

    documents = {"d": Document("d", "Owls", "hunt")}
    assert own_documents({"q": "Owls hunt"}, documents) == {"q": ["d"]}
    assert own_documents({"q": "Owls hunt"}, documents, [{"q": {"d": 1}}]) == {}


def test_every_first_stage_leaves_the_namesake_out(folder, tmp_path):
    (folder / "candidates").mkdir()
    (folder / "candidates" / "test.tsv").write_text("query-id\tcorpus-id\na1\ta1\na1\ta2\n")
    loaded = load_collection(folder)
    clean, qrels = without_query_documents(loaded), loaded.judgments("test")
    (tmp_path / "a.run").write_text("a1 Q0 a1 1 3.0 x\na1 Q0 a2 2 2.0 x\n")
    for run_file, candidates in ((None, False), (None, True), (tmp_path / "a.run", False)):
        before = first_stage_lists(loaded, "test", qrels, run_file, candidates, 10)[0]["a1"]
        after = first_stage_lists(clean, "test", qrels, run_file, candidates, 10)[0]["a1"]
        assert next(iter(before)) == "a1" and set(before) - set(after) == {"a1"}
    assert "a1" not in candidate_run(clean, "test")["a1"]


def test_evaluate_and_search_take_the_option(folder, qwen_folder, tmp_path, call):
    def first(*options):
        code, out, _ = call("evaluate", qwen_folder, folder, "--json", *options)
        assert code == 0
        return json.loads(out)

    plain, clean = first(), first("--exclude-query-document")
    assert clean["rows"][0]["mrr@10"] > plain["rows"][0]["mrr@10"]
    assert (plain["exclude_query_document"], clean["exclude_query_document"]) == (False, True)
    assert call("index", folder, "--output", tmp_path / "i")[0] == 0
    search = ("search", tmp_path / "i", "--collection", folder, "--output")
    assert call(*search, tmp_path / "a.run")[0] == call(*search, tmp_path / "b.run", "--exclude-query-document")[0] == 0
    assert "a1" in read_run(tmp_path / "a.run")["a1"] and "a1" not in read_run(tmp_path / "b.run")["a1"]


def test_the_query_itself_is_never_mined(folder, tmp_path, call):
    quotas = ("--hard", "10", "--random", "5")
    assert call("data", "mine", folder, "--split", "test", "--output", tmp_path / "m.jsonl", *quotas)[0] == 0
    rows = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    mined = {row["query_id"]: row["negatives"] for row in rows}
    assert set(mined["a1"]) == {"a3", "a4", "a5"} and set(mined["q3"]) == {"a1", "a2", "a5"}


def test_a_namesake_of_another_text_is_not_mined_with_the_option(folder, tmp_path, call):
    queries = QUERIES | {"a5": "what do foxes eat"}
    folder = write_collection(tmp_path / "d", TEXTS, queries, {"test": QRELS["test"] | {"a5": {"a1": 1}}})
    mined = []
    for options in ((), ("--exclude-query-document",)):
        output = tmp_path / f"{len(options)}.jsonl"
        arguments = ("--split", "test", "--output", output, "--hard", "10", "--random", "9", *options)
        assert call("data", "mine", folder, *arguments)[0] == 0
        rows = map(json.loads, output.read_text().splitlines())
        mined.append(next(row["negatives"] for row in rows if row["query_id"] == "a5"))
    assert "a5" in mined[0] and "a5" not in mined[1]


def test_excluded_documents_are_no_negatives():
    run = {"q": {"q": 3.0, "a": 2.0, "b": 1.0}}
    mined = mine_negatives(
        run, {"q": {"b": 1}}, {"hard": 5}, random_documents=["q", "c"], random=5, excluded={"q": ["q"]}
    )
    assert set(mined.negatives["q"]) == {"a", "c"}


def test_training_lists_hold_no_query_as_its_own_negative(folder):
    loaded = load_collection(folder)
    qrels = loaded.judgments("test")
    for seed in range(10):
        for group in build_candidate_lists(loaded, qrels, {}, Quotas(hard=1, medium=0, easy=0, random=1), seed):
            assert group.query not in [loaded.documents[d].content for d in group.documents]


def test_exchanged_negatives_hold_no_query_itself():
    qrels = {"a1": {"a2": 1}, "a2": {"a1": 1}, "q4": {"a3": 1}}
    barred = {"a1": ["a1"], "a2": ["a2"]}
    pairs = exchanged_pairs(qrels, 40, seed=0, barred=barred)
    assert len(pairs) == 40
    assert not any(pair.document_id in barred.get(pair.query_id, ()) for pair in pairs if not pair.relevant)
    with pytest.raises(DataError, match="no query has a negative"):
        exchanged_pairs({"a1": {"a2": 1}, "a2": {"a1": 1}}, 4, seed=0, barred=barred)


def test_a_recipe_excludes_them_too(tmp_path):
    splits = {"train": {"a1": {"a2": 1}}, "dev": {"a2": {"a1": 1}}, "test": {"q4": {"a3": 1}}}
    folder = write_collection(tmp_path / "c", TEXTS, QUERIES, splits)
    from rich.console import Console

    for wanted in (False, True):
        recipe = load_recipe("tune", [f"data.collection={folder}", f"data.exclude_query_document={wanted}"])
        context = prepare_data(recipe, tmp_path / str(wanted), Console(quiet=True))
        assert ("a1" in context.first_stage["a1"]) is not wanted
        assert context.leakage == {"rule": "refuse", "queries": 0}
