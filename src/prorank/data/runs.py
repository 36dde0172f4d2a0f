"""Runs: what is done with their lists without knowing a model.

Ties go by document id everywhere.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Container, Iterable, Mapping, Sequence, Sized

from prorank.util.errors import DataError

logger = logging.getLogger(__name__)
Qrels = dict[str, dict[str, int]]  # query id -> document id -> grade, 0 = judged not relevant
Run = dict[str, dict[str, float]]  # query id -> document id -> score
LARGEST_GRADE = 1000  # either way: metrics count up to the highest grade, in memory too


def ranked(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """(document id, score), best first, ties by document id.

    >>> ranked({"b": 1.0, "a": 1.0, "c": 2.0})
    [('c', 2.0), ('a', 1.0), ('b', 1.0)]
    """
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def lists_of(run: Mapping[str, dict[str, float]], queries: Iterable[str]) -> Run:
    """A run's lists of some queries; one that found nothing has an empty list.

    >>> lists_of({"a": {"d": 1.0}}, ["a", "b"])
    {'a': {'d': 1.0}, 'b': {}}
    """
    return {query: run.get(query, {}) for query in queries}


def tell_unlisted(name: str, lists: Container[str], judged: Collection[str], lost: str, hint: str) -> None:
    """Warn of judged queries without a list, since a sample's lists look like any.

    Args:
        name: of what holds the lists.
        lists: the queries that have one.
        judged: ids of the queries.
        lost: what becomes of a query without a list, for the warning: `they score 0`.
        hint: for the error.

    Raises:
        DataError: there is no list for any of the queries.
    """
    lacking = sum(query not in lists for query in judged)
    if lacking and lacking == len(judged):
        raise DataError(f"{name} holds none of the {len(judged)} judged queries", hint=hint)
    if lacking:
        logger.warning("%s lacks %d of %d judged queries; %s", name, lacking, len(judged), lost)


def unknown_document(run: Run, queries: Iterable[str], documents: Container[str]) -> str | None:
    """The first document in the lists of these queries that is none of `documents`.

    >>> unknown_document({"q": {"a": 1.0, "b": 0.5}}, ["q"], {"a"})
    'b'
    """
    return next((document for query in queries for document in run.get(query, {}) if document not in documents), None)


def refuse_non_finite(query: str, scores: Mapping[str, float]) -> None:
    """Refuse a list with a score that is NaN or infinite (DataError)."""
    for document, score in scores.items():
        if not math.isfinite(score):
            raise DataError(f"the score of query '{query}', document '{document}' is {score}")


def with_relevant(qrels: Qrels) -> Qrels:
    """The judgments of the queries that have a relevant document.

    >>> with_relevant({"q": {"a": 1}, "r": {"a": 0}})
    {'q': {'a': 1}}
    """
    return {query: judged for query, judged in qrels.items() if any(grade > 0 for grade in judged.values())}


def without_relevant(qrels: Qrels) -> list[str]:
    """Queries without a relevant document: no metric tells their lists apart, so the means leave them out.

    >>> without_relevant({"q": {"a": 1}, "r": {"a": 0}})
    ['r']
    """
    measured = with_relevant(qrels)
    return [query for query in qrels if query not in measured]


def refuse_bad_grades(qrels: Qrels) -> None:
    """Refuse judgments with a grade that is no integer, or beyond `LARGEST_GRADE` (DataError).

    >>> refuse_bad_grades({"q": {"d": 1_700_000_000}})
    Traceback (most recent call last):
    prorank.util.errors.DataError: the grade of query 'q', document 'd' is 1700000000 (grades are integers up to 1000)
    """
    for query, judged in qrels.items():
        for document, grade in judged.items():
            if not isinstance(grade, int) or abs(grade) > LARGEST_GRADE:
                hint = f"grades are integers up to {LARGEST_GRADE}"
                raise DataError(f"the grade of query '{query}', document '{document}' is {grade!r}", hint=hint)


def top(run: Run, count: int) -> Run:
    """The first `count` documents of each query, ties by document id.

    >>> top({"q": {"a": 1.0, "b": 2.0}}, 1)
    {'q': {'b': 2.0}}
    """
    return {query: dict(ranked(scores)[:count]) for query, scores in run.items()}


def pairs_within(lists: Iterable[Sized], depth: int) -> int:
    """How many pairs the first `depth` documents of all lists make.

    >>> pairs_within([{"a": 1.0, "b": 0.5}, {"c": 1.0}], 1)
    2
    """
    return sum(min(depth, len(listed)) for listed in lists)


def scored_lists(lists: Run, scored: Iterable[tuple[tuple[str, str], float]]) -> Run:
    """Scores of (query id, document id) pairs as a run over the queries of `lists`.

    >>> scored_lists({"q": {"a": 1.0}, "r": {}}, [(("q", "a"), 0.5)])
    {'q': {'a': 0.5}, 'r': {}}
    """
    run: Run = {query: {} for query in lists}
    for (query, document), score in scored:
        run[query][document] = float(score)
    return run


def with_tail(head: Mapping[str, float], tail: Sequence[str]) -> dict[str, float]:
    """Scores of a reordered head, and below them the tail in its own order, in equal steps.

    The step is 1, or larger where 1 would be lost in rounding next to a huge score.

    >>> with_tail({"a": 0.5, "b": -2.0}, ["c", "d"])
    {'a': 0.5, 'b': -2.0, 'c': -3.0, 'd': -4.0}
    """
    lowest = min(head.values(), default=0.0)
    step = max(1.0, abs(lowest) * 1e-12)
    return {**head, **{document: lowest - i * step for i, document in enumerate(tail, start=1)}}


def split_head(
    query: str, listed: Mapping[str, float], scores: Mapping[str, Mapping[str, float]], top_k: int
) -> tuple[dict[str, float], list[str]]:
    """The first `top_k` documents of a query with their scores, in first-stage order, and the ids below them.

    Raises:
        DataError: a head document has no score, or one that is not finite; or `top_k` is negative.

    >>> split_head("q", {"a": 3.0, "b": 2.0}, {"q": {"a": 0.5}}, top_k=1)
    ({'a': 0.5}, ['b'])
    """
    if top_k < 0:
        raise DataError(f"the head holds 0 or more documents, not {top_k}")
    order = [document for document, _ in ranked(listed)]
    given = scores.get(query, {})
    missing = [document for document in order[:top_k] if document not in given]
    if missing:
        raise DataError(f"no reranker score for query '{query}', document '{missing[0]}'")
    head = {document: float(given[document]) for document in order[:top_k]}
    refuse_non_finite(query, head)
    return head, order[top_k:]


def rerank_run(first_stage: Run, scores: Mapping[str, Mapping[str, float]], top_k: int) -> Run:
    """The first `top_k` documents of the first stage in the order of `scores`; the rest stay below as they were.

    Args:
        first_stage: the true first-stage run.
        scores: query id -> document id -> reranker score, for every document of the head.
        top_k: size of the head.

    Raises:
        DataError: a head document has no score, or one that is not finite; or `top_k` is negative.

    >>> rerank_run({"q": {"a": 3.0, "b": 2.0, "c": 1.0}}, {"q": {"a": 0.0, "b": 1.0}}, top_k=2)
    {'q': {'a': 0.0, 'b': 1.0, 'c': -1.0}}
    """
    return {query: with_tail(*split_head(query, listed, scores, top_k)) for query, listed in first_stage.items()}
