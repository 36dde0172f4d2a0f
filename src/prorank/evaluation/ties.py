"""Ties of a run: how many scores a list tells apart, and what its metrics are worth when chance breaks the ties."""

from __future__ import annotations

import random
from statistics import fmean, stdev

from prorank.data.runs import Qrels, Run
from prorank.evaluation.metrics import evaluate_run, metric_key


def distinct_scores(run: Run) -> float:
    """Mean number of different scores in a list.

    >>> distinct_scores({"q": {"a": 1.0, "b": 1.0, "c": 0.0}})
    2.0
    """
    return fmean(len(set(listed.values())) for listed in run.values())


def shuffled_ties(run: Run, seed: int) -> Run:
    """The same order with equal scores in a seeded random order; scores become places, counted from the end.

    >>> shuffled_ties({"q": {"a": 5.0, "b": 7.0}}, seed=0)
    {'q': {'b': 2.0, 'a': 1.0}}
    """
    draw = random.Random(seed)
    found: Run = {}
    for query, listed in run.items():
        order = sorted(listed, key=lambda d: (-listed[d], draw.random()))
        found[query] = {document: float(len(order) - place) for place, document in enumerate(order)}
    return found


def random_ties(run: Run, qrels: Qrels, metric: str = "nDCG@10", times: int = 100, seed: int = 0) -> dict[str, float]:
    """Mean and standard deviation of a metric over `times` random orders of equal scores.

    >>> found = random_ties({"q": {"a": 1.0, "b": 1.0}}, {"q": {"a": 1}}, "P@1", times=400)
    >>> 0.4 < found["mean"] < 0.6
    True
    """
    runs = (shuffled_ties(run, seed + number) for number in range(times))
    values = [evaluate_run(one, qrels, (metric,)).mean(metric_key(metric)) for one in runs]
    return {"mean": fmean(values), "deviation": stdev(values) if times > 1 else 0.0}
