"""Cascades: the order of levels, what is read, and equality with reading in full."""

import json

import numpy as np
import pytest
from conftest import WORDS
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import tiny

from prorank import Reranker
from prorank.bench.toy import write_collection
from prorank.data.collection import load_collection
from prorank.engine.cascade import cascade_scores
from prorank.evaluation import cascade as choosing
from prorank.evaluation import streaming
from prorank.evaluation.rerank import rerank_collection
from prorank.first_stage.cached import cached_first_stage
from prorank.model.cascade import Cascade
from prorank.model.checkpoint import read_settings
from prorank.pipeline.run import run_recipe
from prorank.util.errors import CheckpointError, DataError, InputError

QUERY = "river stone"
DOCUMENTS = [" ".join(WORDS[(i * 7 + j) % len(WORDS)] for j in range(4 + i % 9)) for i in range(30)]
TWICE = Cascade(tokens=(2, 4), shares=(0.5, 0.2), at_least=3)


@pytest.fixture(scope="module")
def reranker(bert_folder):
    return Reranker(bert_folder, prompt="prorank-short", max_length=64, precision="fp32", device="cpu")


@given(st.data())
def test_every_list_is_ordered_by_how_far_its_documents_were_read(data):
    groups = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=40))
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=len(groups), max_size=len(groups)))
    drawn = st.lists(st.floats(-9, 9, width=32), min_size=len(groups), max_size=len(groups))
    by = {tokens: np.array(data.draw(drawn), dtype=np.float32) for tokens in (2, 4, None)}
    for tokens in (2, 4):  # what is read whole has one score
        short = np.array(lengths) <= tokens
        by[tokens][short] = by[None][short]
    last: dict[int, int | None] = {}

    def read(places, tokens):
        for place in places:
            assert place not in last or lengths[place] > (last[place] or 99)  # nothing is read again in vain
            last[place] = tokens
        return by[tokens][places]

    found = cascade_scores(TWICE, groups, lengths, read)
    assert sorted(last) == list(range(len(groups)))
    for group in set(groups):
        own = [place for place, other in enumerate(groups) if other == group]
        whole = [p for p in own if last[p] is None or lengths[p] <= last[p]]
        assert len(whole) >= min(len(own), TWICE.at_least)
        np.testing.assert_array_equal(found[whole], by[None][whole])
        if len(own) <= TWICE.at_least or sum(lengths[place] for place in own) < 2 * 2 * len(own):
            assert all(last[place] is None for place in own)
        full = [found[place] for place in own if last[place] is None]
        for tokens in (2, 4):
            part = [place for place in own if last[place] == tokens and lengths[place] > tokens]
            assert not part or not full or max(found[part]) < min(full)
            order = np.argsort(by[tokens][part], kind="stable")
            assert np.all(np.diff(found[part][order]) >= 0)  # one pass keeps its own order


def test_a_list_by_hand():
    opening = np.array([5.0, 4.0, 3.0, 2.0, 1.0], dtype=np.float32)
    full = np.array([-2.0, 9.0, 1.0, 7.0, 8.0], dtype=np.float32)
    asked = []

    def read(places, tokens):
        asked.append((places, tokens))
        return (full if tokens is None else opening)[places]

    found = cascade_scores(Cascade(tokens=(8,), shares=(0.6,), at_least=1), [0] * 5, [20] * 5, read)
    assert asked == [([0, 1, 2, 3, 4], 8), ([0, 1, 2], None)]
    np.testing.assert_allclose(found, [-2, 9, 1, -2, -3], atol=1e-5)  # two openings moved below -2, one apart
    assert found[0] > found[3] > found[4]


def test_ranking_by_a_cascade_agrees_with_its_readings(reranker):
    narrow = Reranker(reranker.backend, reranker.tokenizer, reranker.settings, cascade=TWICE)
    exact = reranker.score([(QUERY, document) for document in DOCUMENTS])
    found = narrow.score([(QUERY, document) for document in DOCUMENTS])
    best = [result["corpus_id"] for result in narrow.rank(QUERY, DOCUMENTS)][:6]
    np.testing.assert_allclose([found[i] for i in best], [exact[i] for i in best], atol=1e-4)  # a fifth in full
    told = narrow.score_detailed([(QUERY, document) for document in DOCUMENTS])
    assert len(DOCUMENTS) < told.read < 2 * len(DOCUMENTS)
    everything = narrow.reading(Cascade(tokens=(2,), shares=(0.5,), at_least=len(DOCUMENTS)))
    assert everything.score([(QUERY, document) for document in DOCUMENTS]) == pytest.approx(exact, abs=1e-4)
    assert narrow.reading(False).score([(QUERY, DOCUMENTS[0])]) == pytest.approx(exact[:1], abs=1e-4)


def test_two_queries_are_two_lists(reranker):
    narrow = reranker.reading(TWICE)
    pairs = [(query, document) for document in DOCUMENTS for query in (QUERY, "apple tiger")]
    together = narrow.score(pairs)
    for place, query in enumerate((QUERY, "apple tiger")):
        alone = narrow.score([(query, document) for document in DOCUMENTS])
        assert together[place::2] == pytest.approx(alone, abs=1e-4)


def test_lists_are_told_apart_by_their_numbers_and_not_by_their_queries_texts(reranker):
    narrow = reranker.reading(TWICE)
    parts = DOCUMENTS[:15], DOCUMENTS[15:]
    alone = [score for part in parts for score in narrow.score([(QUERY, document) for document in part])]
    pairs = [(QUERY, document) for document in DOCUMENTS]
    told = narrow.score_detailed(pairs, lists=[0] * 15 + [1] * 15).scores
    np.testing.assert_allclose(told, alone, atol=1e-4)
    assert narrow.score(pairs) != pytest.approx(alone, abs=1e-4)  # without numbers they are one list
    exact = reranker.score_detailed(pairs).scores
    np.testing.assert_array_equal(reranker.score_detailed(pairs, lists=[0] * 15 + [1] * 15).scores, exact)
    with pytest.raises(InputError, match=r"29 list numbers for 30 pairs .*one for each pair"):
        narrow.score_detailed(pairs, lists=[0] * 29)


@pytest.mark.parametrize(("block", "most"), [(2_000, 4_000), (10, 4_000), (2_000, 10)])
def test_a_runs_lists_do_not_depend_on_queries_of_the_same_text_nor_on_where_blocks_end(
    reranker, tmp_path, monkeypatch, block, most
):
    documents = {f"d{i}": document for i, document in enumerate(DOCUMENTS)}
    queries = {"a": QUERY, "b": QUERY, "c": "apple tiger"}
    folder = write_collection(tmp_path / "same", documents, queries, {"test": {q: {"d1": 1} for q in queries}})
    collection, narrow = load_collection(folder), reranker.reading(TWICE)
    lists = {q: {f"d{i + 5 * n}": float(-i) for i in range(20)} for n, q in enumerate(queries)}
    monkeypatch.setattr(streaming.blocks, "__defaults__", (block,))
    monkeypatch.setattr(streaming, "MOST", most)
    together = rerank_collection(narrow, collection, lists, 20)
    for query, listed in lists.items():
        alone = {r["corpus_id"]: r["score"] for r in narrow.rank(queries[query], [documents[d] for d in listed])}
        assert [together[query][d] for d in listed] == pytest.approx([alone[i] for i in range(20)], abs=1e-4)


def test_what_makes_no_cascade_is_refused(reranker, bert_folder):
    with pytest.raises(CheckpointError, match="no cascade was chosen"):
        reranker.rank(QUERY, DOCUMENTS, cascade=True)
    with pytest.raises(InputError, match="passages and a cascade"):
        Reranker(bert_folder, prompt="prorank-short", max_length=64, passages="max", cascade=TWICE)
    flat, falling = (0.2, 0.2), (0.5, 0.2)
    for tokens, shares in (((4, 2), falling), ((2,), falling), ((2,), (1.0,)), ((0,), (0.5,)), ((2, 4), flat)):
        with pytest.raises(ValueError, match=r"rise|share"):
            Cascade(tokens=tokens, shares=shares)


@pytest.fixture(scope="module")
def long_collection(tmp_path_factory):
    """Sixty documents of twenty words; each query is a document's first three."""
    drawn = np.random.default_rng(3).integers(len(WORDS), size=(60, 20))
    documents = {f"d{i}": " ".join(WORDS[word] for word in row) for i, row in enumerate(drawn)}
    queries = {f"q{i}": " ".join(documents[f"d{i}"].split()[:3]) for i in range(30)}
    assert len(set(queries.values())) == 30
    qrels = {"dev": {f"q{i}": {f"d{i}": 1} for i in range(15)}, "test": {f"q{i}": {f"d{i}": 1} for i in range(15, 30)}}
    return write_collection(tmp_path_factory.mktemp("long"), documents, queries, qrels)


@pytest.fixture
def checkpoint(reranker, tmp_path):
    reranker.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_command_chooses_measures_and_saves(checkpoint, long_collection, tmp_path, call, monkeypatch):
    tried = [Cascade(tokens=(1,), shares=(share,), at_least=2) for share in (0.9, 0.3)]
    monkeypatch.setattr(choosing, "candidates", lambda: iter(tried))
    words = ("cascade", checkpoint, long_collection, "--depth", 30, "--loss", 1)
    code, out, err = call(*words, "--output", tmp_path / "found.json", "--save")
    assert code == 0, err
    found = json.loads((tmp_path / "found.json").read_text())
    chosen = Cascade(**found["cascade"])
    (row,) = found["collections"]
    assert chosen == tried[1]  # the one that reads less
    assert 0 < row["tokens_read"] < 1 and row["change"]["low"] <= row["change"]["difference"] <= row["change"]["high"]
    assert row["cascade"] - row["exact"] == pytest.approx(found["change"]["value"])
    assert f"{chosen.tokens[0]} tokens of each, then the best {chosen.shares[0]:.0%}" in out
    loaded = Reranker(checkpoint, cascade=True)
    assert loaded.cascade == chosen
    assert [r["corpus_id"] for r in Reranker(checkpoint).rank(QUERY, DOCUMENTS, cascade=True)] == [
        r["corpus_id"] for r in loaded.rank(QUERY, DOCUMENTS)
    ]


def test_played_back_is_what_a_reranker_reads(reranker, long_collection):
    collection = load_collection(long_collection)
    qrels = collection.judgments("test")
    lists = cached_first_stage(collection, "test", qrels, 100, False)
    readings = choosing.Readings(reranker, collection, lists, qrels, "words")
    cascade = Cascade(tokens=(1, 2), shares=(0.5, 0.2), at_least=2)
    scores, read = readings.played(cascade)
    directly = reranker.reading(cascade).score_detailed(readings.texts, lists=readings.groups)
    np.testing.assert_allclose(scores, directly.scores, atol=1e-4)
    assert 0 < read < readings.tokens == sum(map(len, reranker.tokenizer.encode(readings.texts)[0]))
    assert readings.exact.mean("ndcg@10") == readings.metrics(readings.read(list(range(len(scores))), None)[0]).mean(
        "ndcg@10"
    )


def test_a_loss_that_no_cascade_keeps_is_said(reranker, long_collection, word_collection, monkeypatch):
    monkeypatch.setattr(choosing, "candidates", lambda: iter([Cascade(tokens=(1,), shares=(0.1,), at_least=1)]))
    with monkeypatch.context() as patch:
        patch.setattr(choosing, "_changes", lambda readings, found: [-0.5])
        with pytest.raises(DataError, match=r"fewer tokens and loses at most 0.1 .*the nearest reads 0"):
            choosing.measure_cascade(reranker, [str(long_collection)], loss=0.1, depth=30)
    monkeypatch.setattr(choosing, "candidates", lambda: iter([Cascade(tokens=(2,), shares=(0.9,), at_least=2)]))
    with pytest.raises(DataError, match=r"no cascade that was tried reads fewer tokens"):  # documents of three words
        choosing.measure_cascade(reranker, [str(word_collection)], loss=1, depth=30)


def test_a_run_chooses_its_checkpoints_cascade(bert_folder, long_collection, tmp_path, monkeypatch):
    tried = Cascade(tokens=(2,), shares=(0.3,), at_least=2)
    monkeypatch.setattr(choosing, "candidates", lambda: iter([tried]))
    recipe = tiny(bert_folder, long_collection, evaluation={"cascade_loss": 1.0, "rerank_depth": 30}, warmup=None)
    run_recipe(recipe, tmp_path / "run")
    assert Reranker(tmp_path / "run" / "checkpoint", cascade=True).cascade == tried
    assert read_settings(str(tmp_path / "run" / "score-learning" / "model")).cascade is None
