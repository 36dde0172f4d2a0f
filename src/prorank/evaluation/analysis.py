"""What ProRank's preliminary analysis (arXiv 2506.03487) asks: is the prompt understood, are states and scores narrow?

Pure functions of arrays. Knows nothing of models, prompts or collections. A measure that has nothing to count is None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

import numpy as np

SATURATED = 0.01  # a probability this near to 0 or 1 is taken for certain


def effective_rank(states: np.ndarray) -> float:
    """exp of the entropy of the singular values' shares: how many directions the states use (Roy & Vetterli 2007).

    "The effective rank: a measure of effective dimensionality", EUSIPCO 2007, definition 1. The mean state is taken off
    first, since cosines tell how much of a state is common to all.

    Args:
        states: (N, H).

    Returns:
        1 to min(N - 1, H); 0 where all states are the same.

    >>> round(effective_rank(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])), 6)
    2.0
    >>> round(effective_rank(np.array([[1.0, 1.0], [2.0, 2.0], [5.0, 5.0]])), 6)
    1.0
    """
    values = _deviations(states)
    if not values.any():
        return 0.0
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def isotropy(states: np.ndarray) -> float:
    """IsoScore: 1 where the variance is the same in all H directions, 0 where one direction has all of it.

    Rudman et al. 2022, "IsoScore: Measuring the Uniformity of Embedding Space Utilization", Findings of ACL 2022. With
    the variances v along the principal components it comes down to ((sum v)^2 / sum v^2 - 1) / (H - 1).

    Args:
        states: (N, H), H of at least 2; fewer than H + 1 states cannot reach 1.

    >>> isotropy(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    1.0
    >>> isotropy(np.array([[1.0, 0.0], [-1.0, 0.0]]))
    0.0
    """
    variances = _deviations(states) ** 2
    if not variances.any():
        return 0.0
    used = variances.sum() ** 2 / (variances**2).sum()
    return float((used - 1) / (states.shape[1] - 1))


def _deviations(states: np.ndarray) -> np.ndarray:
    """Singular values of the states about their mean; what is only rounding counts as 0."""
    states = np.asarray(states, dtype=np.float64)
    values = np.linalg.svd(states - states.mean(0), compute_uv=False)
    return np.where(values > 1e-6 * np.linalg.norm(states), values, 0.0)


def mean_cosines(states: np.ndarray, groups: Sequence[int]) -> tuple[float | None, float | None]:
    """Mean cosine of two states of one group, and of two states of different groups.

    Args:
        states: (N, H), none of them zero.
        groups: N numbers, a query each.

    Returns:
        (within, between), each in -1..1; None where there is no such pair.

    >>> mean_cosines(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]]), [0, 0, 1, 1])
    (1.0, 0.0)
    """
    unit = np.asarray(states, dtype=np.float64)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    cosines, own = unit @ unit.T, np.asarray(groups)
    pairs = np.triu(np.ones_like(cosines, dtype=bool), 1)
    same = own[:, None] == own[None, :]
    found = [cosines[pairs & chosen] for chosen in (same, ~same)]
    within, between = (float(values.mean()) if len(values) else None for values in found)
    return within, between


def pairwise_order(relevant: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> float | None:
    """Share of (relevant, other) pairs of a query that the scores put in order; a tie counts half. Chance is .5 (AUC).

    Args:
        relevant, others: scores by query, in the same order of queries.

    >>> pairwise_order([[2.0], [1.0]], [[1.0, 3.0], [1.0]])
    0.5
    """
    wins = [(a > b) + (a == b) / 2 for first, second in zip(relevant, others) for a in first for b in second]
    return float(np.mean(wins)) if wins else None


def tied_pairs(values: Sequence[float], groups: Sequence[int]) -> float | None:
    """Share of two documents of one query whose values are the same.

    >>> tied_pairs([1.0, 1.0, 2.0, 5.0], [0, 0, 0, 1])
    0.3333333333333333
    """
    pairs = ties = 0
    for rows in _by_group(values, groups):
        pairs += len(rows) * (len(rows) - 1) // 2
        ties += sum(count * (count - 1) // 2 for count in Counter(rows).values())
    return ties / pairs if pairs else None


def spreads(values: Sequence[float], groups: Sequence[int]) -> tuple[float, float]:
    """Standard deviation of scores within a query (root of the mean variance), and of the queries' means.

    Where the second is far above the first, a score says more of the query than of the document.

    >>> spreads([1.0, 3.0, 7.0, 9.0], [0, 0, 1, 1])
    (1.0, 3.0)
    """
    rows = _by_group(values, groups)
    within = float(np.sqrt(np.mean([np.var(own) for own in rows])))
    return within, float(np.std([np.mean(own) for own in rows]))


def saturation(probabilities: Sequence[float]) -> float:
    """Share of probabilities within .01 of 0 or 1, where a difference between documents is hardly seen.

    >>> saturation([0.001, 0.5, 0.995, 0.9])
    0.5
    """
    found = np.asarray(probabilities)
    return float(((found < SATURATED) | (found > 1 - SATURATED)).mean())


def most_frequent(words: Sequence[str], count: int = 5) -> list[tuple[str, float]]:
    """The most frequent words with their shares; of equally frequent ones the first seen comes first.

    >>> most_frequent(["The", "1", "The", "0"], 2)
    [('The', 0.5), ('1', 0.25)]
    """
    return [(word, times / len(words)) for word, times in Counter(words).most_common(count)]


def _by_group(values: Sequence[float], groups: Sequence[int]) -> list[list[float]]:
    rows = sorted(zip(groups, values), key=lambda row: row[0])
    return [[value for _, value in own] for _, own in groupby(rows, key=lambda row: row[0])]
