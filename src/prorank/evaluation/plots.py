"""Plots of results and of training. Knows rows and log entries; computes nothing itself."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prorank.evaluation.tables import COLUMNS
from prorank.util.errors import DataError, require
from prorank.util.files import read_json

# Shares of the training log are drawn from 0 to 1: a small wobble must not look like a leap.
SHARES = ("format_rate", "accuracy", "balance", "_mass", "reward_format", "clip_fraction", "equal_groups")
CHANCE = {"balanced_accuracy": 0.5, "verdict_balance": 0.5}


def save_figure(figure: Any, path: str | Path) -> None:
    """Write a figure to a PNG file, whole or not at all, and close it."""
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


def draw_panels(titles: Sequence[str]) -> tuple[Any, list[Any]]:
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
    save_figure(figure, path)


def plot_curves(log: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Training curves: one small panel for each metric of the log, over the training step.

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
    figure, axes = draw_panels(titles)
    for axis, (name, points) in zip(axes, series.items()):
        held_out = name in held
        axis.plot(*zip(*points), marker="o" if held_out or len(points) == 1 else None, markersize=3, linewidth=1.3)
        if name.endswith(SHARES):
            axis.set_ylim(-0.04, 1.04)
        if (chance := CHANCE.get(name.removeprefix("eval_"))) is not None:
            axis.axhline(chance, color="0.6", linestyle="--", linewidth=0.8)
    figure.supxlabel("step", fontsize=8)
    save_figure(figure, path)


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
