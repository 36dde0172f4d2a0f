"""Scores to probabilities: Platt scaling fitted on judged first-stage lists, at even odds.

A reranker's sigmoid answers for pairs like those of its training. Two numbers fitted on dev lists, with the lists' few
relevant documents weighed out, make 0.5 mean "as typical of the relevant documents of such lists as of the others".
Knows numbers only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from prorank.data.runs import Qrels, Run
from prorank.util.errors import DataError, require

BINS = 10


def fit_platt(scores: Sequence[float], labels: Sequence[int]) -> dict[str, float]:
    """Slope and intercept of sigmoid(slope * score + intercept) by maximum likelihood (Platt 1999, smoothed targets).

    Args:
        scores: any real numbers.
        labels: 1 relevant, 0 not; both must occur.

    Returns:
        `slope` and `intercept`.

    Raises:
        DataError: one class only, or a slope that is not positive (higher scores are not likelier to be relevant).
        MissingExtraError: scipy is not installed.

    >>> found = fit_platt([3.0, 2.0, 1.0, 0.0] * 50, [1, 1, 0, 0] * 50)
    >>> round(-found["intercept"] / found["slope"], 2)
    1.5
    """
    x, y = np.asarray(scores, dtype=float), np.asarray(labels, dtype=float)
    positives, negatives = y.sum(), len(y) - y.sum()
    if not positives or not negatives:
        raise DataError("calibration needs relevant and irrelevant documents")
    target = np.where(y > 0, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    optimize, special = require("scipy.optimize", "eval"), require("scipy.special", "eval")
    mean, spread = x.mean(), x.std() or 1.0
    z = np.stack([(x - mean) / spread, np.ones_like(x)], axis=1)  # (N, 2), well conditioned

    def mean_loss(at: np.ndarray) -> tuple[float, np.ndarray]:  # and its gradient
        margin = z @ at
        loss = float(np.mean(np.logaddexp(0, margin) - target * margin))
        return loss, z.T @ (special.expit(margin) - target) / len(x)

    start = np.array([0.0, np.log(positives / negatives)])
    parameters = optimize.minimize(mean_loss, start, jac=True, method="BFGS", options={"gtol": 1e-9}).x
    slope = parameters[0] / spread
    if slope <= 0:
        raise DataError("higher scores are not likelier to be relevant here; nothing to calibrate")
    return {"slope": float(slope), "intercept": float(parameters[1] - slope * mean)}


def fit_temperature(scores: Sequence[float], labels: Sequence[int]) -> dict[str, float]:
    """One number T of sigmoid(score / T) by maximum likelihood (Guo et al. 2017), as a slope 1/T and intercept 0.

    It keeps the score's own zero: where a list's odds are far from even, it cannot meet them.

    Args:
        scores, labels: as for `fit_platt`.

    Raises:
        DataError: one class only.
        MissingExtraError: scipy is not installed.

    >>> found = fit_temperature([2.0, -2.0] * 50, [1, 0] * 45 + [0, 1] * 5)
    >>> round(found["slope"], 2)  # a tenth is wrong: log(9) / 2
    1.1
    """
    x, y = np.asarray(scores, dtype=float), np.asarray(labels, dtype=float)
    if not 0 < y.sum() < len(y):
        raise DataError("calibration needs relevant and irrelevant documents")

    def loss(log_slope: float) -> float:
        margin = np.exp(log_slope) * x
        return float(np.mean(np.logaddexp(0, margin) - y * margin))

    found = require("scipy.optimize", "eval").minimize_scalar(loss, bounds=(-10, 10), method="bounded")
    return {"slope": float(np.exp(found.x)), "intercept": 0.0}


def fit_isotonic(scores: Sequence[float], labels: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The rising step function of the score that fits labels best in squares (Zadrozny and Elkan 2002), by scipy.

    Args:
        scores, labels: as for `fit_platt`.

    Returns:
        Scores in order and the probability at each; `isotonic_probabilities` reads between them.

    Raises:
        DataError: one class only.
        MissingExtraError: scipy is not installed.

    >>> fit_isotonic([1.0, 2.0, 3.0, 4.0], [0, 1, 0, 1])[1].tolist()
    [0.0, 0.5, 0.5, 1.0]
    """
    x, y = np.asarray(scores, dtype=float), np.asarray(labels, dtype=float)
    if not 0 < y.sum() < len(y):
        raise DataError("calibration needs relevant and irrelevant documents")
    knots, place, counts = np.unique(x, return_inverse=True, return_counts=True)  # equal scores have one probability
    found = require("scipy.optimize", "eval").isotonic_regression(np.bincount(place, y) / counts, weights=counts)
    return knots, np.asarray(found.x)


def isotonic_probabilities(scores: Sequence[float], fitted: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Probabilities of scores: linear between the fitted ones, flat beyond.

    >>> isotonic_probabilities([0.0, 1.5], (np.array([1.0, 2.0]), np.array([0.2, 0.4]))).round(6).tolist()
    [0.2, 0.3]
    """
    return np.interp(np.asarray(scores, dtype=float), *fitted)


def brier_score(predicted: Sequence[float], labels: Sequence[int]) -> float:
    """Mean squared distance of predicted probabilities and labels (Brier 1950).

    >>> brier_score([0.5, 1.0], [1, 1])
    0.125
    """
    return float(np.mean((np.asarray(predicted, dtype=float) - np.asarray(labels, dtype=float)) ** 2))


def precision_threshold(
    scores: Sequence[float] | np.ndarray, labels: Sequence[float] | np.ndarray, wanted: float
) -> float | None:
    """The least score from which on the documents' share of relevant ones is at least `wanted`; None: nowhere.

    Args:
        scores: any real numbers.
        labels: 1 relevant, 0 not.
        wanted: precision, 0..1.

    >>> precision_threshold([4.0, 3.0, 2.0, 1.0], [1, 1, 0, 0], 0.6)
    2.0
    """
    x, y = np.asarray(scores, dtype=float), np.asarray(labels, dtype=float)
    order = np.argsort(-x, kind="stable")
    precision = np.cumsum(y[order]) / np.arange(1, len(y) + 1)
    last = np.append(x[order][1:] != x[order][:-1], True)  # equal scores pass a threshold together
    good = np.flatnonzero(last & (precision >= wanted))
    return float(x[order][good[-1]]) if len(good) else None


def even_odds(calibration: Mapping[str, float], labels: Sequence[int]) -> dict[str, float]:
    """The calibration as if relevant and irrelevant documents were equally frequent: log odds of the labels taken off.

    In a list of twenty with one relevant document hardly anything is more likely relevant than not, so the lists' own
    odds make no threshold. By Bayes' rule 0.5 is then where the two kinds are equally likely to have the score.

    >>> round(even_odds({"slope": 1.0, "intercept": -1.0}, [1, 0, 0, 0])["intercept"], 4)
    0.0986
    """
    positives = sum(label > 0 for label in labels)
    odds = positives / (len(labels) - positives)
    return {**calibration, "intercept": calibration["intercept"] - float(np.log(odds))}


def judged_scores(run: Run, qrels: Qrels) -> tuple[list[float], list[int]]:
    """(scores, labels) of every listed document of the judged queries; what is not judged counts as not relevant.

    >>> judged_scores({"q": {"a": 2.0, "b": 1.0}}, {"q": {"b": 1}})
    ([2.0, 1.0], [0, 1])
    """
    found = [(score, int(qrels[q].get(d, 0) > 0)) for q in qrels for d, score in run.get(q, {}).items()]
    return [score for score, _ in found], [label for _, label in found]


def calibration_error(predicted: Sequence[float], labels: Sequence[int]) -> float:
    """Expected calibration error: mean distance of predicted and found shares over ten bins of equal width.

    >>> calibration_error([0.5, 0.5], [1, 0])
    0.0
    """
    p, y = np.asarray(predicted, dtype=float), np.asarray(labels, dtype=float)
    bins = np.minimum((p * BINS).astype(int), BINS - 1)
    return float(sum(abs(p[bins == b].mean() - y[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)))
