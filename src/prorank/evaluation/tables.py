"""Tables of results for the terminal and for Markdown. Knows rows (dictionaries); computes nothing itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prorank.data.collection import Collection
from prorank.data.runs import without_relevant

COLUMNS = {"ndcg@10": "NDCG@10", "mrr@10": "MRR@10"}


def interval_cell(row: Mapping[str, Any], metric: str) -> str:
    """A metric with its 95 % interval."""
    low, high = row[f"{metric}_interval"]
    return f"{row[metric]:.3f} [{low:.3f}, {high:.3f}]"


def p_value_cell(row: Mapping[str, Any]) -> str:
    """A row's p-value, empty where there is none."""
    p = row.get("p_value")
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _gain(row: Mapping[str, Any]) -> str:
    return "" if row.get("difference") is None else f"{row['difference']:+.3f}"


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [row["stage"], *(interval_cell(row, metric) for metric in COLUMNS), _gain(row), p_value_cell(row)]


def _header(*runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the columns; difference and p-value are against a run's first row."""
    bases = {row["stage"] for rows in runs for row in rows[:1]}
    base = bases.pop() if len(bases) == 1 else "the first stage"
    return ["stage", *(f"{title} [95 %]" for title in COLUMNS.values()), f"over {base}", "p"]


def results_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows of a run as a table for the terminal."""
    table = Table(box=None, pad_edge=False)
    for i, title in enumerate(_header(rows)):
        table.add_column(escape(title), justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, _cells(row)))
    return table


def markdown_lines(header: Sequence[str], lines: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table whose first `left` columns are text and the others metrics."""
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in [header, rule, *lines]
    )


def step_gains(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence for each row that was compared with the stage before it.

    >>> versus = {"stage": "zero-shot", "difference": 0.03, "low": 0.01, "high": 0.05, "p_value": 0.002}
    >>> step_gains([{"stage": "BM25"}, {"stage": "score-learning", "versus_before": versus}])
    ['score-learning over zero-shot: NDCG@10 +0.030 [+0.010, +0.050], p 0.002']
    """
    sentences = []
    for row in rows:
        if found := row.get("versus_before"):
            gain = f"{_gain(found)} [{found['low']:+.3f}, {found['high']:+.3f}]"
            sentences.append(f"{row['stage']} over {found['stage']}: NDCG@10 {gain}, p {p_value_cell(found)}")
    return sentences


def print_rows(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """A run's table in the terminal, and under it what each stage gained over the one before."""
    console.print(results_table(rows))
    for sentence in step_gains(rows):
        console.print(sentence, markup=False, highlight=False)


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The same table in Markdown.

    >>> row = {"stage": "BM25", "ndcg@10": 0.5, "ndcg@10_interval": [0.4, 0.6]}
    >>> print(markdown_table([row | {"mrr@10": 0.5, "mrr@10_interval": [0.4, 0.6]}]).splitlines()[-1])
    | BM25 | 0.500 [0.400, 0.600] | 0.500 [0.400, 0.600] |  |  |
    """
    return markdown_lines(_header(rows), map(_cells, rows))


def markdown_report(results: Sequence[Mapping[str, Any]]) -> str:
    """Several runs in one Markdown table, one line for each collection and stage.

    Args:
        results: contents of `results.json` files.
    """
    lines = [[result["collection"], *_cells(row)] for result in results for row in result["rows"]]
    header = _header(*(result["rows"] for result in results))
    return markdown_lines(["collection", *header], lines, left=2)


def collection_summary(collection: Collection) -> dict[str, Any]:
    """Counts of a collection: documents, queries, judgments and grades by split, doubtful entries."""
    splits = {}
    for split, qrels in collection.qrels.items():
        grades: dict[str, int] = {}
        for judged in qrels.values():
            for grade in judged.values():
                grades[str(grade)] = grades.get(str(grade), 0) + 1
        splits[split] = {
            "queries": len(qrels),
            "queries_without_relevant": len(without_relevant(qrels)),
            "judgments": sum(grades.values()),
            "grades": dict(sorted(grades.items())),
        }
    lengths = sorted(len(document.content) for document in collection.documents.values())
    return {
        "name": collection.name,
        "documents": len(collection.documents),
        "median_characters": lengths[len(lengths) // 2],
        "longest_characters": lengths[-1],
        "queries": len(collection.queries),
        "splits": splits,
        "problems": [str(problem) for problem in collection.problems],
        "fingerprint": collection.fingerprint,
    }


def collection_headline(collection: Collection) -> str:
    """Name and sizes in one sentence."""
    summary = collection_summary(collection)
    return (
        f"{summary['name']}: {summary['documents']} documents (median {summary['median_characters']} characters, "
        f"longest {summary['longest_characters']}), {summary['queries']} queries"
    )


def collection_table(collection: Collection) -> Table:
    """Queries, judgments and grades by split, for the terminal."""
    table = Table(box=None, pad_edge=False)
    for column in ("split", "queries", "without a relevant document", "judgments", "grades"):
        table.add_column(column)
    for split, counts in collection_summary(collection)["splits"].items():
        table.add_row(split, *map(str, counts.values()))
    return table
