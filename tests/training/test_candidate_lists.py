import itertools

import pytest
from conftest import write_collection

from prorank.data.collection import load_collection
from prorank.recipe.sections import Quotas
from prorank.score_learning.lists import pseudo_queries, pseudo_query
from prorank.training.lists import CandidateList, build_candidate_lists, forever
from prorank.util.errors import DataError
from prorank.warmup.pairs import balanced_pairs


@pytest.fixture
def graded(tmp_path):
    documents = {f"d{i}": f"word{i} common" for i in range(20)} | {"e1": "twin", "e2": "twin"}
    qrels = {"train": {"q": {"d0": 3, "d1": 2, "d2": 1, "d3": 0, "d4": 0}}, "test": {"p": {"d9": 1}}}
    return load_collection(write_collection(tmp_path, documents, {"q": "common", "p": "word9"}, qrels))


RUN = {"q": {f"d{i}": 20.0 - i for i in range(12)}}


def test_lists_have_one_size_and_hold_only_lower_grades(graded):
    lists = build_candidate_lists(graded, graded.judgments("train"), RUN, Quotas(hard=3, medium=1, random=2), seed=1)
    assert [one.documents[0] for one in lists] == ["d0", "d1", "d2"]  # one for each positive judgment
    judged = graded.judgments("train")["q"]
    for one in lists:
        assert len(one.documents) == len(set(one.documents)) == 7
        assert one.labels == tuple(judged.get(d, 0) for d in one.documents)
        assert all(label < one.labels[0] for label in one.labels[1:])
        assert sum(d in judged for d in one.documents[1:]) >= 2  # judged ones are used


def test_the_draw_depends_on_the_seed_alone(graded):
    draw = lambda seed: build_candidate_lists(graded, graded.judgments("train"), RUN, Quotas(), seed)  # noqa: E731
    assert draw(1) == draw(1) != draw(2)


def test_short_tiers_are_filled_up(graded):
    (one,) = build_candidate_lists(graded, graded.judgments("test"), {}, Quotas(hard=4, random=1), seed=1)
    assert len(one.documents) == 8 and one.labels == (1, 0, 0, 0, 0, 0, 0, 0)


def test_too_few_documents_are_an_error(graded):
    with pytest.raises(DataError, match="too few"):
        build_candidate_lists(graded, graded.judgments("train"), RUN, Quotas(hard=30), seed=1)
    with pytest.raises(DataError, match="no relevant document"):
        build_candidate_lists(graded, {"q": {"d0": 0}}, RUN, Quotas(), seed=1)


def test_pairs_are_balanced_in_every_step():
    lists = [CandidateList(f"q{i}", "x", (f"p{i}", f"n{i}", f"m{i}"), (2, 0, 0)) for i in range(3)]
    pairs = balanced_pairs(lists, 20, seed=4)
    assert len(pairs) == 20 and pairs == balanced_pairs(lists, 20, seed=4)
    for start in range(0, 20, 4):
        assert sum(pair.relevant for pair in pairs[start : start + 4]) == 2
    assert all(pair.document_id[0] == ("p" if pair.relevant else pair.document_id[0]) for pair in pairs)
    assert {pair.document_id for pair in pairs if not pair.relevant} & {"m0", "m1", "m2"}  # negatives change


def test_every_list_comes_once_an_epoch():
    lists = [CandidateList(f"q{i}", "x", ("p",), (1,)) for i in range(5)]
    seen = list(itertools.islice(forever(lists, 1), 15))
    for epoch in range(3):
        part = [one.query_id for at, one in seen if at == epoch]
        assert sorted(part) == [f"q{i}" for i in range(5)]
    assert len({tuple(g.query_id for _, g in seen[i : i + 5]) for i in (0, 5, 10)}) > 1


@pytest.mark.parametrize(
    ("title", "text", "query"),
    [
        ("", "Owls hunt at night. They see well.", "Owls hunt at night"),
        ("A title of words", "text", "A title of words"),
        ("泡泡战士的历史记录", "长文本", "泡泡战士的历史记录"),
        ("", "def f():\n    '''Sort a list in place.\n\n    More.'''", "Sort a list in place"),
        ("", "nothing", None),
        ("", "", None),
    ],
)
def test_pseudo_queries_from_documents(title, text, query):
    assert pseudo_query(title, text) == query


def test_shared_titles_and_held_documents_are_not_used(tmp_path):
    folder = write_collection(tmp_path, {"a": "x", "b": "y", "c": "z"}, {"q": "x"}, {"test": {"q": {"a": 1}}})
    rows = ['{"_id": "a", "title": "one title for both", "text": "first piece here. More."}']
    rows += ['{"_id": "b", "title": "one title for both", "text": "second piece here. More."}']
    rows += ['{"_id": "c", "title": "a title of its own", "text": "third piece here. More."}']
    (folder / "corpus.jsonl").write_text("\n".join(rows))
    found = pseudo_queries(load_collection(folder), 10, 1, {"b": None})
    assert found == {"a": "first piece here", "c": "a title of its own"}
