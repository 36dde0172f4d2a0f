"""Tables and plots: what a reader sees in the cells and axes."""

import io

import matplotlib.image
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from prorank.evaluation import plots, tables

pytestmark = pytest.mark.pictures

FIRST = {
    "stage": "BM25",
    "ndcg@10": 0.3864,
    "ndcg@10_interval": [0.337, 0.438],
    "mrr@10": 0.5,
    "mrr@10_interval": [0.4, 0.6],
}
SECOND = FIRST | {"stage": "warmup", "ndcg@10": 0.2012, "difference": -0.1852, "p_value": 0.0001}
THIRD = FIRST | {"stage": "hybrid", "ndcg@10": 0.398, "difference": 0.0116, "p_value": 0.0161}


def printed(table):
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    return console.file.getvalue()


@pytest.fixture
def saved(monkeypatch):
    """Metrics as they were when saved."""
    metrics = []
    original = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (metrics.append(self), original(self, *a, **k))[1])
    return metrics


def test_terminal_table_shows_intervals_gains_and_p_values():
    lines = printed(tables.results_table([FIRST, SECOND, THIRD])).splitlines()
    assert lines[0].split() == "stage NDCG@10 [95 %] MRR@10 [95 %] over BM25 p".split()
    assert lines[1].split() == "BM25 0.386 [0.337, 0.438] 0.500 [0.400, 0.600]".split()
    assert lines[2].split()[-4:] == ["0.600]", "-0.185", "<", "0.001"]
    assert lines[3].split()[-2:] == ["+0.012", "0.016"]


def test_steps_are_compared_under_the_table():
    versus = {"stage": "a[b]c", "difference": -0.0044, "low": -0.019, "high": 0.0101, "p_value": 0.0001}
    console = Console(file=io.StringIO(), width=200)
    tables.print_rows(console, [FIRST, SECOND | {"versus_before": versus}])
    lines = console.file.getvalue().splitlines()
    assert lines[3:] == ["warmup over a[b]c: NDCG@10 -0.004 [-0.019, +0.010], p < 0.001"]


def test_names_are_shown_as_they_are():
    odd = FIRST | {"stage": "a|b [bold]c[/bold]"}
    assert "a|b [bold]c[/bold]" in printed(tables.results_table([odd]))
    assert tables.markdown_table([odd]).splitlines()[2].startswith(r"| a\|b [bold]c[/bold] | 0.386")


def test_markdown_tables_have_one_width():
    one = tables.markdown_table([FIRST, SECOND]).splitlines()
    many = tables.markdown_report(
        [{"collection": "x", "rows": [FIRST, THIRD]}, {"collection": "y", "rows": [FIRST]}]
    ).splitlines()
    assert len(one) == 4 and {line.count("|") for line in one} == {6}
    assert len(many) == 5 and {line.count("|") for line in many} == {7}
    assert [line.split("|")[1].strip() for line in many[2:]] == ["x", "x", "y"]
    assert one[3] == "| warmup | 0.201 [0.337, 0.438] | 0.500 [0.400, 0.600] | -0.185 | < 0.001 |"


def test_the_column_of_differences_names_what_they_are_against():
    dense = [FIRST | {"stage": "dense [e5]"}, SECOND]
    assert "over dense [e5]" in printed(tables.results_table(dense)).splitlines()[0]
    one, other = {"collection": "x", "rows": [FIRST, THIRD]}, {"collection": "y", "rows": dense}
    assert "| over BM25 | p |" in tables.markdown_report([one, one]).splitlines()[0]
    assert "| over the first stage | p |" in tables.markdown_report([one, other]).splitlines()[0]


def test_stage_plot_shows_points_intervals_and_the_first_stage(tmp_path, saved):
    plots.plot_stages([FIRST, SECOND, THIRD], tmp_path / "new" / "stages.png")
    axis = saved[0].axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["BM25", "warmup", "hybrid"]
    heights = dict(zip(["BM25", "warmup", "hybrid"], axis.get_yticks()))
    assert heights["BM25"] > heights["warmup"] > heights["hybrid"]  # read from the top
    assert [text.get_text() for text in axis.texts] == ["0.386", "0.201", "0.398"]
    points = {float(line.get_xdata()[0]) for line in axis.lines if line.get_marker() == "o"}
    assert points == {0.3864, 0.2012, 0.398}
    dashed = [line for line in axis.lines if line.get_linestyle() == "--"]
    assert [list(line.get_xdata()) for line in dashed] == [[0.3864, 0.3864]]
    assert [list(line.get_xdata()) for line in axis.lines].count([0.337, 0.438]) == 3
    assert matplotlib.image.imread(tmp_path / "new" / "stages.png").std() > 0


def test_another_metric_can_be_drawn(tmp_path, saved):
    plots.plot_stages([FIRST], tmp_path / "s.png", metric="mrr@10")
    assert saved[0].axes[0].get_xlabel().startswith("MRR@10") and saved[0].axes[0].texts[0].get_text() == "0.500"


def test_curves_draw_each_series_over_its_own_steps(tmp_path, saved):
    log = [
        {"step": 10, "loss": 2.0, "learning_rate": 1e-4, "epoch": 0.5},
        {"step": 20, "loss": 1.0, "learning_rate": 0.0, "note": "words"},
        {"step": 20, "eval_balanced_accuracy": 0.52, "eval_verdict_balance": 0.4, "eval_format_rate": 1.0},
        {"step": 20, "train_runtime": 5.0, "total_flos": 1.0},
        {"loss": 99.0},
    ]
    plots.plot_curves(log, tmp_path / "curves.png")
    shown = {axis.get_title(): axis for axis in saved[0].axes if axis.get_visible()}
    assert set(shown) == {
        "loss",
        "learning rate",
        "balanced accuracy (held out)",
        "verdict balance (held out)",
        "format rate (held out)",
    }
    line = shown["loss"].lines[0]
    assert list(line.get_xdata()) == [10, 20] and list(line.get_ydata()) == [2.0, 1.0]
    for name in ("balanced accuracy", "verdict balance", "format rate"):
        low, high = shown[f"{name} (held out)"].get_ylim()
        assert low <= 0 and 1 <= high < 1.2  # shares are seen whole
    assert shown["learning rate"].get_ylim()[1] < 0.01  # a rate by name, but no share
    assert list(shown["balanced accuracy (held out)"].lines[1].get_ydata()) == [0.5, 0.5]
    assert len(shown["format rate (held out)"].lines) == 1
    assert shown["loss"].lines[0].get_marker() == "None"


def test_a_lone_point_is_visible(tmp_path, saved):
    plots.plot_curves([{"step": 10, "loss": 2.0}], tmp_path / "curves.png")
    assert saved[0].axes[0].lines[0].get_marker() == "o"


def test_nothing_to_draw_writes_nothing(tmp_path):
    plots.plot_stages([], tmp_path / "s.png")
    plots.plot_curves([{"step": 1, "epoch": 1.0}], tmp_path / "c.png")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file_and_leaves_no_part(tmp_path, monkeypatch):
    path = tmp_path / "s.png"
    path.write_bytes(b"old")

    def fail(self, target, **_):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plots.plot_stages([FIRST], path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
