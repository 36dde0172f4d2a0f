"""Metrics, reranking, significance, hybrids and reports against hand-worked numbers and other libraries."""

import json
import math

import ir_measures
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank.data.collection import load_collection
from prorank.data.runs import ranked, rerank_run, top
from prorank.engine.scorer import ScoredPairs
from prorank.evaluation import plots, tables
from prorank.evaluation.hybrid import choose_weight
from prorank.evaluation.metrics import Evaluation, evaluate_run, write_evaluation
from prorank.evaluation.rerank import rerank_collection, row_of, sample_queries
from prorank.evaluation.significance import (
    binomial_above_chance,
    bootstrap_interval,
    compare,
    holm,
    paired_randomization_test,
)
from prorank.first_stage.fusion import hybrid_run, z_score
from prorank.prompts.truncation import Truncation
from prorank.util.errors import DataError, ProrankError

RUN = {"q1": {"a": 3.0, "b": 2.0, "c": 1.0}, "q2": {"a": 1.0, "d": 2.0}}
QRELS = {"q1": {"b": 2, "c": 1, "z": 1}, "q2": {"d": 1}}


def test_ndcg_and_mrr_by_hand():
    evaluation = evaluate_run(RUN, QRELS)
    dcg = 2 / math.log2(3) + 1 / math.log2(4)
    ideal = 2 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)
    assert evaluation.per_query["ndcg@10"]["q1"] == pytest.approx(dcg / ideal)
    assert evaluation.per_query["mrr@10"] == {"q1": 0.5, "q2": 1.0}
    assert evaluation.mean("mrr@10") == 0.75
    assert evaluation.per_query["r@100"]["q1"] == pytest.approx(2 / 3)


ids = st.sampled_from([f"d{i}" for i in range(12)])


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["q1", "q2", "q3"]), st.dictionaries(ids, st.integers(0, 50), min_size=1), min_size=1
    ),
    st.dictionaries(ids, st.integers(0, 3), min_size=1),
)
def test_metrics_equal_ir_measures_where_there_are_no_ties(scores, grades):
    grades["d0"] = 1
    run = {q: {d: s + int(d[1:]) / 100 for d, s in found.items()} for q, found in scores.items()}
    qrels = dict.fromkeys(("q1", "q2", "q3"), grades)
    ours = evaluate_run(run, qrels)
    direct = ir_measures.calc_aggregate([ir_measures.nDCG @ 10, ir_measures.RR @ 10, ir_measures.AP @ 100], qrels, run)
    assert ours.mean("ndcg@10") == pytest.approx(direct[ir_measures.nDCG @ 10])
    assert ours.mean("mrr@10") == pytest.approx(direct[ir_measures.RR @ 10])
    assert ours.mean("ap@100") == pytest.approx(direct[ir_measures.AP @ 100])


def test_missing_queries_count_as_zero_and_unjudged_ones_do_not_count():
    evaluation = evaluate_run({"q1": RUN["q1"], "other": {"a": 1.0}}, {**QRELS, "q3": {"a": 0}})
    assert evaluation.per_query["mrr@10"] == {"q1": 0.5, "q2": 0.0}
    assert evaluate_run({}, QRELS).mean("ndcg@10") == 0.0


def test_all_metrics_break_ties_alike():
    evaluation = evaluate_run({"q": {"b": 1.0, "a": 1.0, "c": 1.0}}, {"q": {"a": 1}})
    assert evaluation.mean("mrr@10") == evaluation.mean("ndcg@10") == evaluation.mean("p@1") == 1.0


def test_unknown_metrics_and_empty_judgments_are_named():
    with pytest.raises(ProrankError, match="did you mean nDCG@10"):
        evaluate_run(RUN, QRELS, ("nDGC@10",))
    with pytest.raises(DataError, match="no query"):
        evaluate_run(RUN, {"q": {"a": 0}})


@given(st.dictionaries(ids, st.floats(-5, 5), max_size=12), st.integers(1, 15))
def test_reranking_permutes_the_head_and_keeps_the_tail(first, depth):
    scores = {document: float(hash(document) % 7) for document in first}
    reranked = rerank_run({"q": first}, {"q": scores}, depth)["q"]
    assert set(reranked) == set(first)
    order, new = [d for d, _ in ranked(first)], [d for d, _ in ranked(reranked)]
    assert set(new[:depth]) == set(order[:depth])
    assert new[depth:] == order[depth:]
    assert new[:depth] == [d for d, _ in ranked({d: scores[d] for d in order[:depth]})]


def test_a_head_document_without_a_score_is_an_error():
    with pytest.raises(DataError, match="query 'q1', document 'b'"):
        rerank_run(RUN, {"q1": {"a": 1.0}}, 2)


def test_reranker_is_asked_for_the_head_only_and_sees_title_and_text(word_collection):
    collection = load_collection(word_collection)
    asked = []

    class Scorer:
        whole_lists = False

        def warn(self, found):
            pass

        def score_detailed(self, pairs, progress=None, lists=None):
            asked.extend(pairs)
            return ScoredPairs(np.array([float(len(document)) for _, document in pairs]), Truncation(0, 0))

    lists = {"q30": {"d30": 2.0, "d1": 1.0, "d2": 0.5}, "q31": {}}
    run = rerank_collection(Scorer(), collection, lists, 2)
    assert [document for _, document in asked] == [collection.documents[d].content for d in ("d30", "d1")]
    assert run["q31"] == {} and list(dict(ranked(run["q30"])))[-1] == "d2"


def test_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(1).beta(2, 3, 150)
    low, high = bootstrap_interval(values)
    theirs = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, random_state=0)
    assert (low, high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.004)
    assert bootstrap_interval(values) == (low, high)  # seeded
    with pytest.raises(DataError):
        bootstrap_interval([])


@pytest.mark.parametrize("size", [6, 10, 60])
def test_randomization_agrees_with_scipy(size):
    generator = np.random.default_rng(size)
    a = generator.normal(0.3, 1, size)
    b = generator.normal(0.0, 1, size)
    theirs = scipy.stats.permutation_test(
        (a, b), lambda x, y: (x - y).mean(), permutation_type="samples", n_resamples=20_000, random_state=1
    ).pvalue
    assert paired_randomization_test(a, b) == pytest.approx(theirs, abs=0.015)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.lists(st.floats(0, 1), min_size=20, max_size=20))
def test_randomization_is_symmetric_and_in_range(a, b):
    b = b[: len(a)]
    p = paired_randomization_test(a, b, samples=200)
    assert 0 < p <= 1
    if len(a) <= 12:
        assert p == pytest.approx(paired_randomization_test(b, a, samples=200))
    assert paired_randomization_test(a, a) == 1.0


def test_a_clear_difference_is_significant_and_never_zero():
    p = paired_randomization_test([1.0] * 50, [0.0] * 50)
    assert 0 < p < 0.001
    with pytest.raises(DataError, match="one length"):
        paired_randomization_test([1], [1, 2])


def test_binomial_and_holm():
    assert binomial_above_chance(8, 8) == pytest.approx(2**-8)
    assert binomial_above_chance(100, 200) > 0.5
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])


def test_compare_counts_wins_and_refuses_other_queries():
    a = Evaluation(("m",), {"m": {"x": 1.0, "y": 0.0, "z": 0.5}})
    b = Evaluation(("m",), {"m": {"z": 0.5, "y": 1.0, "x": 0.0}})
    result = compare(a, b, "m")
    assert (result.wins, result.ties, result.losses) == (1, 1, 1) and result.difference == 0
    assert result.p_value == 1.0 and result.low <= 0 <= result.high
    with pytest.raises(DataError):
        compare(a, Evaluation(("m",), {"m": {"x": 1.0}}), "m")


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=20))
def test_z_scores_have_mean_zero_and_spread_one(values):
    z = np.array(z_score(values))
    assert abs(z.mean()) < 1e-3
    assert np.allclose(z, 0) or z.std() == pytest.approx(1, abs=1e-3)


def test_hybrid_ends_are_the_two_systems():
    first = {"q": {"a": 3.0, "b": 2.0, "c": 1.0, "d": 0.5}}
    second = {"q": {"a": -1.0, "b": 5.0, "c": 9.0}}
    order = lambda run: [d for d, _ in ranked(run["q"])]  # noqa: E731
    assert order(hybrid_run(first, second, 1.0, 3)) == ["a", "b", "c", "d"]
    assert order(hybrid_run(first, second, 0.0, 3)) == ["c", "b", "a", "d"]
    weight = choose_weight(first, second, {"q": {"b": 1}}, 3)
    assert order(hybrid_run(first, second, weight, 3))[0] == "b"
    assert choose_weight(first, second, {"q": {"a": 1}}, 3) > 0.5


def test_samples_of_queries_do_not_depend_on_order():
    qrels = {f"q{i}": {"d": 1} for i in range(50)}
    some = sample_queries(qrels, 10, seed=3)
    assert set(some) == set(sample_queries(dict(reversed(qrels.items())), 10, seed=3)) and len(some) == 10
    assert set(some) != set(sample_queries(qrels, 10, seed=4))


def test_written_evaluations_read_back(tmp_path):
    evaluation = evaluate_run(RUN, QRELS)
    write_evaluation(tmp_path / "e", RUN, evaluation, {"x": 1})
    lines = (tmp_path / "e" / "per_query.tsv").read_text().splitlines()
    assert lines[0].split("\t")[:3] == ["query-id", "ndcg@10", "mrr@10"] and len(lines) == 3
    assert json.loads((tmp_path / "e" / "summary.json").read_text()) == {"x": 1}
    with pytest.raises(ProrankError, match="--force"):
        write_evaluation(tmp_path / "e", RUN, evaluation, {})
    assert top(RUN, 1) == {"q1": {"a": 3.0}, "q2": {"d": 2.0}}


@pytest.mark.pictures
def test_reports(tmp_path):
    baseline = evaluate_run(RUN, QRELS)
    better = evaluate_run({"q1": {"b": 3.0, "c": 2.0}, "q2": {"d": 1.0}}, QRELS)
    rows = [row_of("BM25", baseline), row_of("reranked", better, baseline)]
    assert rows[1]["difference"] == pytest.approx(rows[1]["ndcg@10"] - rows[0]["ndcg@10"])
    assert rows[1]["wins_ties_losses"] == [1, 1, 0]
    text = tables.markdown_table(rows)
    assert text.count("\n") == 3 and "| reranked | " in text and "+0." in text
    many = tables.markdown_report([{"collection": "c", "rows": rows}])
    assert many.count("| c |") == 2
    log = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "epoch": 1}, {"step": 2, "eval_format_rate": 0.5}]
    for name, plot in (("s", lambda p: plots.plot_stages(rows, p)), ("c", lambda p: plots.plot_curves(log, p))):
        plot(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"s.png", "c.png"}
    plots.plot_curves([], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
