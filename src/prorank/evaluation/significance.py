"""Intervals and tests for per-query metrics. Pure functions of numbers; knows nothing of runs or models.

The unit is always the query: intervals and tests speak of other queries of the same kind, not of other training
seeds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from prorank.evaluation.metrics import Evaluation
from prorank.util.errors import DataError, require

EXACT_UP_TO = 12  # so many non-zero differences are enumerated instead of sampled
_DRAWS_AT_ONCE = 2**22  # numbers drawn in one block: bounds memory


def _finite(values: Sequence[float]) -> np.ndarray:
    data = np.asarray(values, dtype=float)
    if not np.isfinite(data).all():
        raise DataError(f"value {int(np.argmin(np.isfinite(data)))} is {data[~np.isfinite(data)][0]}, not a number")
    return data


def _differences(a: Sequence[float], b: Sequence[float]) -> np.ndarray:
    if len(a) != len(b):
        raise DataError(f"paired metrics must be of one length, got {len(a)} and {len(b)}")
    return _finite(a) - _finite(b)


def bootstrap_interval(
    values: Sequence[float], *, level: float = 0.95, samples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron 1979), by `scipy.stats.bootstrap`.

    Args:
        values: one number per query, at least one.
        level: coverage, between 0 and 1.
        samples: resamples.
        seed: of the resampling.

    Returns:
        (low, high).

    Raises:
        DataError: no values, one that is not finite, or a level outside 0..1.
        MissingExtraError: scipy is not installed.

    >>> bootstrap_interval([0.5, 0.5, 0.5])
    (0.5, 0.5)
    """
    if not len(values):
        raise DataError("an interval needs at least one value")
    if not 0 < level < 1:
        raise DataError(f"the level of an interval lies between 0 and 1, not {level}")
    data = _finite(values)
    if len(data) == 1:  # scipy asks for two
        return float(data[0]), float(data[0])
    found = require("scipy.stats", "eval").bootstrap(
        (data,),
        np.mean,
        n_resamples=samples,
        batch=max(1, _DRAWS_AT_ONCE // len(data)),
        confidence_level=level,
        method="percentile",
        random_state=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def mean_of_means_interval(
    values: Sequence[Sequence[float]], *, level: float = 0.95, samples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over collections of each one's mean; queries are drawn inside each.

    It speaks of other queries of the same collections, not of other collections.

    Args:
        values: by collection, those of its queries; none empty.
        level: coverage, between 0 and 1.
        samples: resamples.
        seed: of the resampling.

    Raises:
        DataError: no collection, one without queries, or a value that is not finite.

    >>> mean_of_means_interval([[0.5, 0.5], [1.0]])
    (0.75, 0.75)
    """
    if not values or not all(len(one) for one in values):
        raise DataError("an interval needs at least one value of each collection")
    generator, total = np.random.default_rng(seed), np.zeros(samples)
    for one in values:
        data = _finite(one)
        rows = max(1, _DRAWS_AT_ONCE // len(data))
        for start in range(0, samples, rows):
            size = (min(rows, samples - start), len(data))
            total[start : start + size[0]] += data[generator.integers(len(data), size=size)].mean(axis=1)
    low, high = np.quantile(total / len(values), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_randomization_test(a: Sequence[float], b: Sequence[float], *, samples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of the paired sign-flip test on the mean difference (Smucker, Allan, Carterette 2007).

    Up to 12 non-zero differences all sign patterns are counted; beyond, patterns are sampled and
    p = (extreme + 1) / (samples + 1), so it is never 0. The enumerated p equals that of `scipy.stats.permutation_test`
    (`permutation_type="samples"`), and the sampled one estimates the same number; these few lines stay because they
    take a tenth of its time, and because equal sums count as equal here even where they differ by rounding.

    Args:
        a, b: metrics of the same queries in the same order.
        samples: sign patterns drawn.
        seed: of the drawing.

    Raises:
        DataError: different lengths, or a value that is not finite.

    >>> paired_randomization_test([1, 1, 1], [0, 0, 0])
    0.25
    """
    difference = _differences(a, b)
    difference = difference[difference != 0]  # flipping a zero changes nothing
    if not len(difference):
        return 1.0
    observed = abs(difference.sum()) - 1e-12 * abs(difference).sum()  # equal sums may differ by rounding
    if len(difference) <= EXACT_UP_TO:
        signs = np.array(list(itertools.product((1, -1), repeat=len(difference))))
        return float((abs(signs @ difference) >= observed).mean())
    generator = np.random.default_rng(seed)
    rows, extreme = max(1, _DRAWS_AT_ONCE // len(difference)), 0
    for start in range(0, samples, rows):
        size = (min(rows, samples - start), len(difference))
        signs = generator.choice(np.array([1.0, -1.0]), size=size)
        extreme += int((abs(signs @ difference) >= observed).sum())
    return (extreme + 1) / (samples + 1)


def binomial_above_chance(correct: int, total: int, chance: float = 0.5) -> float:
    """One-sided p-value that `correct` of `total` is above chance (exact binomial test).

    Args:
        correct: successes, 0..total.
        total: trials, at least 1.
        chance: probability of a success by chance, 0..1.

    Raises:
        DataError: counts or chance outside their ranges.

    >>> binomial_above_chance(2, 2)
    0.25
    """
    if not (0 <= correct <= total and total > 0 and 0 <= chance <= 1):
        raise DataError(f"no binomial test for {correct} of {total} at chance {chance}")
    stats = require("scipy.stats", "eval")
    return float(stats.binomtest(correct, total, chance, alternative="greater").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjustment for several tests, in the given order.

    Args:
        p_values: each 0..1.

    Raises:
        DataError: a value outside 0..1.

    >>> holm([0.01, 0.04])
    [0.02, 0.04]
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise DataError(f"p-values lie between 0 and 1, got {list(p_values)}")
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


class Comparison(NamedTuple):
    """Paired comparison of two systems on one metric: a minus b, its 95 % interval, p, and counts."""

    difference: float
    low: float
    high: float
    p_value: float
    wins: int
    ties: int
    losses: int


def compare(a: Evaluation, b: Evaluation, metric: str) -> Comparison:
    """Compare two evaluations query by query.

    Args:
        a, b: of the same queries; the difference is a minus b.
        metric: key such as `ndcg@10`.

    Raises:
        DataError: they cover different queries, or one lacks the metric.

    >>> b = Evaluation(("p@1",), {"p@1": {"x": 0.0, "y": 0.0}})
    >>> a = Evaluation(("p@1",), {"p@1": {"x": 1.0, "y": 0.0}})
    >>> result = compare(a, b, "p@1")
    >>> result.difference, result.p_value, result.wins, result.ties
    (0.5, 1.0, 1, 1)
    """
    left, right = a.values(metric), b.values(metric)
    if left.keys() != right.keys():
        raise DataError(
            f"the evaluations share only {len(left.keys() & right.keys())} queries of {len(left)} and {len(right)}",
            hint="evaluate both on the same judgments",
        )
    first = [left[query] for query in left]
    second = [right[query] for query in left]
    differences = [x - y for x, y in zip(first, second)]
    low, high = bootstrap_interval(differences)
    return Comparison(
        difference=sum(differences) / len(differences),
        low=low,
        high=high,
        p_value=paired_randomization_test(first, second),
        wins=sum(d > 0 for d in differences),
        ties=sum(d == 0 for d in differences),
        losses=sum(d < 0 for d in differences),
    )
