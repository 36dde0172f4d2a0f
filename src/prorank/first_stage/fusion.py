"""First stage and reranker joined: scores made comparable per query, then weighted. Knows runs only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from prorank.data.runs import Run, split_head, with_tail
from prorank.util.errors import DataError


def z_score(values: Sequence[float], among: Sequence[float] | None = None) -> list[float]:
    """(x - mean) / standard deviation; zeros where there is no spread (ERank, arXiv 2509.00520).

    Args:
        values: what is standardised.
        among: whose mean and deviation count; None takes those of the values.

    >>> z_score([1.0, 3.0])
    [-1.0, 1.0]
    >>> z_score([5.0], among=[1.0, 3.0])
    [3.0]
    """
    data, known = np.asarray(values, dtype=float), np.asarray(values if among is None else among, dtype=float)
    spread = known.std() if len(known) and np.ptp(known) > 0 else 0.0  # rounding gives [0.1] * 3 a spread of 1e-17
    return [0.0] * len(data) if spread == 0 else ((data - known.mean()) / spread).tolist()


def min_max(values: Sequence[float]) -> list[float]:
    """(x - smallest) / (largest - smallest), so 0..1; zeros where all values are equal.

    >>> min_max([2.0, 4.0, 3.0])
    [0.0, 1.0, 0.5]
    """
    data = np.asarray(values, dtype=float)
    width = np.ptp(data) if len(data) else 0.0
    return [0.0] * len(data) if width == 0 else ((data - data.min()) / width).tolist()


Scale = Literal["z-score", "min-max"]
SCALES: dict[Scale, Callable[[Sequence[float]], list[float]]] = {"z-score": z_score, "min-max": min_max}


def hybrid_run(first_stage: Run, reranked: Run, weight: float = 0.2, top_k: int = 100, scale: Scale = "z-score") -> Run:
    """weight * z(first stage) + (1 - weight) * z(reranker) over the first `top_k` documents of each query.

    The published setting is weight 0.2 (ERank, arXiv 2509.00520). The tail keeps its order below.

    Args:
        first_stage: the true first-stage run.
        reranked: reranker scores of at least the head's documents; below the depth to which a run was reranked
            its scores are only places in the list, so `top_k` must not exceed that depth.
        weight: share of the first stage, 0..1.
        top_k: size of the head.
        scale: what makes the two scores of a query comparable.

    Raises:
        DataError: a weight outside 0..1, or a head document without a finite score.

    >>> hybrid_run({"q": {"a": 2.0, "b": 1.0}}, {"q": {"a": 0.0, "b": 9.0}}, weight=0.25)
    {'q': {'a': -0.5, 'b': 0.5}}
    """
    if not 0 <= weight <= 1:
        raise DataError(f"the weight of the first stage lies between 0 and 1, not {weight}")
    result: Run = {}
    for query, listed in first_stage.items():
        head, tail = split_head(query, listed, reranked, top_k)
        first = SCALES[scale]([listed[document] for document in head])
        second = SCALES[scale](list(head.values()))
        mixed = {d: weight * x + (1 - weight) * y for d, x, y in zip(head, first, second)}
        result[query] = with_tail(mixed, tail)
    return result
