"""Intervals and tests for per-query figures. Pure functions of numbers; knows nothing of runs or models."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from prorank.errors import DataError, require
from prorank.evaluation.evaluate import Evaluation

EXACT_UP_TO = 12  # so many non-zero differences are enumerated instead of sampled


def bootstrap_interval(
    values: Sequence[float], *, level: float = 0.95, samples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron 1979).

    Args:
        values: one figure a query, at least one.
        level: coverage, between 0 and 1.
        samples: resamples.
        seed: of the resampling.

    >>> bootstrap_interval([0.5, 0.5, 0.5])
    (0.5, 0.5)
    """
    if not len(values):
        raise DataError("an interval needs at least one value")
    data = np.asarray(values, dtype=float)
    generator = np.random.default_rng(seed)
    means = np.array([data[generator.integers(0, len(data), len(data))].mean() for _ in range(samples)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_randomization_test(a: Sequence[float], b: Sequence[float], *, samples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of the paired sign-flip test on the mean difference (Smucker, Allan, Carterette 2007).

    Up to 12 non-zero differences all sign patterns are counted; beyond, patterns are sampled and
    p = (extreme + 1) / (samples + 1), so it is never 0.

    Args:
        a, b: figures of the same queries in the same order.

    >>> paired_randomization_test([1, 1, 1], [0, 0, 0])
    0.25
    """
    if len(a) != len(b):
        raise DataError(f"paired figures must be of one length, got {len(a)} and {len(b)}")
    difference = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    difference = difference[difference != 0]  # flipping a zero changes nothing
    if not len(difference):
        return 1.0
    observed = abs(difference.sum()) * (1 - 1e-12)
    if len(difference) <= EXACT_UP_TO:
        signs = np.array(list(itertools.product((1, -1), repeat=len(difference))))
        return float((abs(signs @ difference) >= observed).mean())
    generator = np.random.default_rng(seed)
    signs = generator.choice(np.array([1.0, -1.0]), size=(samples, len(difference)))
    return float(((abs(signs @ difference) >= observed).sum() + 1) / (samples + 1))


def binomial_above_chance(correct: int, total: int, chance: float = 0.5) -> float:
    """One-sided p-value that `correct` of `total` is above chance (exact binomial test).

    >>> binomial_above_chance(2, 2)
    0.25
    """
    stats = require("scipy.stats", "eval")
    return float(stats.binomtest(correct, total, chance, alternative="greater").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjustment for several tests, in the given order.

    >>> holm([0.01, 0.04])
    [0.02, 0.04]
    """
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

    Raises:
        DataError: they cover different queries.
    """
    left, right = a.per_query[metric], b.per_query[metric]
    if left.keys() != right.keys():
        raise DataError(f"the evaluations share only {len(left.keys() & right.keys())} queries")
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
