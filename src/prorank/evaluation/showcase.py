"""One query of a finished run before the reader's eyes: the first stage's order beside the reranker's."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prorank.collection import Run, load_collection, ranked, read_run
from prorank.reranker import Reranker
from prorank.training.recipe import load_recipe

SHOWN = 5


def clearest_gain(first_stage: Run, reranked: Run, qrels: dict[str, dict[str, int]]) -> str:
    """The query whose first relevant document rises most, to the top if possible; ties by id."""

    def place(run: Run, query: str) -> int:
        order = [document for document, _ in ranked(run.get(query, {}))]
        relevant = [i for i, d in enumerate(order) if qrels[query].get(d, 0) > 0]
        return relevant[0] if relevant else len(order) + 100

    found = [q for q in sorted(qrels) if any(d in reranked.get(q, {}) for d, g in qrels[q].items() if g > 0)]
    return max(found, key=lambda q: (-place(reranked, q), place(first_stage, q)))


def showcase(folder: str | Path, console: Console) -> None:
    """Rerank one test query with the run's final checkpoint and print both orders.

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
    candidates = [document for document, _ in ranked(first_stage[query])][: recipe.evaluation.rerank]
    reranker = Reranker.from_pretrained(folder / "checkpoint")
    texts = [collection.documents[document].content for document in candidates]
    results = reranker.rank(collection.queries[query], texts)

    def short(text: str) -> str:
        return escape(" ".join(text.split())[:60])

    def mark(document: str) -> str:
        return "[green]relevant[/green]" if qrels[query].get(document, 0) > 0 else ""

    table = Table(title=f"Query: {collection.queries[query]}", box=None, pad_edge=False, title_justify="left")
    for column in ("", "first stage", "", "reranked", "score", ""):
        table.add_column(column, no_wrap=True)
    for i in range(min(SHOWN, len(candidates))):
        best = results[i]
        table.add_row(
            str(i + 1),
            short(texts[i]),
            mark(candidates[i]),
            short(texts[best["corpus_id"]]),
            f"{best['score']:+.2f}",
            mark(candidates[best["corpus_id"]]),
        )
    console.print()
    console.print(table)
    console.print(f"\nYour model is in [bold]{folder / 'checkpoint'}[/bold]. Try it:")
    console.print(f'  prorank rerank {folder / "checkpoint"} "read a csv file" "def add(a, b): ..." "def load(p): ..."')
