"""Metrics by ir-measures, and reranking of the true first stage.

Nothing is ever put into a candidate list: a relevant document that the first stage missed stays missed. Knows
runs and qrels; knows nothing of models.
"""

from __future__ import annotations

import difflib
import math
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prorank.collection import Qrels, Run, ranked, write_run
from prorank.errors import DataError, ProrankError, require
from prorank.files import atomic_writer, refuse_overwrite, write_json

DEFAULT_METRICS = ("nDCG@10", "RR@10", "AP@100", "R@100", "P@1")  # names of ir-measures
_SUGGESTED = (*DEFAULT_METRICS, "nDCG@20", "AP", "R@10", "RR", "P@10")


class Evaluation(NamedTuple):
    """Figures by metric and query; metric keys are lower-case, with `mrr` for reciprocal rank."""

    metrics: tuple[str, ...]
    per_query: dict[str, dict[str, float]]

    def figures(self, metric: str) -> dict[str, float]:
        """Figures of one metric by query.

        Raises:
            DataError: the metric was not evaluated; the message names those that were.
        """
        if metric not in self.per_query:
            raise DataError(f"metric '{metric}' was not evaluated", hint=f"there are {', '.join(self.per_query)}")
        return self.per_query[metric]

    def mean(self, metric: str) -> float:
        """Mean over all queries.

        Raises:
            DataError: the metric was not evaluated.

        >>> Evaluation(("p@1",), {"p@1": {"a": 1.0, "b": 0.0}}).mean("p@1")
        0.5
        """
        values = self.figures(metric).values()
        return sum(values) / len(values)


def metric_key(name: str) -> str:
    """Key under which a metric is reported.

    >>> metric_key("RR@10"), metric_key("nDCG@10")
    ('mrr@10', 'ndcg@10')
    """
    key = name.lower()
    return "m" + key if key.startswith("rr") else key


def _parse_metric(name: str) -> Any:
    measures = require("ir_measures", "eval")
    try:
        measure = measures.parse_measure(name)
        measure.validate_params()
    except AssertionError as error:
        raise ProrankError(f"metric '{name}' lacks a parameter or has one too many", hint="e.g. P@10") from error
    except (ValueError, NameError, KeyError, SyntaxError) as error:
        known = {metric_key(suggestion): suggestion for suggestion in _SUGGESTED}
        near = difflib.get_close_matches(metric_key(name), known, n=1)
        hint = f"did you mean {known[near[0]]}?" if near else "see ir-measur.es for names, e.g. nDCG@10"
        raise ProrankError(f"unknown metric '{name}'", hint=hint) from error
    if measure.params.get("cutoff", 1) < 1:  # trec_eval would end the whole process
        raise ProrankError(f"metric '{name}' needs a cutoff of at least 1")
    if not measures.DefaultPipeline.supports(measure):
        raise ProrankError(f"metric '{name}' needs a package that is not installed", hint="see ir-measur.es")
    return measure


def _refuse_non_finite(query: str, scores: Mapping[str, float]) -> None:
    for document, score in scores.items():
        if not math.isfinite(score):
            raise DataError(f"the score of query '{query}', document '{document}' is {score}")


def evaluate_run(
    run: Run, qrels: Qrels, metrics: Sequence[str] = DEFAULT_METRICS, relevant_from: int = 1
) -> Evaluation:
    """Figures of a run for every query that has a relevant document; a query missing from the run scores 0.

    Args:
        run: by query; scores decide the order, ties go by document id.
        qrels: judgments of the split.
        metrics: names of ir-measures.
        relevant_from: least grade that counts as relevant in metrics that know no grades.

    Raises:
        ProrankError: an unknown metric, or one that cannot be computed here.
        DataError: no query has a relevant document, or a score is not finite.

    >>> evaluate_run({"q": {"a": 2.0, "b": 1.0}}, {"q": {"b": 1}}, ("RR@10",)).mean("mrr@10")
    0.5
    """
    measures = require("ir_measures", "eval")
    keys: dict[Any, list[str]] = {}  # two names may mean one measure: AP and MAP
    for name in metrics:
        measure = _parse_metric(name)
        if relevant_from > 1 and "rel" in measure.SUPPORTED_PARAMS and "rel" not in measure.params:
            measure = measure(rel=relevant_from)
        keys.setdefault(measure, []).append(metric_key(name))
    judged = {query: grades for query, grades in qrels.items() if any(grade > 0 for grade in grades.values())}
    if not judged:
        raise DataError("no query of the judgments has a relevant document")
    per_query = {metric_key(name): dict.fromkeys(judged, 0.0) for name in metrics}
    for query in judged.keys() & run.keys():
        _refuse_non_finite(query, run[query])
    # Libraries break ties each in their own way; ranks in place of scores make every metric see one order.
    lists = {
        query: {document: -float(rank) for rank, (document, _) in enumerate(ranked(scores))}
        for query, scores in run.items()
        if query in judged and scores
    }
    if lists:
        try:
            values = list(measures.iter_calc(list(keys), judged, lists))
        except subprocess.CalledProcessError as error:  # some measures are scripts; those want numbers as query ids
            raise ProrankError(f"ir-measures cannot compute {', '.join(metrics)} for these ids") from error
        for value in values:
            for key in keys[value.measure]:
                per_query[key][value.query_id] = float(value.value)
    return Evaluation(tuple(per_query), per_query)


def top(run: Run, count: int) -> Run:
    """The first `count` documents of each query, ties by document id.

    >>> top({"q": {"a": 1.0, "b": 2.0}}, 1)
    {'q': {'b': 2.0}}
    """
    return {query: dict(ranked(scores)[:count]) for query, scores in run.items()}


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
    _refuse_non_finite(query, head)
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


def write_evaluation(
    folder: str | Path, run: Run, evaluation: Evaluation, summary: Mapping[str, Any], force: bool = False
) -> None:
    """Write `run.trec`, `per_query.tsv` and `summary.json` into a folder.

    Raises:
        ProrankError: the folder is taken and `force` is not set.
    """
    folder = Path(folder)
    refuse_overwrite(folder, force)
    write_run(run, folder / "run.trec")
    with atomic_writer(folder / "per_query.tsv") as file:
        file.write("\t".join(["query-id", *evaluation.metrics]) + "\n")
        for query in evaluation.per_query[evaluation.metrics[0]]:
            cells = [f"{evaluation.per_query[metric][query]:.6f}" for metric in evaluation.metrics]
            file.write("\t".join([query, *cells]) + "\n")
    write_json(folder / "summary.json", dict(summary))
