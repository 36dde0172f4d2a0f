"""The weight of the first stage in a hybrid, chosen on dev queries. Knows runs and qrels."""

from __future__ import annotations

from prorank.data.runs import Qrels, Run
from prorank.evaluation.metrics import evaluate_run
from prorank.first_stage.fusion import hybrid_run

GRID = tuple(i / 10 for i in range(11))


def choose_weight(first_stage: Run, reranked: Run, qrels: Qrels, top_k: int, metric: str = "nDCG@10") -> float:
    """The first stage's weight in 0, .1, ... 1 with the best metric on these (dev) judgments; ties take the lower.

    Args:
        first_stage, reranked: runs of the dev queries.
        qrels: dev judgments.
        top_k: size of the head.
        metric: name of ir-measures.

    >>> choose_weight({"q": {"a": 2.0, "b": 1.0}}, {"q": {"a": 0.0, "b": 1.0}}, {"q": {"a": 1}}, top_k=2)
    0.5
    """

    def mean_metric(weight: float) -> float:
        evaluation = evaluate_run(hybrid_run(first_stage, reranked, weight, top_k), qrels, (metric,))
        return evaluation.mean(evaluation.metrics[0])

    return max(GRID, key=lambda weight: (mean_metric(weight), -weight))
