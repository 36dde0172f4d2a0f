"""Edges of intervals and tests that test_evaluation.py leaves out, against scipy and by hand."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from prorank.evaluation import significance
from prorank.evaluation.metrics import Evaluation
from prorank.evaluation.significance import (
    binomial_above_chance,
    bootstrap_interval,
    compare,
    holm,
    paired_randomization_test,
)
from prorank.util.errors import DataError

metrics = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=12)


@given(metrics)
def test_exact_randomization_equals_scipys_exact_test(pairs):
    a, b = map(list, zip(*pairs))
    a, b = np.round(a, 2), np.round(b, 2)
    scaled = np.rint((a - b) * 100)  # whole numbers: equal sums are equal, so scipy's answer knows no rounding
    theirs = scipy.stats.permutation_test(
        (scaled, 0 * scaled), lambda x, y: (x - y).sum(), permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert paired_randomization_test(a, b) == pytest.approx(theirs)


def test_randomization_by_hand():
    # |sum| of the eight sign patterns of 3, 2, 1: 6 4 2 0 0 2 4 6; four are at least the observed 4.
    assert paired_randomization_test([3, 2, 0], [0, 0, 1]) == 0.5


@pytest.mark.parametrize("repeats", [1, 5])
def test_differences_that_cancel_give_p_one_in_spite_of_rounding(repeats):
    assert 0.1 + 0.2 - 0.3 != 0
    assert paired_randomization_test([0.1, 0.2, 0.0] * repeats, [0.0, 0.0, 0.3] * repeats) == 1.0


def test_sampled_patterns_do_not_depend_on_the_memory_bound(monkeypatch):
    generator = np.random.default_rng(3)
    a, b = generator.normal(0.2, 1, 31), generator.normal(0, 1, 31)
    whole = paired_randomization_test(a, b, samples=1000)
    assert 0.001 < whole < 1
    monkeypatch.setattr(significance, "_DRAWS_AT_ONCE", 31 * 7)
    assert paired_randomization_test(a, b, samples=1000) == whole
    assert paired_randomization_test(a, b, samples=1000, seed=1) != whole


def test_smallest_sampled_p():
    assert paired_randomization_test([1.0] * 60, [0.0] * 60, samples=99) == 1 / 100


def test_bootstrap_levels_nest_and_hold_the_mean():
    values = np.random.default_rng(2).beta(2, 3, 80)
    wide, narrow = bootstrap_interval(values, level=0.99), bootstrap_interval(values, level=0.5)
    assert wide[0] < narrow[0] < values.mean() < narrow[1] < wide[1]
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_the_interval_of_one_value_is_that_value():
    assert bootstrap_interval([0.3]) == (0.3, 0.3)


def test_bootstrap_interval_covers_as_often_as_it_says():
    generator = np.random.default_rng(0)
    intervals = [bootstrap_interval(generator.normal(0, 1, 60), samples=300, level=0.8) for _ in range(200)]
    covered = sum(low <= 0 <= high for low, high in intervals)
    assert 140 <= covered <= 180  # 160 expected, standard deviation 5.7


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_no_numbers_are_refused(bad):
    with pytest.raises(DataError, match=f"value 1 is {bad}"):
        paired_randomization_test([0.5, bad], [0.0, 0.0])
    with pytest.raises(DataError, match=f"value 1 is {bad}"):
        bootstrap_interval([0.5, bad])


@pytest.mark.parametrize("level", [0, 1, 95])
def test_levels_outside_their_range_are_refused(level):
    with pytest.raises(DataError, match="level"):
        bootstrap_interval([0.5], level=level)


def test_binomial_by_hand():
    assert binomial_above_chance(3, 4) == pytest.approx((4 + 1) / 16)
    assert binomial_above_chance(1, 2, chance=0.25) == pytest.approx(1 - 0.75**2)
    assert binomial_above_chance(0, 9) == 1.0
    for correct, total, chance in ((0, 0, 0.5), (5, 3, 0.5), (-1, 3, 0.5), (1, 3, 1.5)):
        with pytest.raises(DataError, match="no binomial test"):
            binomial_above_chance(correct, total, chance)


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0.01, 0.5))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values, alpha):
    rejected = set()
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[i] * (len(p_values) - rank) > alpha:
            break
        rejected.add(i)
    assert {i for i, adjusted in enumerate(holm(p_values)) if adjusted <= alpha} == rejected


def test_holm_step_down_and_range():
    # Sorted .01 .02 .03 .2: times 4 3 2 1 = .04 .06 .06 .2.
    assert holm([0.2, 0.01, 0.03, 0.02]) == pytest.approx([0.2, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    with pytest.raises(DataError, match="between 0 and 1"):
        holm([0.5, math.nan])


def test_compare_pairs_by_query_not_by_place():
    a = Evaluation(("m",), {"m": {"x": 0.9, "y": 0.4, "z": 0.2}})
    b = Evaluation(("m",), {"m": {"z": 0.1, "x": 0.8, "y": 0.3}})
    result = compare(a, b, "m")
    assert result.difference == pytest.approx(0.1) and (result.low, result.high) == pytest.approx((0.1, 0.1))
    assert (result.wins, result.ties, result.losses) == (3, 0, 0) and result.p_value == 0.25


def test_compare_names_what_is_missing():
    a = Evaluation(("m",), {"m": {"x": 0.9, "y": 0.4}})
    with pytest.raises(DataError, match="share only 1 queries of 2 and 1"):
        compare(a, Evaluation(("m",), {"m": {"x": 1.0}}), "m")
    with pytest.raises(DataError, match=r"'n' was not evaluated \(there are m\)"):
        compare(a, a, "n")
