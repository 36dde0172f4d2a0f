"""A file of `prorank data mine` is trained on: its queries, its negatives, every mistake with its line."""

import json

import pytest
from rich.console import Console

from prorank.data.collection import load_collection
from prorank.recipe.loading import load_recipe
from prorank.score_learning.lists import labelled_sources, list_items
from prorank.training.context import prepare_data
from prorank.training.mined import read_mined
from prorank.util.errors import DataError, RecipeError


@pytest.fixture
def mined(word_collection, tmp_path, call):
    def run(*options):
        quotas = ("--hard", "2", "--medium", "1", "--easy", "0", "--random", "1")
        output = tmp_path / "mined.jsonl"
        assert call("data", "mine", word_collection, "--output", output, "--force", *quotas, *options)[0] == 0
        return output

    return run


def prepared(word_collection, folder, file, console=None):
    small = ["score_learning.steps=30", "score_learning.pseudo_queries=0", "score_learning.teacher=null"]
    quotas = "score_learning.negatives={hard: 2, medium: 1, easy: 0, random: 1}"
    recipe = load_recipe("tune", [f"data.collection={word_collection}", f"score_learning.mined={file}", quotas, *small])
    return prepare_data(recipe, folder, console or Console(quiet=True))


@pytest.mark.parametrize("options", [(), ("--texts",)])
def test_mined_negatives_fill_the_training_lists(word_collection, tmp_path, mined, options, bert_folder):
    file = mined(*options)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    if options:
        assert set(rows[0]["negatives"][0]) == {"id", "title", "text"}
    context = prepared(word_collection, tmp_path / "run", file)
    (source,) = labelled_sources(context)
    wanted = {row["query_id"]: [item["id"] if options else item for item in row["negatives"]] for row in rows}
    assert source.negatives == wanted and all(len(ids) == 4 for ids in wanted.values())
    from prorank.reranker import Reranker

    tokenizer = Reranker(bert_folder, prompt="prorank-short").pair_tokenizer
    loaded = load_collection(word_collection)
    lists = {
        tuple(sorted(map(tuple, tokenizer.encode([(loaded.queries[q], loaded.documents[d].content) for d in ids])[0])))
        for q, ids in wanted.items()
    }
    for item in list_items(context, tokenizer):
        assert tuple(sorted(map(tuple, item.sequences[1:]))) in lists  # exactly the file's negatives


def test_only_the_mined_queries_are_trained_on(word_collection, tmp_path, mined):
    file = mined()
    lines = file.read_text().splitlines()
    test_row = json.dumps({"query_id": "q31", "positives": ["d31"], "negatives": ["d1"]})
    file.write_text("\n".join([*lines[:3], test_row]))
    console = Console(record=True, width=200)
    context = prepared(word_collection, tmp_path / "run", file, console)
    (source,) = labelled_sources(context)
    assert list(source.qrels) == [json.loads(line)["query_id"] for line in lines[:3]]
    assert "1 of 4 mined queries are no training queries" in console.export_text()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", ":2: expected an object"),
        ("{", ":2: not valid JSON"),
        ('{"positives": [], "negatives": []}', ":2: 'query_id' must be a string"),
        ('{"query_id": "absent", "positives": ["d2"], "negatives": []}', ":2: query 'absent' is not in"),
        ('{"query_id": "q2", "positives": "d2", "negatives": []}', ":2: 'positives' must be a list"),
        ('{"query_id": "q2", "positives": ["d2"]}', ":2: 'negatives' must be a list"),
        ('{"query_id": "q2", "positives": ["d2"], "negatives": [7]}', ":2: 'negatives' must hold ids"),
        ('{"query_id": "q2", "positives": ["d2"], "negatives": ["x"]}', ":2: document 'x' is not in"),
        ('{"query_id": "q2", "positives": ["d2"], "negatives": ["d2"]}', ":2: document 'd2' is positive and negative"),
        ('{"query_id": "q2", "positives": [], "negatives": ["d3"]}', ":2: query 'q2' has no positive"),
        ('{"query_id": "q1", "positives": ["d1"], "negatives": ["d3"]}', ":2: a second line for query 'q1'"),
    ],
)
def test_malformed_lines_are_refused_with_their_line(word_collection, tmp_path, line, message):
    (tmp_path / "m.jsonl").write_text('{"query_id": "q1", "positives": ["d1"], "negatives": ["d3"]}\n' + line + "\n")
    with pytest.raises(DataError, match=message):
        read_mined(tmp_path / "m.jsonl", load_collection(word_collection))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"query_id": "q1", "positives": ["d2"], "negatives": ["d1"]}', "'d1' of query 'q1' is judged relevant"),
        ('{"query_id": "q31", "positives": ["d31"], "negatives": ["d1"]}', "none of its 1 queries"),
        ("", "no mined query"),
    ],
)
def test_a_file_that_does_not_fit_the_judgments_is_refused(word_collection, tmp_path, line, message):
    (tmp_path / "m.jsonl").write_text(line)
    with pytest.raises(DataError, match=message):
        labelled_sources(prepared(word_collection, tmp_path / "run", tmp_path / "m.jsonl"))


def test_a_union_takes_no_mined_file():
    with pytest.raises(RecipeError, match=r"does not go with data\.union"):
        load_recipe("prorank-mini", ["score_learning.mined=m.jsonl"])
