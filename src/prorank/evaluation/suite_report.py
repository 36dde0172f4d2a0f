"""A suite's results as Markdown, LaTeX and one self-contained HTML page. Knows results; computes nothing itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from prorank.evaluation.comparison import latex_table
from prorank.evaluation.html_report import bars, page, section, svg
from prorank.evaluation.plots import draw_panels
from prorank.evaluation.rerank import PRIMARY, few_queries
from prorank.evaluation.suites import P_MRR
from prorank.evaluation.tables import interval_cell, markdown_lines
from prorank.util.errors import ProrankError
from prorank.util.files import atomic_writer, read_json, refuse_no_folder, write_json
from prorank.util.study import Study

TABLES = "suite.json"
CHANCE = 0.05
STAR = "*: differs from the first stage, p < 0.05 after Holm over all systems and collections (paired randomisation)"


def suite_lines(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(header, lines): a line per collection, a column per system, the mean over collections with its interval last."""
    lines = []
    for one in found["collections"]:
        name = f"{one['name']} (made split)" if one["carved"] else one["name"]
        lines.append([name, str(one["queries"]), *(_cell(row, found["table"]) for row in one["rows"])])
    queries = sum(one["queries"] for one in found["collections"])
    if found["table"] == PRIMARY:
        lines.append(["mean", str(queries), *(interval_cell(one, PRIMARY) for one in found["means"])])
    else:
        lines.append(["mean", str(queries), *(_value(one, found["table"]) for one in found["means"])])
        lines.append(["mean NDCG@10", str(queries), *(interval_cell(one, PRIMARY) for one in found["means"])])
    if any(one.get("seconds_per_100_documents") for one in found["means"]):
        costs = [one.get("seconds_per_100_documents") for one in found["means"]]
        lines.append(["s for 100 documents", "", *("" if cost is None else f"{cost:.2f}" for cost in costs)])
    return ["collection", "queries", *found["systems"]], lines


def _value(row: Mapping[str, Any], key: str) -> str:
    return f"{100 * row[key]:+.1f}" if key == P_MRR else f"{row[key]:.3f}"


def _cell(row: Mapping[str, Any], key: str) -> str:
    star = "*" if key == PRIMARY and row.get("versus_first", {}).get("p_value_suite", 1.0) < CHANCE else ""
    return _value(row, key) + star if key in row else ""


def suite_markdown(found: Mapping[str, Any]) -> str:
    """The table in Markdown, and how it is read."""
    header, lines = suite_lines(found)
    return f"{markdown_lines(header, lines)}\n\n{_title(found)}. {legend(found)}"


def legend(found: Mapping[str, Any]) -> str:
    """What the table's star means, and which of its intervals say nothing.

    >>> legend({"collections": [{"name": "faq", "queries": 3}, {"name": "wiki", "queries": 90}]}).split(". ")[1]
    'faq: 3 test queries: the intervals say nothing.'
    """
    few = [f"{one['name']}: {note}." for one in found["collections"] if (note := few_queries(one["queries"]))]
    return " ".join([f"{STAR}.", *few])


def _title(found: Mapping[str, Any]) -> str:
    metric = "p-MRR" if found["table"] == P_MRR else "NDCG@10"
    return f"{metric}, {found['title']}; the first {found['settings']['depth']} documents are reranked"


def suite_page(found: Mapping[str, Any], pages: Sequence[str]) -> str:
    """The HTML page: the table, means, cost against quality, then each collection in a part that opens.

    Args:
        found: of `suite.run_suite`.
        pages: HTML of each collection, in the same order.
    """
    header, lines = suite_lines(found)
    table = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in lines)
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    made = f"prorank evaluate --suite {found['suite']}; " + ", ".join(f"{k} {v}" for k, v in found["versions"].items())
    body = [
        f"<h1>{escape(found['suite'])}: {len(found['systems'])} systems, {len(pages)} collections</h1>",
        f"<p class=verdict>{escape(suite_verdict(found))}</p>",
        f"<section><h2>{escape(_title(found))}</h2><div style='overflow-x:auto'><table><tr>{head}</tr>{table}</table>"
        f"</div><p>{escape(legend(found))}</p></section>",
        section("Mean NDCG@10 over the collections, 95 % intervals", bars(found["means"], PRIMARY)),
        section("Cost against quality", cost_plot(found["means"])),
    ]
    for one, inside in zip(found["collections"], pages):
        opened = " open" if len(pages) == 1 else ""
        summary = f"{one['name']}: {one['queries']} queries, {one['documents']} documents"
        body.append(f"<details{opened}><summary>{escape(summary)}</summary>{inside}</details>")
    return page(f"suite {found['suite']}", [*body, f"<footer>{escape(made)}</footer>"])


def suite_verdict(found: Mapping[str, Any]) -> str:
    """Which system is best in the mean, by how much, and on how many collections that is no chance.

    >>> better = {"versus_first": {"p_value_suite": 0.01, "difference": 0.1}}
    >>> rows = [{"rows": [{}, better]}, {"rows": [{}, better]}]
    >>> mean = {"name": "m", "ndcg@10": 0.5, "difference": 0.1, "difference_interval": (0.05, 0.15)}
    >>> means, systems = [{"name": "BM25", "ndcg@10": 0.4}, mean], ["BM25", "m"]
    >>> suite_verdict({"means": means, "collections": rows, "systems": systems}).split("; ")[1]
    'better on 2 and worse on 0 of 2 collections beyond chance.'
    """
    best = max(found["means"], key=lambda one: one[PRIMARY])
    if "difference" not in best:
        return f"No system beats {best['name']} in the mean ({best[PRIMARY]:.3f})."
    place, (low, high) = found["systems"].index(best["name"]), best["difference_interval"]
    sure = [row["rows"][place]["versus_first"] for row in found["collections"]]
    sure = [one["difference"] for one in sure if one["p_value_suite"] < CHANCE]
    return (
        f"{best['name']} is best in the mean: {best[PRIMARY]:.3f}, {best['difference']:+.3f} [{low:+.3f}, {high:+.3f}] "
        f"over {found['systems'][0]}; better on {sum(d > 0 for d in sure)} and worse on {sum(d < 0 for d in sure)} of "
        f"{len(found['collections'])} collections beyond chance."
    )


def cost_plot(means: Sequence[Mapping[str, Any]]) -> str:
    """Seconds for 100 documents, as measured here, against the mean; the first stage as a dashed line."""
    figure, (axis,) = draw_panels([""])
    figure.set_size_inches(7, 3)
    axis.axhline(means[0][PRIMARY], color="0.5", linestyle="--", linewidth=0.9, label=means[0]["name"])
    for one in means[1:]:
        if cost := one.get("seconds_per_100_documents"):
            low, high = one[f"{PRIMARY}_interval"]
            axis.plot([cost, cost], [low, high], color="0.6", linewidth=1)
            axis.plot(cost, one[PRIMARY], marker="o", color="#0b6e5b")
            axis.annotate(one["name"], (cost, one[PRIMARY]), xytext=(6, 3), textcoords="offset points", fontsize=8)
    axis.set_xscale("log")
    axis.margins(x=0.3)
    axis.set_xlabel("seconds for 100 documents on this machine", fontsize=8)
    axis.legend(fontsize=7, frameon=False)
    return svg(figure)


def refuse_to_drop(output: Path, suite: str, collections: Sequence[str], systems: Sequence[str], force: bool) -> None:
    """Raise where the tables of an earlier call would lose a system or a collection, or are of another suite.

    Args:
        output: folder of the results.
        suite: name of the suite.
        collections, systems: that are to be measured.
        force: never raise for that.

    Raises:
        ProrankError: names what would be lost; or the output is a file, or holds a training run.
    """
    refuse_no_folder(output)
    Study(output).refuse_run()
    if force or not (output / TABLES).is_file():
        return
    earlier = read_json(output / TABLES)
    if earlier["suite"] != suite:
        hint = "choose another --output or add --force"
        raise ProrankError(f"{output} holds results of the suite '{earlier['suite']}'", hint=hint)
    lost = [one for one in earlier["systems"][1:] if one not in systems]
    if lost := lost + [one["name"] for one in earlier["collections"] if one["name"] not in collections]:
        hint = "name them too (what is done is not measured again), choose another --output or add --force"
        raise ProrankError(f"the tables in {output} would lose {', '.join(lost)}", hint=hint)


def write_suite(output: Path, found: Mapping[str, Any], pages: Sequence[str]) -> None:
    """Write `suite.json`, `suite.md`, `suite.tex` and `report.html` into a folder."""
    write_json(output / TABLES, dict(found))
    texts = {"suite.md": suite_markdown(found), "suite.tex": latex_table(*suite_lines(found))}
    for name, text in (texts | {"report.html": suite_page(found, pages)}).items():
        with atomic_writer(output / name) as file:
            file.write(text + "\n")
