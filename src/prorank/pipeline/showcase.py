"""One query of a finished run before the reader's eyes: the reranker's order with the first stage's ranks."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prorank.data.collection import load_collection
from prorank.data.runs import Run, ranked
from prorank.data.trec import read_run
from prorank.recipe.loading import load_recipe
from prorank.reranker import Reranker
from prorank.util.files import read_json
from prorank.util.terminal import one_line, visible

SHOWN = 5
SHOWN_CHARACTERS = 50


def clearest_gain(first_stage: Run, reranked: Run, qrels: dict[str, dict[str, int]]) -> str:
    """The query whose first relevant document rises most, to the top if possible; ties by id."""

    def place(run: Run, query: str) -> int:
        order = [document for document, _ in ranked(run.get(query, {}))]
        relevant = [i for i, d in enumerate(order) if qrels[query].get(d, 0) > 0]
        return relevant[0] if relevant else len(order) + 100

    found = [q for q in sorted(qrels) if any(d in reranked.get(q, {}) for d, g in qrels[q].items() if g > 0)]
    return max(found, key=lambda q: (-place(reranked, q), place(first_stage, q)))


def showcase(folder: str | Path, console: Console) -> None:
    """Rerank one test query with the run's final checkpoint and print new and old ranks.

    The query is chosen because the reranker helps it; the table of the run tells the average.

    Args:
        folder: of a finished run.
        console: where to print.
    """
    folder = Path(folder)
    recipe = load_recipe(folder / "recipe.yaml")
    collection = load_collection(recipe.data.collection)
    first_stage, reranked = read_run(folder / "first_stage.run"), read_run(folder / "hybrid" / "run.trec")
    qrels = {q: collection.judgments(recipe.data.test)[q] for q in reranked}
    query = clearest_gain({q: first_stage.get(q, {}) for q in reranked}, reranked, qrels)
    candidates = [document for document, _ in ranked(first_stage[query])][: recipe.evaluation.rerank_depth]
    reranker = Reranker.from_pretrained(folder / "checkpoint")
    texts = [collection.documents[document].content for document in candidates]
    results = reranker.rank(collection.queries[query], texts)

    warmup = read_json(folder / "results.json")["warmup"]
    if warmup is not None:
        start, end = warmup["start"], warmup["test"]
        console.print(
            f"\nPrompt warmup: share of answers that are exactly 0 or 1 {start['format_rate']:.2f} -> "
            f"{end['format_rate']:.2f}, balanced accuracy {start['balanced_accuracy']:.2f} -> "
            f"{end['balanced_accuracy']:.2f} (pairs of test queries; those at the start of dev queries)",
            soft_wrap=True,
            highlight=False,
        )
    table = Table(box=None, pad_edge=False)
    for column in ("rank", "was", "score", "", "document"):
        table.add_column(column, no_wrap=True, justify="right" if column in ("rank", "was", "score") else "left")
    for place, result in enumerate(results[:SHOWN], start=1):
        was = result["corpus_id"]
        mark = "[green]relevant[/green]" if qrels[query].get(candidates[was], 0) > 0 else ""
        text = escape(one_line(texts[was], SHOWN_CHARACTERS))
        table.add_row(str(place), str(was + 1), f"{result['score']:+.2f}", mark, text)
    asked = escape(visible(collection.queries[query]))
    console.print(f"\nOne query, reranked: [bold]{asked}[/bold] (chosen because it helps)")
    console.print(table)
    checkpoint = str(folder / "checkpoint")
    console.print(f"\nYour model is in [bold]{escape(checkpoint)}[/bold]. Try it:")
    documents = '"def add(a, b): ..." "def load(path): ..."'
    example = f'prorank rerank --model {shlex.quote(checkpoint)} "read a csv file" {documents}'
    console.print(f"  {example}", soft_wrap=True, highlight=False, markup=False)
    console.print(
        "A trained model ships with prorank: `prorank rerank` uses it. To tune it to your own data: "
        "prorank train tune data.collection=path/to/collection",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
