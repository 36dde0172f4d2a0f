"""Teacher scores for distillation: a bi-encoder's similarities, the first stage's scores and a reranker's, joined.

Knows scored lists; knows nothing of texts, the student or its training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prorank.collection import Run
from prorank.evaluation.hybrid import z_score


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

    joined: Run = {}
    for query, documents in wanted.items():
        listed = first_stage.get(query, {})
        lexical = z_score([listed.get(document, 0.0) for document in documents], among=list(listed.values()))
        similar = z_score([dense[query][d] for d in documents], among=[dense[query][d] for d in listed])
        joined[query] = {d: weight * x + (1 - weight) * y for d, x, y in zip(documents, lexical, similar)}
    return joined


def with_reranker(joined: Run, scores: Run, share: float) -> Run:
    """(1 - share) * joined score + share * z(reranker's score), the z-score among a query's joined documents.

    Args:
        joined: scores on a z-score's scale.
        scores: the reranker's, of every joined document.
        share: of the reranker, 0..1.

    >>> with_reranker({"q": {"a": 0.5, "b": -0.5}}, {"q": {"a": -3.0, "b": 5.0}}, 0.25)
    {'q': {'a': 0.125, 'b': -0.125}}
    """
    found: Run = {}
    for query, own in joined.items():
        theirs = z_score([scores[query][document] for document in own])
        found[query] = {d: (1 - share) * score + share * other for (d, score), other in zip(own.items(), theirs)}
    return found
