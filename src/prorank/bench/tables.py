"""Tables and plots of the benchmarks. Knows their rows; computes nothing itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from prorank.evaluation.plots import draw_panels, save_figure
from prorank.evaluation.tables import interval_cell, markdown_lines, p_value_cell


def quality_rows(results: Mapping[str, Any]) -> list[list[str]]:
    """One line per collection: NDCG@10 of every stage with its interval, and two gains with Holm's p-values.

    Args:
        results: what `run_quality_bench` returned.
    """
    header = ["collection", "queries", "first stage", "bi-encoder", "model", "hybrid"]
    lines = [[*header, "model - first stage (p)", "model - bi-encoder (p)"]]
    for i, found in enumerate(results["collections"]):
        over_first, over_dense = (
            f"{difference:+.3f} ({p_value_cell({'p_value': results['adjusted'][name][i]})})"
            for difference, name in (
                (_stage(found, "reranked")["difference"], "reranked over first stage"),
                (found["versus_dense"]["difference"], "reranked over bi-encoder"),
            )
        )
        cells = [interval_cell(row, "ndcg@10") for row in found["rows"]]
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
            gain = f"{row['difference']:+.3f} ({p_value_cell(row)})" if "difference" in row else ""
            lines.append([row["collection"], row["variant"], f"{row['ndcg@10']:.3f}", seeds, gain])
    return markdown_lines(["collection", "trained", "NDCG@10", "seeds", "over sft (p)"], lines, left=2)


def ties_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of `bench.erank` by score formula: distinct scores per list, and NDCG@10 with ties broken at random."""
    lines = []
    for row in rows:
        names = [row["collection"], row["variant"], row["score"].replace("_", " ")]
        ties = f"{row['random_ties']:.3f} ± {row['random_ties_deviation']:.3f}"
        lines.append([*names, f"{row['ndcg@10']:.3f}", f"{row['distinct']:.1f}", ties])
    return markdown_lines(
        ["collection", "trained", "score", "NDCG@10", "distinct scores", "ties at random"], lines, left=3
    )


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
    return markdown_lines(header, lines)


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
    """Held-out balanced accuracy over the steps: one panel per variant, one line per seed; chance is dashed.

    Args:
        runs: of `bench.guards`: `variant`, `seed` and `curve`.
        path: PNG to write.
    """
    panels: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        panels.setdefault(run["variant"], []).append(run)
    figure, axes = draw_panels(list(panels))
    for axis, found in zip(axes, panels.values()):
        for run in found:
            points = [(entry["step"], entry["eval_balanced_accuracy"]) for entry in run["curve"]]
            axis.plot(*zip(*points), marker="o", markersize=2.5, linewidth=1.2, label=f"seed {run['seed']}")
        axis.axhline(0.5, color="0.6", linestyle="--", linewidth=0.8)
        axis.set_ylim(-0.04, 1.04)
    axes[0].legend(fontsize=6, frameon=False)
    figure.supxlabel("step", fontsize=8)
    figure.supylabel("held-out balanced accuracy", fontsize=8)
    save_figure(figure, path)


def ablation_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of `bench.ablation`: means over seeds, the last stage's interval, the gain over the recipe as it stands."""
    lines = []
    for row in rows:
        verdicts = [f"{row[name]:.2f}" if name in row else "" for name in ("format_rate", "balanced_accuracy")]
        warm = row["stages"].get("warmup")
        other = row.get("versus_recipe")
        p_value = p_value_cell({"p_value": other["adjusted"]}) if other else ""
        gain = f"{other['difference']:+.3f} [{other['low']:+.3f}, {other['high']:+.3f}] ({p_value})" if other else ""
        seeds = " ".join(f"{value:.3f}" for value in row["seeds"])
        warmed = "" if warm is None else f"{warm:.3f}"
        lines.append([row["variant"], str(row["pairs"]), *verdicts, warmed, interval_cell(row, "ndcg@10"), seeds, gain])
    header = ["variant", "pairs", "format", "balanced accuracy", "NDCG@10 after warmup", "at the end", "seeds"]
    return markdown_lines([*header, "over the recipe (Holm's p)"], lines)


def budget_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of `bench.budget` and their sum."""
    total = {key: sum(row[key] for row in rows) for key in ("trained", "scored", "hours")} | {"variant": "all"}
    lines = [
        [row["variant"], f"{row['trained']:,}", f"{row['scored']:,}", f"{row['hours']:.1f}"] for row in [*rows, total]
    ]
    return markdown_lines(["variant", "pairs trained on", "pairs scored", "hours"], lines)


def serving_markdown(found: Mapping[str, Any]) -> str:
    """A table of what the server was measured at, each beside what it is to be held against."""
    load, lone, mixed, sigterm = (found[key] for key in ("load", "lone", "mixed", "sigterm"))
    clients, small, direct = found["clients"], mixed["small"], found["offline_pairs_per_second"]
    rows = [
        ["seconds until ready", f"{found['ready_seconds']:.1f}", ""],
        [f"pairs per second, {clients} clients", f"{load['pairs_per_second']:.1f}", f"{direct:.1f} of direct calls"],
        ["the same over direct calls", f"{found['throughput_ratio']:.2f}", ""],
        [f"wrong and lost answers of {load['requests']}", f"{load['wrong']}, {sum(load['lost'].values())}", ""],
        ["ms of a lone request, median", f"{lone['p50_ms']:.0f}", f"{lone['direct_p50_ms']:.0f} of a direct call"],
        ["ms of short requests beside a long one, p99", f"{small['p99_ms']:.0f}", f"{mixed['bound_ms']:.0f} allowed"],
        [
            "requests accepted at SIGTERM, unanswered",
            str(sigterm["logged_without_answer"]),
            f"{sigterm['logged']} in all",
        ],
    ]
    if attack := found.get("hostile"):
        rows.append([f"failures of {attack['bodies']} hostile bodies", str(attack["failures"]), ""])
        rows.append(["growth of memory under them", f"{100 * attack['growth']:.1f} %", ""])
    if "ratio" in found["infinity"]:
        theirs = found["infinity"]["infinity"]["pairs_per_second"]
        rows.append(
            ["throughput over infinity's", f"{found['infinity']['ratio']:.2f}", f"{theirs:.1f} pairs per second"]
        )
    return markdown_lines(["what", "measured", "beside"], rows)
