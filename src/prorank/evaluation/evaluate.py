"""Metrics by ir-measures, and reranking of the true first stage.

Nothing is ever put into a candidate list: a relevant document that the first stage missed stays missed. Knows
runs and qrels; knows nothing of models.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prorank.collection import Qrels, Run, ranked, write_run
from prorank.errors import DataError, ProrankError, require
from prorank.files import atomic_writer, refuse_overwrite, write_json

DEFAULT_METRICS = ("nDCG@10", "RR@10", "AP@100", "R@100", "P@1")  # names of ir-measures


class Evaluation(NamedTuple):
    """Figures by metric and query; metric keys are lower-case, with `mrr` for reciprocal rank."""

    metrics: tuple[str, ...]
    per_query: dict[str, dict[str, float]]

    def mean(self, metric: str) -> float:
        """Mean over all queries.

        >>> Evaluation(("p@1",), {"p@1": {"a": 1.0, "b": 0.0}}).mean("p@1")
        0.5
        """
        values = self.per_query[metric].values()
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
        return measures.parse_measure(name)
    except (ValueError, NameError, KeyError, SyntaxError) as error:
        near = difflib.get_close_matches(name, [*DEFAULT_METRICS, "nDCG@20", "AP", "R@10", "RR", "P@10"], n=1)
        hint = f"did you mean {near[0]}?" if near else "see ir-measur.es for names, e.g. nDCG@10"
        raise ProrankError(f"unknown metric '{name}'", hint=hint) from error


def evaluate_run(run: Run, qrels: Qrels, metrics: Sequence[str] = DEFAULT_METRICS) -> Evaluation:
    """Figures of a run for every query that has a relevant document; a query missing from the run scores 0.

    Args:
        run: by query; scores decide the order, ties go by document id.
        qrels: judgments of the split.
        metrics: names of ir-measures.

    Raises:
        ProrankError: an unknown metric.
        DataError: no query has a relevant document.

    >>> evaluate_run({"q": {"a": 2.0, "b": 1.0}}, {"q": {"b": 1}}, ("RR@10",)).mean("mrr@10")
    0.5
    """
    measures = require("ir_measures", "eval")
    parsed = {name: _parse_metric(name) for name in metrics}
    judged = {query: grades for query, grades in qrels.items() if any(grade > 0 for grade in grades.values())}
    if not judged:
        raise DataError("no query of the judgments has a relevant document")
    per_query = {metric_key(name): dict.fromkeys(judged, 0.0) for name in metrics}
    key_of = {measure: metric_key(name) for name, measure in parsed.items()}
    # Libraries break ties each in their own way; ranks in place of scores make every metric see one order.
    lists = {
        query: {document: -float(rank) for rank, (document, _) in enumerate(ranked(scores))}
        for query, scores in run.items()
        if query in judged and scores
    }
    if lists:
        for value in measures.iter_calc(list(parsed.values()), judged, lists):
            per_query[key_of[value.measure]][value.query_id] = float(value.value)
    return Evaluation(tuple(per_query), per_query)


def top(run: Run, count: int) -> Run:
    """The first `count` documents of each query, ties by document id.

    >>> top({"q": {"a": 1.0, "b": 2.0}}, 1)
    {'q': {'b': 2.0}}
    """
    return {query: dict(ranked(scores)[:count]) for query, scores in run.items()}


def with_tail(head: Mapping[str, float], tail: Sequence[str]) -> dict[str, float]:
    """Scores of a reordered head, and below them the tail in its own order.

    >>> with_tail({"a": 0.5, "b": -2.0}, ["c", "d"])
    {'a': 0.5, 'b': -2.0, 'c': -3.0, 'd': -4.0}
    """
    lowest = min(head.values(), default=0.0)
    return {**head, **{document: lowest - i for i, document in enumerate(tail, start=1)}}


def rerank_run(first_stage: Run, scores: Mapping[str, Mapping[str, float]], top_k: int) -> Run:
    """The first `top_k` documents of the first stage in the order of `scores`; the rest stay below as they were.

    Args:
        first_stage: the true first-stage run.
        scores: query id -> document id -> reranker score, for every document of the head.
        top_k: size of the head.

    Raises:
        DataError: a head document has no score.

    >>> rerank_run({"q": {"a": 3.0, "b": 2.0, "c": 1.0}}, {"q": {"a": 0.0, "b": 1.0}}, top_k=2)
    {'q': {'a': 0.0, 'b': 1.0, 'c': -1.0}}
    """
    result: Run = {}
    for query, listed in first_stage.items():
        order = [document for document, _ in ranked(listed)]
        missing = [document for document in order[:top_k] if document not in scores.get(query, {})]
        if missing:
            raise DataError(f"no reranker score for query '{query}', document '{missing[0]}'")
        result[query] = with_tail({d: float(scores[query][d]) for d in order[:top_k]}, order[top_k:])
    return result


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
