"""The preliminary analysis as two tables and two plots. Knows the rows of `prorank analyze`; computes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prorank.evaluation.plots import draw_panels, save_figure
from prorank.evaluation.tables import markdown_lines

Row = Mapping[str, Any]


def _share(name: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        return "-" if row[name] is None else f"{row[name]:.2f}"

    return cell


def _answers(name: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        return ", ".join(f"{answer} {share:.2f}" for answer, share in row[name].items()) or "-"

    return cell


def _words(row: Row) -> str:
    return ", ".join(f"`{word}` {share:.2f}" for word, share in row["first_tokens"][:3])


UNDERSTANDING: dict[str, Callable[[Row], str]] = {
    "format rate": _share("format_rate"),
    "answer mass": _share("answer_mass"),
    "first tokens": _words,
    "preferred answers": _answers("preferred_answers"),
    "balanced accuracy, random": _share("preferred_balanced_random"),
    "hard": _share("preferred_balanced_hard"),
    "order, random": _share("order_random"),
    "order, hard": _share("order_hard"),
}
NARROWNESS: dict[str, Callable[[Row], str]] = {
    "effective rank": lambda row: f"{row['effective_rank']:.1f} of {row['effective_rank_limit']}",
    "isotropy": lambda row: f"{row['isotropy']:.4f}",
    "cosine within": _share("cosine_within"),
    "between": _share("cosine_between"),
    "distinct scores": lambda row: f"{row['distinct_scores']:.1f} of {row['documents']:.1f}",
    "tied scores": _share("tied_scores"),
    "tied verdicts": _share("tied_verdicts"),
    "spread within": _share("spread_within"),
    "between queries": _share("spread_between"),
    "saturation": _share("saturation"),
}
PANELS: dict[str, dict[str, tuple[str, float | None]]] = {  # key -> title of the panel, and what chance gives
    "understanding.png": {
        "format_rate": ("format rate", None),
        "answer_mass": ("answer mass", None),
        "preferred_balanced_random": ("balanced accuracy, random", 0.5),
        "preferred_balanced_hard": ("balanced accuracy, hard", 0.5),
        "order_random": ("order, random", 0.5),
        "order_hard": ("order, hard", 0.5),
    },
    "narrowness.png": {
        "effective_rank": ("effective rank", None),
        "isotropy": ("isotropy", None),
        "cosine_within": ("cosine within a query", None),
        "cosine_between": ("cosine between queries", None),
        "tied_verdicts": ("tied verdicts", None),
        "spread_within": ("spread of scores within a query", None),
    },
}


def analysis_markdown(result: Mapping[str, Any]) -> str:
    """Both tables: what the model understands of the prompt, and how narrow its states and scores are."""
    return "\n\n".join(_table(result["rows"], columns) for columns in (UNDERSTANDING, NARROWNESS))


def _table(rows: Sequence[Row], columns: Mapping[str, Callable[[Row], str]]) -> str:
    lines = [[str(row["model"]), _prompt(row), *(cell(row) for cell in columns.values())] for row in rows]
    return markdown_lines(["model", "prompt", *columns], lines, left=2)


def _prompt(row: Row) -> str:
    return f"{row['prompt']} (own)" if row["own_prompt"] else str(row["prompt"])


def plot_analysis(result: Mapping[str, Any], folder: Path) -> None:
    """`understanding.png` and `narrowness.png`: a panel for each measure, a bar for each model and prompt."""
    rows = result["rows"]
    names = [f"{row['model']}, {row['prompt']}" for row in rows]
    for file, panels in PANELS.items():
        figure, axes = draw_panels([title for title, _ in panels.values()])
        figure.set_size_inches(figure.get_figwidth() * 1.25, figure.get_figheight() + 0.3 * len(rows))
        for place, (axis, (key, (_, chance))) in enumerate(zip(axes, panels.items())):
            values = [float("nan") if row[key] is None else row[key] for row in rows]
            axis.barh(range(len(rows))[::-1], values, height=0.6)
            axis.set_yticks(range(len(rows))[::-1], names if place % 4 == 0 else [""] * len(rows))
            if file == "understanding.png":
                axis.set_xlim(0, 1)
            if chance is not None:
                axis.axvline(chance, color="0.4", linestyle="--", linewidth=0.9)
        save_figure(figure, folder / file)
