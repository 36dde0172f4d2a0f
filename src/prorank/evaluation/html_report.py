"""One self-contained HTML page about runs on the same queries: who is better, is that chance, and where it shows.

Plots are SVG inside the page; nothing is loaded from elsewhere. Knows runs, judgments and texts; no models.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prorank.data.collection import Collection
from prorank.data.runs import Qrels, Run, ranked, rerank_run, top, unknown_document
from prorank.engine.scores import probabilities
from prorank.evaluation.calibration import calibration_error, fit_platt, judged_scores
from prorank.evaluation.metrics import Evaluation, evaluate_run, metric_key
from prorank.evaluation.plots import draw_panels
from prorank.evaluation.tables import p_value_cell
from prorank.util.errors import DataError
from prorank.util.files import atomic_writer
from prorank.util.provenance import versions

DEPTHS = (10, 20, 30, 50, 70, 100)
SHOWN = 8  # queries of each kind
CHARACTERS = 220  # of a text
HEAD = 20  # documents per query whose scores are looked at; further down a run's scores may only be places
NOTES = (  # how each of a collection's plots is read
    "Bars are means over queries, lines their 95 % intervals. Intervals that overlap may still belong to runs that "
    "differ: the test above compares the runs query by query.",
    "What each run would reach if only the first documents of the first run (dashed) had been "
    "reranked. Where a line is flat, fewer documents give the same for less work.",
    "Scores of relevant and of other documents. The less the two overlap, the better a threshold works.",
    "Scores are made probabilities (Platt scaling) on half of the queries; the other half shows how many "
    "documents were relevant where so much was predicted. On the diagonal, probabilities can be taken at their word.",
)


class Entry(NamedTuple):
    """A run and what is said of it: a row of `comparison.compared`, and its values per query."""

    row: Mapping[str, Any]
    run: Run
    values: Mapping[str, float]


def verdict(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Who is better than the first, and whether it may be chance, in one sentence per run.

    >>> other = {"difference": 0.1, "low": 0.05, "high": 0.15, "p_value_holm": 0.004}
    >>> verdict([{"name": "a"}, {"name": "b", "versus_first": other}], "ndcg@10")
    'b is better than a by 0.100 ndcg@10 (95 % interval 0.050 to 0.150); chance is an unlikely explanation (p = 0.004).'
    """
    sentences = []
    for row in rows[1:]:
        found = row["versus_first"]
        word, low, high = "better", found["low"], found["high"]
        if found["difference"] < 0:  # of being worse, like the difference itself
            word, low, high = "worse", -high, -low
        span = f"{low:.3f} to {high:.3f}"
        p = p_value_cell({"p_value": found["p_value_holm"]})
        p = f"p {p}" if p.startswith("<") else f"p = {p}"
        chance = "chance is an unlikely explanation" if found["p_value_holm"] < 0.05 else "it may be chance"
        if not found["difference"]:
            sentences.append(f"{row['name']} and {rows[0]['name']} are equal in {metric} (95 % interval {span}; {p}).")
            continue
        sentences.append(
            f"{row['name']} is {word} than {rows[0]['name']} by {abs(found['difference']):.3f} {metric} "
            f"(95 % interval {span}); {chance} ({p})."
        )
    return " ".join(sentences)


def write_page(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    results: Mapping[str, tuple[Evaluation, Run]],
    collection: Collection,
    split: str,
    metric: str,
) -> None:
    """Write `html_report` of compared results.

    Args:
        path: HTML file to write.
        rows: of `comparison.compared`.
        results: by name, metrics per query and the run that they were measured on.
        collection: texts and judgments.
        split: of the judgments.
        metric: as ir-measures writes it, `nDCG@10`.

    Raises:
        DataError: a query is not of the split, or a document not of the collection.
    """
    entries = [Entry(row, run, one.values(metric_key(metric))) for row, (one, run) in zip(rows, results.values())]
    judged = collection.judgments(split)
    if other := next((query for query in entries[0].values if query not in judged), None):
        hint = "--split names the split that the results are of"
        raise DataError(f"query '{other}' has no judgments in split '{split}' of {collection.name}", hint=hint)
    qrels = {query: judged[query] for query in entries[0].values}
    for entry in entries:
        if other := unknown_document(entry.run, qrels, collection.documents):
            raise DataError(f"{entry.row['name']}: document '{other}' is not in the collection {collection.name}")
    made = f"prorank compare, split {split}, fingerprint of the collection {collection.fingerprint[:16]}; " + ", ".join(
        f"{package} {version}" for package, version in versions().items()
    )
    with atomic_writer(path) as file:
        file.write(html_report(entries, collection, qrels, metric, made))


def html_report(entries: Sequence[Entry], collection: Collection, qrels: Qrels, metric: str, made: str) -> str:
    """The page.

    Args:
        entries: the first is what the others are compared with; the depth plot takes it for their first stage.
        collection: texts.
        qrels: judgments of the queries.
        metric: as ir-measures writes it, `nDCG@10`.
        made: the command, and versions.
    """
    title = f"<h1>{escape(collection.name)}: {len(entries)} runs on {entries[0].row['queries']} queries</h1>"
    body = [title, *collection_sections(entries, collection, qrels, metric), f"<footer>{escape(made)}</footer>"]
    return page(collection.name, body)


def page(title: str, body: Sequence[str]) -> str:
    """A whole page around its parts."""
    head, tail = PAGE.split("BODY")  # a title may hold the word
    return head.replace("TITLE", escape(title)) + "\n".join(body) + tail


def collection_sections(entries: Sequence[Entry], collection: Collection, qrels: Qrels, metric: str) -> list[str]:
    """What is to be seen on one collection: verdict, plots, and the queries that gain and lose.

    Args:
        entries, collection, qrels, metric: see `html_report`.
    """
    rows, key = [entry.row for entry in entries], metric_key(metric)
    plots = {
        f"{key} with 95 % intervals": bars(rows, key),
        "Reranking fewer documents": depths(entries, qrels, metric),
        "Scores by label": histograms(entries, qrels),
        "Reliability": reliability(entries, qrels),
    }
    parts = [
        f"<p class=verdict>{escape(verdict(rows, key))}</p>",
        *(section(title, figure, note) for (title, figure), note in zip(plots.items(), NOTES, strict=True)),
    ]
    for entry in entries[1:]:
        parts.append(changes(entries[0], entry, collection, qrels))
    return parts


def section(title: str, figure: str, note: str = "") -> str:
    """A heading and its plot, which is named for screen readers."""
    image = figure.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
    return f"<section><h2>{escape(title)}</h2>{image}<p>{escape(note)}</p></section>"


def svg(figure: Any) -> str:
    """A figure as an SVG element."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()[file.getvalue().index("<svg") :]


def bars(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Each run's mean and interval."""
    figure, (axis,) = draw_panels([""])
    figure.set_size_inches(7, 0.7 + 0.45 * len(rows))
    for place, row in enumerate(reversed(rows)):
        low, high = row[f"{metric}_interval"]
        axis.barh(place, row[metric], color="#9db4ab" if row is not rows[0] else "#c9c5bb", height=0.55)
        axis.plot([low, high], [place, place], color="0.15", linewidth=1.5)
        axis.text(high, place, f"  {row[metric]:.3f}", va="center", fontsize=8)
    axis.set_yticks(range(len(rows)), [row["name"] for row in reversed(rows)])
    axis.set_xlim(0, min(1.0, max(row[f"{metric}_interval"][1] for row in rows) * 1.15))
    axis.set_xlabel(metric, fontsize=8)
    return svg(figure)


def depths(entries: Sequence[Entry], qrels: Qrels, metric: str) -> str:
    """The metric if only the first k documents of the first run had been reranked."""
    first, key = entries[0].run, metric_key(metric)
    figure, (axis,) = draw_panels([""])
    figure.set_size_inches(7, 2.6)
    for entry in entries[1:]:
        scores = {q: {d: entry.run.get(q, {}).get(d, -np.inf) for d in first[q]} for q in first}
        longest = max((len(documents) for documents in first.values()), default=0)
        points = []
        for depth in [k for k in DEPTHS if k <= max(longest, DEPTHS[0])]:
            finite = {q: {d: s if np.isfinite(s) else -1e9 for d, s in own.items()} for q, own in scores.items()}
            points.append((depth, evaluate_run(rerank_run(first, finite, depth), qrels, (metric,)).mean(key)))
        axis.plot(*zip(*points), marker="o", markersize=3, linewidth=1.3, label=entry.row["name"])
    axis.axhline(entries[0].row[key], color="0.5", linestyle="--", linewidth=0.9, label=entries[0].row["name"])
    axis.set_xlabel("documents of the first run that are reranked", fontsize=8)
    axis.set_ylabel(key, fontsize=8)
    axis.legend(fontsize=7, frameon=False)
    return svg(figure)


def histograms(entries: Sequence[Entry], qrels: Qrels) -> str:
    """Scores of relevant and other documents among the first `HEAD`, each as a share of its kind."""
    figure, axes = draw_panels([str(entry.row["name"]) for entry in entries])
    for axis, entry in zip(axes, entries):
        scores, labels = map(np.array, judged_scores(top(entry.run, HEAD), qrels))
        edges = np.histogram_bin_edges(scores, bins=24)
        for label, colour, text in ((0, "0.6", "other"), (1, "#0b6e5b", "relevant")):
            own = scores[labels == label]
            if len(own):
                axis.hist(own, edges, weights=np.full(len(own), 1 / len(own)), alpha=0.6, color=colour, label=text)
        axis.legend(fontsize=6, frameon=False)
        axis.set_xlabel("score", fontsize=7)
    axes[0].set_ylabel("share of its label", fontsize=7)
    return svg(figure)


def reliability(entries: Sequence[Entry], qrels: Qrels) -> str:
    """Predicted against found shares of relevant documents: fitted on half of the queries, shown on the others."""
    figure, axes = draw_panels([str(entry.row["name"]) for entry in entries])
    halves = [{q: qrels[q] for q in list(qrels)[start::2]} for start in (0, 1)]
    for axis, entry in zip(axes, entries):
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
        try:
            fitted = fit_platt(*judged_scores(top(entry.run, HEAD), halves[0]))
            scores, labels = judged_scores(top(entry.run, HEAD), halves[1])
        except DataError:
            axis.text(0.5, 0.5, "too few judgments", ha="center", fontsize=7)
            continue
        predicted, found = probabilities(scores, fitted), np.array(labels)
        bins = np.minimum((predicted * 10).astype(int), 9)
        points = [(predicted[bins == b].mean(), found[bins == b].mean()) for b in np.unique(bins)]
        axis.plot(*zip(*points), marker="o", markersize=3, linewidth=1.2, color="#0b6e5b")
        error = calibration_error(predicted.tolist(), labels)
        axis.set_xlabel(f"predicted probability (expected error {error:.3f})", fontsize=7)
    axes[0].set_ylabel("share found relevant", fontsize=7)
    return svg(figure)


def changes(first: Entry, other: Entry, collection: Collection, qrels: Qrels) -> str:
    """The queries that gain and lose most, with the texts behind them."""
    gains = sorted(first.values, key=lambda query: other.values[query] - first.values[query])
    blocks = []
    for title, chosen in (("loses", gains[:SHOWN]), ("gains", gains[::-1][:SHOWN])):
        rows = []
        for query in chosen:
            change = other.values[query] - first.values[query]
            if (change < 0) == (title == "loses") and change:
                rows.append(
                    f"<tr><td>{change:+.3f}</td><td><b>{escape(collection.queries[query])}</b><br>"
                    f"{_documents(query, first, other, collection, qrels)}</td></tr>"
                )
        if rows:
            blocks.append(f"<h3>{escape(str(other.row['name']))} {title} most</h3><table>{''.join(rows)}</table>")
    return f"<section><h2>{escape(str(other.row['name']))} query by query</h2>{''.join(blocks)}</section>"


def _documents(query: str, first: Entry, other: Entry, collection: Collection, qrels: Qrels) -> str:
    """The relevant document and what stands first, each with its ranks before and after."""
    orders = [[d for d, _ in ranked(entry.run.get(query, {}))] for entry in (first, other)]
    relevant = [d for d, grade in qrels[query].items() if grade > 0 and any(d in order for order in orders)][:1]
    lines = []
    for document in dict.fromkeys([*relevant, *orders[1][:1]]):
        ranks = [str(order.index(document) + 1) if document in order else "not found" for order in orders]
        text = collection.documents[document].content
        shown = text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]}…"
        kind = "relevant" if qrels[query].get(document, 0) > 0 else "ranked first"
        lines.append(f"<span class=kind>{kind}, rank {ranks[0]} &rarr; {ranks[1]}</span> {escape(shown)}")
    return "<br>".join(lines)


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>TITLE</title><style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c1b18;
  background: #fcfbf8 }
.verdict { font-size: 1.15rem } section { margin: 2.5rem 0 } svg { max-width: 100%; height: auto }
table { border-collapse: collapse; width: 100% } td { border-top: 1px solid #ddd8cd; padding: .6rem .5rem;
  vertical-align: top } td:first-child { font-variant-numeric: tabular-nums; white-space: nowrap }
th { text-align: left; padding: .3rem .5rem } summary { cursor: pointer; font-weight: 600; margin: 1rem 0 }
.kind { color: #5d594f; font-size: .85rem } footer { color: #5d594f; font-size: .85rem }
</style></head><body>
BODY
</body></html>
"""
