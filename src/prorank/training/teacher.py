"""Teacher scores for distillation: a bi-encoder's similarities joined with the first stage's scores.

Knows scored lists; knows nothing of texts, the student or its training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from prorank.collection import Run


def hybrid_scores(first_stage: Run, dense: Run, wanted: Mapping[str, Sequence[str]], weight: float) -> Run:
    """weight * z(first stage) + (1 - weight) * z(dense) of the wanted documents.

    Means and deviations are those of the first stage's list; a wanted document that it did not find has its score 0.

    Args:
        first_stage: scored lists.
        dense: similarities of every listed and every wanted document.
        wanted: query id -> document ids.
        weight: share of the first stage, 0..1.

    >>> lists, dense = {"q": {"a": 2.0, "b": 1.0}}, {"q": {"a": 0.1, "b": 0.5, "c": 0.3}}
    >>> {d: round(score, 2) for d, score in hybrid_scores(lists, dense, {"q": ["a", "c"]}, 0.25)["q"].items()}
    {'a': -0.5, 'c': -0.75}
    """

    def z(value: float, values: Sequence[float]) -> float:
        spread = float(np.std(values)) if len(values) and np.ptp(values) > 0 else 0.0
        return 0.0 if spread == 0 else (value - float(np.mean(values))) / spread

    joined: Run = {}
    for query, documents in wanted.items():
        listed = first_stage.get(query, {})
        lexical, similar = list(listed.values()), [dense[query][document] for document in listed]
        joined[query] = {
            d: weight * z(listed.get(d, 0.0), lexical) + (1 - weight) * z(dense[query][d], similar) for d in documents
        }
    return joined
