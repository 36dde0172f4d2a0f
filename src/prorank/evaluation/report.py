"""Tables and plots of results. Knows rows (dictionaries) and log entries; computes nothing itself."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prorank.collection import Collection
from prorank.errors import DataError, require
from prorank.files import read_json

COLUMNS = {"ndcg@10": "NDCG@10", "mrr@10": "MRR@10"}
# Shares of the training log are drawn from 0 to 1: a small wobble must not look like a leap.
SHARES = ("format_rate", "accuracy", "balance", "_mass", "reward_format", "clip_fraction", "equal_groups")
CHANCE = {"balanced_accuracy": 0.5, "verdict_balance": 0.5}


def _cell(row: Mapping[str, Any], metric: str) -> str:
    low, high = row[f"{metric}_interval"]
    return f"{row[metric]:.3f} [{low:.3f}, {high:.3f}]"


def _p_value(row: Mapping[str, Any]) -> str:
    p = row.get("p_value")
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _gain(row: Mapping[str, Any]) -> str:
    return "" if row.get("difference") is None else f"{row['difference']:+.3f}"


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [row["stage"], *(_cell(row, metric) for metric in COLUMNS), _gain(row), _p_value(row)]


HEADER = ["stage", *(f"{title} [95 %]" for title in COLUMNS.values()), "gain", "p"]


def results_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows of a run as a table for the terminal."""
    table = Table(box=None, pad_edge=False)
    for i, title in enumerate(HEADER):
        table.add_column(title, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, _cells(row)))
    return table


def _markdown(header: Sequence[str], lines: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table whose first `left` columns are text and the others figures."""
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
            sentences.append(f"{row['stage']} over {found['stage']}: NDCG@10 {gain}, p {_p_value(found)}")
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
    return _markdown(HEADER, map(_cells, rows))


def markdown_report(results: Sequence[Mapping[str, Any]]) -> str:
    """Several runs in one Markdown table, one line for each collection and stage.

    Args:
        results: contents of `results.json` files.
    """
    lines = [[result["collection"], *_cells(row)] for result in results for row in result["rows"]]
    return _markdown(["collection", *HEADER], lines, left=2)


def quality_rows(results: Mapping[str, Any]) -> list[list[str]]:
    """One line a collection: NDCG@10 of every stage with its interval, and two gains with Holm's p-values.

    Args:
        results: what `run_quality_bench` returned.
    """
    header = ["collection", "queries", "first stage", "bi-encoder", "model", "hybrid"]
    lines = [[*header, "model - first stage (p)", "model - bi-encoder (p)"]]
    for i, found in enumerate(results["collections"]):
        over_first, over_dense = (
            f"{difference:+.3f} ({_p_value({'p_value': results['adjusted'][name][i]})})"
            for difference, name in (
                (_stage(found, "reranked")["difference"], "reranked over first stage"),
                (found["versus_dense"]["difference"], "reranked over bi-encoder"),
            )
        )
        cells = [_cell(row, "ndcg@10") for row in found["rows"]]
        lines.append([found["collection"], str(found["queries"]), *cells, over_first, over_dense])
    return lines


def erank_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of `bench.erank` whose score is the expected grade: means over seeds, the gain over supervised grades.

    The expected grade of a model that answers 0 or 1 orders documents as its logit difference does.
    """
    lines = []
    for row in rows:
        if row["score"] == "expected_grade":
            seeds = " ".join(f"{value:.3f}" for value in row["seeds"])
            gain = f"{row['difference']:+.3f} ({_p_value(row)})" if "difference" in row else ""
            lines.append([row["collection"], row["variant"], f"{row['ndcg@10']:.3f}", seeds, gain])
    return _markdown(["collection", "trained", "NDCG@10", "seeds", "over sft (p)"], lines, left=2)


def ties_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of `bench.erank` by score formula: distinct scores a list, and NDCG@10 with ties broken at random."""
    lines = []
    for row in rows:
        names = [row["collection"], row["variant"], row["score"].replace("_", " ")]
        ties = f"{row['random_ties']:.3f} ± {row['random_ties_deviation']:.3f}"
        lines.append([*names, f"{row['ndcg@10']:.3f}", f"{row['distinct']:.1f}", ties])
    return _markdown(["collection", "trained", "score", "NDCG@10", "distinct scores", "ties at random"], lines, left=3)


def _stage(summary: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return next(row for row in summary["rows"] if row["stage"] == name)


def quality_table(results: Mapping[str, Any]) -> Table:
    """`quality_rows` for the terminal."""
    header, *lines = quality_rows(results)
    table = Table(box=None, pad_edge=False)
    for i, title in enumerate(header):
        table.add_column(title, justify="left" if i == 0 else "right")
    for cells in lines:
        table.add_row(*map(escape, cells))
    return table


def quality_markdown(results: Mapping[str, Any]) -> str:
    """`quality_rows` in Markdown."""
    header, *lines = quality_rows(results)
    return _markdown(header, lines)


def _save(figure: Any, path: str | Path) -> None:
    part = Path(f"{path}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(part, dpi=150, format="png", bbox_inches="tight")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    figure = require("matplotlib.figure", "eval").Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _panels(titles: Sequence[str]) -> tuple[Any, list[Any]]:
    """A figure and one small panel for each title, at most four in a row."""
    columns = min(4, len(titles))
    rows = -(-len(titles) // columns)
    figure, axes = _figure(2.7 * columns, 2.0 * rows, rows, columns)
    for axis in axes.flat[len(titles) :]:
        axis.set_visible(False)
    for axis, title in zip(axes.flat, titles):
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(color="0.92")
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes.flat[: len(titles)])


def plot_stages(rows: Sequence[Mapping[str, Any]], path: str | Path, metric: str = "ndcg@10") -> None:
    """NDCG@10 of each stage with its 95 % interval; the first stage as a dashed line.

    Args:
        rows: of `results.json`; the first is the first stage.
        path: PNG to write; not written if there are no rows.
        metric: key of the rows that is drawn.
    """
    if not rows:
        return
    figure, axes = _figure(7, 0.9 + 0.45 * len(rows))
    axis = axes[0, 0]
    positions = range(len(rows))[::-1]
    for position, row in zip(positions, rows):
        low, high = row[f"{metric}_interval"]
        colour = "0.45" if row is rows[0] else "tab:blue"
        axis.plot([low, high], [position, position], color=colour, linewidth=2, solid_capstyle="round")
        axis.plot(row[metric], position, "o", color=colour, markersize=7)
        axis.annotate(
            f"{row[metric]:.3f}",
            (row[metric], position),
            (0, 7),
            textcoords="offset points",
            ha="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    axis.axvline(rows[0][metric], color="0.45", linestyle="--", linewidth=1, zorder=1)
    axis.set_yticks(list(positions), [row["stage"] for row in rows])
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(-0.6, len(rows) - 0.3)
    axis.set_xlabel(f"{COLUMNS.get(metric, metric)} with 95 % interval")
    axis.grid(axis="x", color="0.9")
    axis.spines[["top", "right", "left"]].set_visible(False)
    _save(figure, path)


def plot_curves(log: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Training curves: one small panel for each figure of the log, over the training step.

    Args:
        log: entries with `step` and numbers, as a Trainer's log history; entries without a step are left out.
        path: PNG to write; not written if there is nothing to draw.
    """
    skipped = ("step", "epoch", "total_flos", "train_runtime", "train_loss")
    series: dict[str, list[tuple[float, float]]] = {}
    for entry in (entry for entry in log if "step" in entry):
        for name, value in entry.items():
            if name not in skipped and not name.startswith("train_") and isinstance(value, (int, float)):
                series.setdefault(name, []).append((entry["step"], value))
    if not series:
        return
    held = {name: " (held out)" for name in series if name.startswith("eval_")}
    titles = [name.removeprefix("eval_").replace("_", " ") + held.get(name, "") for name in series]
    figure, axes = _panels(titles)
    for axis, (name, points) in zip(axes, series.items()):
        held_out = name in held
        axis.plot(*zip(*points), marker="o" if held_out or len(points) == 1 else None, markersize=3, linewidth=1.3)
        if name.endswith(SHARES):
            axis.set_ylim(-0.04, 1.04)
        if (chance := CHANCE.get(name.removeprefix("eval_"))) is not None:
            axis.axhline(chance, color="0.6", linestyle="--", linewidth=0.8)
    figure.supxlabel("step", fontsize=8)
    _save(figure, path)


def plot_run(folder: str | Path) -> list[Path]:
    """Draw what a run's folder holds: `curves.png` beside each stage's log, `stages.png` beside the results.

    Args:
        folder: of `prorank train`; the run may still be going on.

    Returns:
        The files that were written.

    Raises:
        DataError: there is neither a training log nor a result.
    """
    folder = Path(folder)
    written = []
    for stage in ("warmup", "score-learning", "sft", "listwise"):
        log = folder / stage / "training" / "log.json"
        if log.is_file():
            plot_curves(read_json(log), folder / stage / "curves.png")
            written.append(folder / stage / "curves.png")
    if (folder / "results.json").is_file():
        plot_stages(read_json(folder / "results.json")["rows"], folder / "stages.png")
        written.append(folder / "stages.png")
    if not written:
        raise DataError(f"{folder}: no training log and no results", hint="name the folder of a `prorank train` run")
    return written


def guards_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows of `bench.guards` for the terminal."""
    table = Table(box=None, pad_edge=False)
    table.add_column("variant", no_wrap=True)
    for title in ("test", "worst seed", "dev", "format (worst)", "says relevant", "failed seeds"):
        table.add_column(title, justify="right")
    keys = ("test", "test_worst", "dev", "format_worst", "verdict_balance")
    for row in rows:
        failed = f"{row['failed']} of {len(row['seeds'])}"
        table.add_row(row["variant"], *(f"{row[key]:.3f}" for key in keys), failed)
    return table


def plot_guards(runs: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Held-out balanced accuracy over the steps: one panel a variant, one line a seed; chance is dashed.

    Args:
        runs: of `bench.guards`: `variant`, `seed` and `curve`.
        path: PNG to write.
    """
    panels: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        panels.setdefault(run["variant"], []).append(run)
    figure, axes = _panels(list(panels))
    for axis, found in zip(axes, panels.values()):
        for run in found:
            points = [(entry["step"], entry["eval_balanced_accuracy"]) for entry in run["curve"]]
            axis.plot(*zip(*points), marker="o", markersize=2.5, linewidth=1.2, label=f"seed {run['seed']}")
        axis.axhline(0.5, color="0.6", linestyle="--", linewidth=0.8)
        axis.set_ylim(-0.04, 1.04)
    axes[0].legend(fontsize=6, frameon=False)
    figure.supxlabel("step", fontsize=8)
    figure.supylabel("held-out balanced accuracy", fontsize=8)
    _save(figure, path)


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
    for column in ("split", "queries", "judgments", "grades"):
        table.add_column(column)
    for split, counts in collection_summary(collection)["splits"].items():
        table.add_row(split, str(counts["queries"]), str(counts["judgments"]), str(counts["grades"]))
    return table
