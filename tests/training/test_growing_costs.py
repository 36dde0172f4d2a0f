"""Work must grow with what is asked for: the quick forms give what the plain ones gave."""

import itertools
import random
import string
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank.data.collection import Document, load_collection
from prorank.data.runs import ranked
from prorank.evaluation import significance
from prorank.evaluation.significance import bootstrap_interval
from prorank.first_stage.bm25 import BM25Index, best_documents, candidate_run
from prorank.training.context import Texts
from prorank.training.lists import forever, relevant_pairs
from prorank.warmup.pairs import LabelledPair, _exchanged, exchanged_pairs

IDS = st.text(string.ascii_lowercase, min_size=1, max_size=3)


@given(
    st.dictionaries(IDS, st.integers(-2, 2).map(float), max_size=20), st.integers(1, 25), st.sampled_from([-9.0, 0.0])
)
def test_the_best_documents_are_those_of_a_whole_sort(scores, top_k, above):
    whole = dict(ranked({d: s for d, s in scores.items() if s > above})[:top_k])
    found = best_documents(list(scores), np.array(list(scores.values())), top_k, above)
    assert list(found.items()) == list(whole.items())


def test_a_rare_term_does_not_touch_the_other_documents(monkeypatch):
    index = BM25Index.build({f"d{i}": Document(f"d{i}", "", "owl" if i == 7 else "moon") for i in range(50)}, "en")

    class Watched(list):
        def __getitem__(self, place):
            assert place == 7, "a document without the term was looked at"
            return super().__getitem__(place)

    monkeypatch.setattr(index, "_ids", Watched(index._ids))
    assert list(index.search({"q": "owl"}, top_k=20)["q"]) == ["d7"]


def pairs_by_popping(qrels, count, seed):
    """The plain form: a whole epoch at a time, negatives popped from the front of a list."""
    positives = relevant_pairs(qrels)
    pairs, endless = [], forever(positives, seed)
    while len(pairs) < count:
        order = [positive for _, positive in itertools.islice(endless, len(positives))]
        waiting = [document for _, document, _ in order[1:] + order[:1]]
        for query, document, _ in order:
            place = next((i for i, other in enumerate(waiting) if other not in qrels[query]), None)
            if place is not None:
                pairs.append(LabelledPair(query, document, True))
                pairs.append(LabelledPair(query, waiting.pop(place), False))
    return pairs[:count]


@given(
    st.dictionaries(
        st.integers(0, 9).map("q{}".format),
        st.dictionaries(st.integers(0, 9).map("d{}".format), st.integers(0, 2), min_size=1, max_size=5),
        min_size=2,
        max_size=8,
    ),
    st.integers(1, 40),
    st.integers(0, 3),
)
def test_exchanged_pairs_are_those_of_the_plain_form(qrels, count, seed):
    positives = relevant_pairs(qrels)
    used = {document for _, document, _ in positives}
    if all(used <= qrels[query].keys() for query, _, _ in positives):
        return
    assert exchanged_pairs(qrels, count, seed) == pairs_by_popping(qrels, count, seed)


@pytest.mark.parametrize("shared", [1, 9])
def test_documents_that_all_queries_share_are_passed_over_together(shared):
    looks = 0

    class Watched(frozenset):
        def __contains__(self, document):
            nonlocal looks
            looks += 1
            return super().__contains__(document)

    common = [f"s{j}" for j in range(shared)]
    qrels = {f"q{i}": dict.fromkeys([*common, f"d{i}"], 1) for i in range(60)}
    positives = relevant_pairs(qrels)
    random.Random(0).shuffle(positives)
    pairs = list(_exchanged(positives, {query: Watched(judged) for query, judged in qrels.items()}))
    assert len(pairs) == 60  # each query's own document once; nobody can take a shared one
    assert looks < len(positives) * (shared + 2)


def test_exchanged_pairs_draw_no_more_than_is_asked_for(monkeypatch):
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(1000)}
    made = []
    monkeypatch.setattr("prorank.warmup.pairs.LabelledPair", lambda *row: made.append(row) or LabelledPair(*row))
    assert len(exchanged_pairs(qrels, 10, seed=0)) == 10 and len(made) == 10


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 5))
def test_blocks_of_resamples_give_the_interval_of_single_ones(values, seed):
    generator = np.random.default_rng(seed)
    data = np.asarray(values)
    means = np.array([data[generator.integers(0, len(data), len(data))].mean() for _ in range(200)])
    expected = pytest.approx(np.quantile(means, [(1 - 0.95) / 2, (1 + 0.95) / 2]), abs=1e-12)
    assert bootstrap_interval(values, samples=200, seed=seed) == expected
    before = significance._DRAWS_AT_ONCE
    try:
        significance._DRAWS_AT_ONCE = 7 * len(data)  # blocks do not divide the samples
        assert bootstrap_interval(values, samples=200, seed=seed) == expected
    finally:
        significance._DRAWS_AT_ONCE = before


def test_candidates_of_all_splits_are_scored_by_one_index(word_collection, monkeypatch):
    collection = load_collection(word_collection)
    lists = {"dev": {"q24": ["d1", "d24"]}, "test": {"q30": ["d30", "d2"], "q31": []}}
    collection = replace(collection, candidates=lists)
    apart = candidate_run(collection, "dev") | candidate_run(collection, "test")
    built, build = [], BM25Index.build
    monkeypatch.setattr(BM25Index, "build", lambda *rest, **more: built.append(1) or build(*rest, **more))
    assert candidate_run(collection, "dev", "test") == apart and len(built) == 1


def test_texts_of_a_run_are_not_copied(word_collection):
    collection = load_collection(word_collection)
    texts = Texts(collection)
    assert dict(texts) == {d.id: d.content for d in collection.documents.values()} and "d0" in texts
    some = random.Random(0).choice(list(texts))
    assert texts[some] is collection.documents[some].content or texts[some] == collection.documents[some].content
