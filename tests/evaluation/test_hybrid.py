"""Edges of hybrids that test_evaluation.py leaves out: normalisation, ranges, hand-worked mixtures."""

import math

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from prorank.data.runs import ranked
from prorank.evaluation.hybrid import choose_weight
from prorank.evaluation.metrics import evaluate_run
from prorank.first_stage.fusion import hybrid_run, min_max, z_score
from prorank.util.errors import DataError

numbers = st.lists(st.integers(-1000, 1000).map(lambda i: i / 8), max_size=20)


@given(numbers)
def test_normalisations_keep_the_order_and_do_not_see_scale_or_shift(values):
    for normalise in (z_score, min_max):
        normal = normalise(values)
        assert normalise([4 * value + 16 for value in values]) == pytest.approx(normal, abs=1e-9)
        for i, x in enumerate(values):
            assert all((normal[i] < normal[j]) == (x < y) for j, y in enumerate(values))


@given(st.floats(-1e6, 1e6), st.integers(0, 9))
def test_constant_lists_give_zeros(value, count):
    assert z_score([value] * count) == min_max([value] * count) == [0.0] * count


def test_z_score_equals_scipy_and_keeps_small_differences():
    assert z_score([3.0, 1.0, 7.5, 2.0]) == pytest.approx(scipy.stats.zscore([3.0, 1.0, 7.5, 2.0]))
    assert z_score([1e-15, 3e-15]) == pytest.approx([-1.0, 1.0])  # probabilities near zero still rank


def test_min_max_spans_zero_to_one():
    assert min_max([5.0, -3.0, 1.0]) == [1.0, 0.0, 0.5]


def test_mixture_by_hand():
    # First stage 3 2 1 -> z = +r 0 -r with r = sqrt(3/2); reranker 0 9 0 -> z = -s 2s -s with s = 1 / sqrt(2).
    r, s = math.sqrt(1.5), 1 / math.sqrt(2)
    first, second = {"q": {"a": 3.0, "b": 2.0, "c": 1.0, "t": 0.5}}, {"q": {"a": 0.0, "b": 9.0, "c": 0.0}}
    mixed = hybrid_run(first, second, weight=0.25, top_k=3)["q"]
    a, b, c = 0.25 * r - 0.75 * s, 0.75 * 2 * s, -0.25 * r - 0.75 * s
    assert mixed == pytest.approx({"a": a, "b": b, "c": c, "t": c - 1})


def test_normalisation_is_by_query_and_over_the_head_only():
    first, second = {"q": {"a": 3.0, "b": 2.0, "t": -99.0}}, {"q": {"a": 1.0, "b": 2.0, "t": 9999.0}}
    alone = hybrid_run(first, second, 0.2, 2)["q"]
    assert {d: alone[d] for d in "ab"} == pytest.approx({"a": 0.2 - 0.8, "b": 0.8 - 0.2})
    other = {"big": {"x": 1e6, "y": -1e6}}
    assert hybrid_run(first | other, second | other, 0.2, 2)["q"] == alone


def test_ranges_and_missing_scores_are_named():
    first, second = {"q": {"a": 2.0, "b": 1.0}}, {"q": {"a": 1.0, "b": 2.0}}
    for weight in (-0.1, 1.1, math.nan):
        with pytest.raises(DataError, match="weight"):
            hybrid_run(first, second, weight, 2)
    for reranked in ({}, {"q": {"a": 1.0}}, {"q": {"a": 1.0, "b": math.nan}}):
        with pytest.raises(DataError, match="query 'q', document"):
            hybrid_run(first, reranked, 0.2, 2)
    assert hybrid_run({"empty": {}}, {}, 0.2, 2) == {"empty": {}}


def test_chosen_weight_is_the_best_of_the_grid_and_the_lowest_of_equals():
    first = {f"q{i}": {f"d{j}": float((i * 3 + j * 7) % 10) for j in range(10)} for i in range(12)}
    second = {q: {d: float((int(q[1:]) * 5 + int(d[1:]) * 3) % 10) for d in found} for q, found in first.items()}
    qrels = {q: {f"d{int(q[1:]) % 10}": 1} for q in first}
    means = [evaluate_run(hybrid_run(first, second, i / 10, 10), qrels).mean("ndcg@10") for i in range(11)]
    assert len({round(mean, 6) for mean in means}) > 1
    assert choose_weight(first, second, qrels, 10) == means.index(max(means)) / 10
    assert choose_weight(first, first, qrels, 10) == 0.0


def test_the_metric_decides_the_weight():
    # Both orders start with a relevant document, so RR cannot tell them apart; only nDCG sees the grade 3.
    first = {"q": {"best": 9.0, "good": 1.0, "none": 0.0}}
    second = {"q": {"best": 0.0, "good": 9.0, "none": 1.0}}
    qrels = {"q": {"best": 3, "good": 1}}
    assert choose_weight(first, second, qrels, 3, "RR@10") == 0.0
    weight = choose_weight(first, second, qrels, 3, "nDCG@10")
    assert ranked(hybrid_run(first, second, weight, 3)["q"])[0][0] == "best" and weight > 0
