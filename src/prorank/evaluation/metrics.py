"""Metrics by ir-measures. Knows runs and qrels; nothing of models.

Nothing is ever put into a candidate list: a relevant document that the first stage missed stays missed.
"""

from __future__ import annotations

import difflib
import math
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prorank.data.runs import Qrels, Run, ranked, refuse_bad_grades, refuse_non_finite, with_relevant
from prorank.data.trec import write_run
from prorank.util.errors import DataError, ProrankError, require
from prorank.util.files import atomic_writer, read_text, refuse_folder_overwrite, split_lines, write_json

DEFAULT_METRICS = ("nDCG@10", "RR@10", "AP@100", "R@100", "P@1")  # names of ir-measures
DECIMALS = 6  # of a value in `per_query.tsv`
# Files of an evaluation, in the order of writing.
EVALUATION_FILES = RUN, PER_QUERY, SUMMARY = "run.trec", "per_query.tsv", "summary.json"
_SUGGESTED = (*DEFAULT_METRICS, "nDCG@20", "AP", "R@10", "RR", "P@10")


class Evaluation(NamedTuple):
    """Metrics by metric and query; metric keys are lower-case, with `mrr` for reciprocal rank."""

    metrics: tuple[str, ...]
    per_query: dict[str, dict[str, float]]

    def values(self, metric: str) -> dict[str, float]:
        """Metrics of one metric by query.

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
        values = self.values(metric).values()
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


def evaluate_run(
    run: Run, qrels: Qrels, metrics: Sequence[str] = DEFAULT_METRICS, relevant_from: int = 1
) -> Evaluation:
    """Metrics of a run for every query that has a relevant document; a query missing from the run scores 0.

    Queries whose judgments are all 0 are left out (see `without_relevant`); ir-measures itself counts them as 0.

    Args:
        run: by query; scores decide the order, ties go by document id.
        qrels: judgments of the split.
        metrics: names of ir-measures.
        relevant_from: least grade that counts as relevant in metrics that know no grades.

    Raises:
        ProrankError: an unknown metric, or one that cannot be computed here.
        DataError: no query has a relevant document, a score is not finite, or a grade is no integer or too large.

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
    refuse_bad_grades(qrels)
    judged = with_relevant(qrels)
    if not judged:
        raise DataError("no query of the judgments has a relevant document")
    per_query = {metric_key(name): dict.fromkeys(judged, 0.0) for name in metrics}
    for query in judged.keys() & run.keys():
        refuse_non_finite(query, run[query])
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


def read_per_query(path: str | Path) -> dict[str, dict[str, float]]:
    """Metric -> query -> value of a `per_query.tsv` that `write_evaluation` wrote.

    Raises:
        DataError: not such a file; with the line.
    """
    rows = [line.split("\t") for line in split_lines(read_text(path))]
    if len(rows) < 2 or rows[0][0] != "query-id":
        raise DataError(f"{path}: no table of metrics per query", hint="prorank evaluate --output writes one")
    found: dict[str, dict[str, float]] = {metric: {} for metric in rows[0][1:]}
    for number, (query, *cells) in enumerate(rows[1:], start=2):
        if len(cells) != len(found):
            raise DataError(
                f"{path}:{number}: {len(cells)} values for {len(found)} metrics", hint="copy the file again"
            )
        for metric, cell in zip(found, cells):
            if query in found[metric]:
                raise DataError(f"{path}:{number}: query '{query}' stands twice", hint="copy the file again")
            try:
                value = float(cell)
            except ValueError:
                value = math.nan
            if not math.isfinite(value):
                raise DataError(f"{path}:{number}: '{cell}' is no number", hint="copy the file again")
            found[metric][query] = value
    return found


def write_evaluation(
    folder: str | Path, run: Run, evaluation: Evaluation, summary: Mapping[str, Any], force: bool = False
) -> None:
    """Write `run.trec`, `per_query.tsv` and `summary.json` into a folder; the last marks the others whole.

    Raises:
        ProrankError: the folder is taken and `force` is not set.
    """
    folder = Path(folder)
    refuse_folder_overwrite(folder, force)
    (folder / SUMMARY).unlink(missing_ok=True)
    write_run(run, folder / RUN)
    with atomic_writer(folder / PER_QUERY) as file:
        file.write("\t".join(["query-id", *evaluation.metrics]) + "\n")
        for query in evaluation.per_query[evaluation.metrics[0]]:
            cells = [f"{evaluation.per_query[metric][query]:.{DECIMALS}f}" for metric in evaluation.metrics]
            file.write("\t".join([query, *cells]) + "\n")
    write_json(folder / SUMMARY, dict(summary))


def remove_evaluation(folder: Path) -> None:
    """Delete what `write_evaluation` wrote into a folder, and the folder where nothing else lies in it."""
    if folder.is_dir():
        for name in reversed(EVALUATION_FILES):
            (folder / name).unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()
