"""Splits that would report wrong metrics: leakage, nothing relevant, ids that results cannot hold."""

import pytest
from conftest import write_collection

from prorank.data.collection import LEAK, UNWRITABLE, load_collection
from prorank.data.overlap import shared_queries
from prorank.data.splits import load_with_split, require_relevant
from prorank.recipe.loading import load_recipe
from prorank.recipe.sections import DataSection
from prorank.training.splits import run_splits, sound
from prorank.util.errors import DataError, RecipeError

DOCUMENTS = {f"d{i}": f"text {i}" for i in range(5)}
QUERIES = {
    "q1": "When do owls hunt",
    "q2": "how far is the moon",
    "q3": "when do  OWLS hunt",
    "q4": "mice",
    "q5": "sun",
}
LEAKING = {
    "train": {"q1": {"d1": 1}, "q4": {"d4": 1}},
    "dev": {"q2": {"d2": 1}},
    "test": {"q3": {"d3": 1}},
}
CLEAN = LEAKING | {"test": {"q5": {"d0": 1}}}


def collection(folder, qrels=LEAKING, queries=QUERIES, documents=DOCUMENTS):
    return load_collection(write_collection(folder, documents, queries, qrels))


def test_data_check_reports_training_queries_of_other_splits(tmp_path, call):
    loaded = collection(tmp_path / "c")
    assert [(p.kind, p.line) for p in loaded.problems] == [(LEAK, 1)]
    assert collection(tmp_path / "clean", CLEAN).problems == ()
    code, out, _ = call("data", "check", tmp_path / "c")
    assert code == 0 and "'q1' of train is 'q3' of test" in out
    code, _, err = call("data", "check", tmp_path / "c", "--strict")
    assert code == 2 and "1 doubtful entries" in err


def test_the_same_query_id_in_two_splits_is_reported(tmp_path):
    loaded = collection(tmp_path, CLEAN | {"dev": {"q4": {"d4": 1}}})
    assert [p.detail for p in loaded.problems] == ["'q4' of train is 'q4' of dev"]


def test_leaking_training_queries_are_refused_dropped_or_allowed(tmp_path):
    loaded = collection(tmp_path)
    with pytest.raises(DataError, match=r"1 training queries stand in dev or test too: 'q1' is 'q3' of test.*drop"):
        sound([loaded], DataSection())
    kept, found = sound([loaded], DataSection(leakage="drop"))
    assert list(kept[0].qrels["train"]) == ["q4"] and found == {"rule": "drop", "queries": 1}
    kept, found = sound([loaded], DataSection(leakage="allow"))
    assert kept[0].qrels == LEAKING and found == {"rule": "allow", "queries": 1}


def test_clean_splits_pass_unchanged(tmp_path):
    kept, found = sound([collection(tmp_path, CLEAN)], DataSection())
    assert kept[0].qrels == CLEAN and found == {"rule": "refuse", "queries": 0}


def test_leakage_between_the_collections_of_a_union_is_found(tmp_path):
    first = collection(tmp_path / "a", CLEAN)
    second = collection(tmp_path / "b", CLEAN, {**QUERIES, "q5": "MICE"})
    with pytest.raises(DataError, match="'q4' is 'q5' of test in b"):
        sound([first, second], DataSection())


def test_holding_out_documents_drops_their_queries(tmp_path):
    kept, found = sound([collection(tmp_path)], DataSection(hold_out_documents=True))
    assert list(kept[0].qrels["train"]) == ["q4"] and found["rule"] == "drop"


@pytest.mark.parametrize("names", [{"train": "test"}, {"train": "dev"}, {"dev": "test"}])
def test_one_split_in_two_places_is_refused(tmp_path, names):
    loaded = collection(tmp_path, CLEAN)
    with pytest.raises(DataError, match="are one split"):
        sound([loaded], DataSection(**names))
    assert sound([loaded], DataSection(**names, leakage="allow"))[0] == [loaded]


def test_a_query_in_dev_and_test_is_refused(tmp_path):
    with pytest.raises(DataError, match="'q2' stands in dev and in test"):
        sound([collection(tmp_path, CLEAN | {"test": {"q2": {"d2": 1}}})], DataSection())


def test_nothing_left_after_dropping_is_said(tmp_path):
    loaded = collection(tmp_path, LEAKING | {"train": {"q1": {"d1": 1}}})
    with pytest.raises(DataError, match="without queries of dev and test, has no relevant document"):
        sound([loaded], DataSection(leakage="drop"))


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_split_without_a_relevant_document_is_refused(tmp_path, split):
    loaded = collection(tmp_path, CLEAN | {split: {query: {"d0": 0} for query in CLEAN[split]}})
    with pytest.raises(DataError, match=f"split '{split}' of .* has no relevant document"):
        sound([loaded], DataSection())


def test_relevance_may_begin_above_one():
    require_relevant({"q": {"d": 2}}, "a", 2)
    with pytest.raises(DataError, match="a grade of at least 3"):
        require_relevant({"q": {"d": 2}}, "a", 3)


BAD_IDS = ["my doc", "tab\tbed", "d\u00a01", "d\x001", "d\x1b[31m", "\ufeffd1", "d\u2028"]


@pytest.mark.parametrize("bad", BAD_IDS)
@pytest.mark.parametrize("kind", ["document", "query"])
def test_ids_that_results_cannot_hold_are_found_before_any_work(tmp_path, bad, kind, call):
    documents, queries = {**DOCUMENTS, "d9": "more"}, dict(QUERIES)
    if kind == "document":
        documents[bad] = "odd"
    else:
        queries[bad] = "odd"
    folder = write_collection(tmp_path / "c", documents, queries, {**CLEAN, "test": {"q5": {"d0": 1}}})
    loaded = load_collection(folder)
    assert [p.kind for p in loaded.problems] == [UNWRITABLE]
    code, _, err = call("data", "check", folder, "--strict")
    assert code == 2 and UNWRITABLE in err
    if kind == "document":
        with pytest.raises(DataError, match="holds"):
            sound([loaded], DataSection())


def test_a_folder_name_that_becomes_part_of_ids_is_checked(tmp_path):
    with pytest.raises(DataError, match="'my data' holds a blank"):
        sound([collection(tmp_path / "my data", CLEAN)], DataSection())


@pytest.mark.parametrize("value", ["7", "-0.1", ".nan", ".inf", "1e999"])
def test_a_hybrid_weight_outside_0_to_1_is_refused_with_the_recipe(value):
    with pytest.raises(RecipeError, match="hybrid_weight"):
        load_recipe("quickstart", [f"evaluation.hybrid_weight={value}"])


def numbers(model, prefix=""):
    """Dotted names of all numeric fields of a recipe's sections."""
    for name, field in model.model_fields.items():
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        for option in options:
            if hasattr(option, "model_fields"):
                yield from numbers(option, f"{prefix}{name}.")
        if any(option in (int, float) for option in options):
            yield prefix + name


NUMBERS = sorted(set(numbers(type(load_recipe("quickstart")))))


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
def test_no_number_of_a_recipe_may_be_nan_or_infinite(key, value):
    with pytest.raises(RecipeError, match=key.rpartition(".")[2]):
        load_recipe("quickstart", [f"{key}={value}"])


def test_numbers_are_found():
    assert {"seed", "warmup.kl", "score_learning.teacher.temperature", "listwise.num_generations"} <= set(NUMBERS)


def test_shared_queries_prefers_the_same_id():
    assert shared_queries({"a": "x", "b": "x"}, ["a", "b"], ["b"]) == {"a": "b", "b": "b"}


def test_shipped_recipes_refuse_leakage_or_drop_it():
    from prorank.recipe.loading import shipped_recipes

    assert {load_recipe(name).data.leakage for name in shipped_recipes()} == {"refuse"}
    assert sound([collection_with_splits()], DataSection())[1]["queries"] == 0


def collection_with_splits():
    return load_with_split("cosqa", "dev")


def test_a_refused_run_leaves_no_folder(tmp_path, call):
    write_collection(tmp_path / "c", DOCUMENTS, QUERIES, LEAKING)
    arguments = ("train", "tune", f"data.collection={tmp_path / 'c'}", "--output", tmp_path / "run")
    code, _, err = call(*arguments)
    assert code == 2 and "data.leakage=drop" in err and not (tmp_path / "run").exists()
    code, _, err = call(*arguments, "data.leakage=drop", "score_learning.mined=absent.jsonl")
    assert code == 2 and "absent.jsonl" in err and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "text", ["  WHEN do owls   hunt ?", "“When do owls hunt”", "when, do owls hunt...", "when do owls hunt？"]
)
def test_queries_that_differ_in_marks_and_case_are_the_same(text):
    assert shared_queries({"a": "when do owls hunt", "b": text}, ["a"], ["b"]) == {"a": "b"}


def test_queries_that_differ_in_a_sign_are_not_the_same():
    texts = dict(enumerate(["what is c++", "what is c#", "what is c", "???", "!"]))
    for one in texts:
        assert shared_queries(texts, [one], [other for other in texts if other != one]) == {}


def test_a_mistyped_split_of_a_collection_too_small_to_split_is_told_by_its_name(tmp_path):
    (tmp_path / "col" / "qrels").mkdir(parents=True)
    (tmp_path / "col" / "corpus.jsonl").write_text('{"_id": "d", "text": "an owl"}\n')
    (tmp_path / "col" / "queries.jsonl").write_text('{"_id": "q", "text": "owl"}\n')
    (tmp_path / "col" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    with pytest.raises(DataError, match=r"col has no split 'nope' \(it has test; "):
        load_with_split(str(tmp_path / "col"), "nope")
    with pytest.raises(DataError, match="col has no split 'nope'"):
        run_splits(load_recipe("quickstart", ["data.dev=nope"]), [load_collection(tmp_path / "col")])
    with pytest.raises(DataError, match="too few judged queries"):
        load_with_split(str(tmp_path / "col"), "dev")
