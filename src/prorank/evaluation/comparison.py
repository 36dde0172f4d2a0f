"""Several results on the same queries, each against the first: differences, intervals, two paired tests, Holm.

Reads metrics per query, or runs together with judgments. Knows no models.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from prorank.data.collection import Collection
from prorank.data.runs import Qrels, Run, with_relevant
from prorank.data.trec import read_run, read_run_of
from prorank.evaluation.judged import PROTOCOL, judged_by, record_of, refuse_other_judgments
from prorank.evaluation.metrics import DECIMALS, PER_QUERY, Evaluation, evaluate_run, metric_key, read_per_query
from prorank.evaluation.significance import bootstrap_interval, compare, holm
from prorank.evaluation.tables import markdown_lines, p_value_cell
from prorank.util.errors import DataError, require

NAMED = 4  # deeper folders that an error names
DEEPEST, LOOKED_AT = 3, 500  # levels of folders, and folders, that are searched for them: more are no results' folder
LATEX_SPECIAL = {c: f"\\{c}" for c in "&%_#${}"} | {c: f"${c}$" for c in "<>|"}
LATEX_SPECIAL |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def read_results(
    paths: Sequence[Path], metric: str, collection: Collection | None = None, split: str = "test"
) -> list[Evaluation]:
    """Metrics per query of each path: of an evaluation's folder or table, or of a TREC run measured now.

    Args:
        paths: folders with `per_query.tsv`, such tables, or runs. Where there are tables, runs are measured on their
            queries, since an evaluation may be of a sample, and by their least relevant grade.
        metric: as ir-measures writes it, `nDCG@10`.
        collection: whose judgments, for runs.
        split: whose queries, for runs.

    Raises:
        DataError: no such path, no such metric in a table, a run without judgments or with none of their queries, or
            results that were measured by different judgments.
    """
    key, tables = metric_key(metric), dict[Path, Path]()
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
    for path in paths:
        table = _table_in(path) if path.is_dir() else path
        if table.suffix == ".tsv":
            tables[path] = table
        elif collection is None:
            raise DataError(f"{path}: a run needs judgments", hint="add --collection (and --split)")
    read = {path: Evaluation((key,), {key: _column(table, key)}) for path, table in tables.items()}
    qrels = {} if collection is None else collection.judgments(split)
    records = {path: record_of(table) for path, table in tables.items()}
    if collection is not None:
        own = {one: value for one, value in judged_by(collection, split).items() if one not in PROTOCOL}
        records |= {path: own for path in paths if path not in tables}
    relevant_from = (refuse_other_judgments(records) or {}).get("relevant_from", 1)
    if tables:
        measured = set.intersection(*(set(one.values(key)) for one in read.values()))
        qrels = {query: judged for query, judged in qrels.items() if query in measured}
    for path in paths:
        if path not in tables:  # rounded as tables are, so that the same list is a tie
            one = _measured(path, qrels, metric, relevant_from)
            read[path] = _rounded(one) if tables else one
    return [read[path] for path in paths]


def _table_in(folder: Path) -> Path:
    """The table of metrics per query of a folder; deeper ones are named where it has none."""
    if not (folder / PER_QUERY).is_file():
        found = _evaluations_below(folder)
        hint = (
            f"give one of {', '.join(map(str, found[:NAMED]))}"
            if found
            else "prorank evaluate --output writes it into a folder"
        )
        raise DataError(f"{folder}: no {PER_QUERY} in it", hint=hint)
    return folder / PER_QUERY


def _evaluations_below(folder: Path) -> list[Path]:
    """Folders below this one that hold a table, the nearest first; none where the search would be long."""
    found, level, looked = [], [folder], 0
    for _ in range(DEEPEST):
        level = list(islice((child for parent in level for child in _folders_in(parent)), LOOKED_AT))
        looked += len(level)
        if looked >= LOOKED_AT:
            return []
        found += [one for one in level if (one / PER_QUERY).is_file()]
    return found


def _folders_in(folder: Path) -> list[Path]:
    """The folders in a folder by name, hidden ones and links left out; none where it may not be read."""
    try:
        with os.scandir(folder) as entries:
            names = [one.name for one in entries if one.is_dir(follow_symlinks=False) and not one.name.startswith(".")]
    except OSError:
        return []
    return [folder / name for name in sorted(names)]


def _measured(path: Path, qrels: Qrels, metric: str, relevant_from: int) -> Evaluation:
    """A run's metrics; the judged queries that it lacks are told."""
    run = read_run_of(path, with_relevant(qrels), "they score 0")
    return evaluate_run(run, qrels, (metric,), relevant_from)


def run_of(path: Path) -> Run:
    """The run that a result was measured on: `run.trec` of an evaluation's folder, or the run itself.

    Raises:
        DataError: a table of metrics alone, or no run in the folder.
    """
    if path.suffix == ".tsv":
        raise DataError(f"{path}: a table of metrics holds no run", hint="give the evaluation's folder, or the run")
    return read_run(path / "run.trec" if path.is_dir() else path)


def _rounded(one: Evaluation) -> Evaluation:
    """The values as `per_query.tsv` holds them."""
    return one._replace(
        per_query={m: {q: round(x, DECIMALS) for q, x in own.items()} for m, own in one.per_query.items()}
    )


def _column(table: Path, key: str) -> dict[str, float]:
    found = read_per_query(table)
    if key not in found:
        raise DataError(f"{table}: no metric '{key}'", hint=f"it has {', '.join(found)}")
    return found[key]


def t_test(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p-value of Student's paired t-test (`scipy.stats.ttest_rel`).

    It is 1 where no query differs, and for a single query, whose spread nobody knows.

    >>> round(t_test([0.6, 0.9, 0.8], [0.5, 0.6, 0.7]), 3)
    0.13
    """
    if len(a) == 1 or all(x == y for x, y in zip(a, b)):
        return 1.0
    with warnings.catch_warnings():  # of equal differences, scipy says that their spread is rounding
        warnings.filterwarnings("ignore", "Precision loss occurred", RuntimeWarning)
        return float(require("scipy.stats", "eval").ttest_rel(a, b).pvalue)


def compared(results: Mapping[str, Evaluation], metric: str) -> list[dict[str, Any]]:
    """One row a result, the first being what the others are compared with.

    Args:
        results: by name, of the same queries.
        metric: key such as `ndcg@10`.

    Returns:
        Rows of `name`, mean under the metric's key, its interval, and but for the first `versus_first`: difference with
        interval, wins, ties, losses, `p_value` (randomisation), `t_p_value`, and both adjusted by Holm.

    Raises:
        DataError: the results cover different queries.
    """
    (_, first), *_ = results.items()
    rows = []
    for name, one in results.items():
        values = one.values(metric)
        row: dict[str, Any] = {"name": name, metric: one.mean(metric), "queries": len(values)}
        row[f"{metric}_interval"] = bootstrap_interval(list(values.values()))
        if one is not first:
            found = compare(one, first, metric)
            base = first.values(metric)
            row["versus_first"] = found._asdict() | {
                "t_p_value": t_test([values[q] for q in base], list(base.values()))
            }
        rows.append(row)
    others = [row["versus_first"] for row in rows if "versus_first" in row]
    for test in ("p_value", "t_p_value"):
        for row, adjusted in zip(others, holm([row[test] for row in others])):
            row[f"{test}_holm"] = adjusted
    return rows


def _cells(rows: Sequence[Mapping[str, Any]], metric: str) -> list[list[str]]:
    lines = []
    for row in rows:
        low, high = row[f"{metric}_interval"]
        cells = [row["name"], f"{row[metric]:.3f} [{low:.3f}, {high:.3f}]"]
        if (other := row.get("versus_first")) is not None:
            cells.append(f"{other['difference']:+.3f} [{other['low']:+.3f}, {other['high']:+.3f}]")
            cells.append(f"{other['wins']}/{other['ties']}/{other['losses']}")
            cells += [p_value_cell({"p_value": other[key]}) for key in ("p_value_holm", "t_p_value_holm")]
        lines.append([*cells, *[""] * (6 - len(cells))])
    return lines


def _header(rows: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    first = rows[0]["name"]
    return ["", f"{metric} [95 %]", f"over {first}", "wins/ties/losses", "p (randomisation)", "p (t-test)"]


def comparison_markdown(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Rows of `compared` in Markdown; p-values are Holm's."""
    return markdown_lines(_header(rows, metric), _cells(rows, metric))


def comparison_latex(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Rows of `compared` as a LaTeX tabular (package booktabs); p-values are Holm's."""
    return latex_table(_header(rows, metric), _cells(rows, metric))


def latex_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A LaTeX tabular (package booktabs), its first column text and the others numbers."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join("".join(LATEX_SPECIAL.get(c, c) for c in cell) for cell in cells) + r" \\"

    body = "\n".join(map(line, lines))
    columns = "l" + "r" * (len(header) - 1)
    return (
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{line(header)}\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}"
    )
