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
