"""`prorank rerank`: documents for a query, or a whole TREC run. Parses, calls, prints."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prorank.cli.shared import (
    MODEL_HELP,
    AsJson,
    ByCascade,
    Device,
    Force,
    MaxLength,
    Passages,
    PrecisionOption,
    check_argument,
    err,
    out,
    print_json,
    refuse,
    reranking,
    uncollected,
    written,
)
from prorank.shipped import MINI
from prorank.util.errors import CheckpointError, InputError, ProrankError
from prorank.util.terminal import one_line

if TYPE_CHECKING:
    from prorank.evaluation.rerank_file import Reranked
AUTO_HELP = "`auto` takes the first of these for a query in letters a to z, else the second (not with --run)."
PIPED_TEXT = 160  # columns of a document's line where there is no terminal


def rerank(
    context: typer.Context,
    query: Annotated[str | None, typer.Argument(help="The query (not with --run).")] = None,
    documents: Annotated[
        list[str] | None, typer.Argument(help="Documents; none reads --file or standard input.")
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help=f"{MODEL_HELP} {AUTO_HELP}")] = MINI,
    file: Annotated[
        Path | None, typer.Option(help="Documents: one text per line, or JSON (Lines) with `text`.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Rerank this TREC run instead (with --collection).")] = None,
    collection: Annotated[str | None, typer.Option(help="Texts of the run's ids.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where the reranked run goes (with --run).")] = None,
    depth: Annotated[int, typer.Option(help="Documents per query that are reranked (with --run).", min=1)] = 100,
    ray: Annotated[
        str | None, typer.Option(help="Score on a Ray cluster: HOST:PORT of its head, or auto (with --run).")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Print only so many.", min=1)] = None,
    threshold: Annotated[float | None, typer.Option(help="Least probability of relevance.", min=0, max=1)] = None,
    prompt: Annotated[str | None, typer.Option(help="Prompt of a model that is no checkpoint.")] = None,
    instruction: Annotated[str | None, typer.Option(help="A line that tells the model what to prefer.")] = None,
    max_length: MaxLength = None,
    passages: Passages = None,
    cascade: ByCascade = False,
    device: Device = "auto",
    precision: PrecisionOption = "auto",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Rerank documents for a query, or a whole TREC run."""
    with uncollected():
        from prorank.evaluation.rerank_file import rerank_file
        from prorank.reranker import Reranker

    options: dict[str, Any] = {
        "prompt": prompt,
        "instruction": instruction,
        "max_length": max_length,
        "passages": passages,
        "cascade": cascade,
        "device": device,
        "precision": precision,
    }
    if run is not None:
        if collection is None or output is None or query is not None:
            raise ProrankError("--run needs --collection and --output, and no query")
        refuse(context, "not with --run, which reranks whole lists", "file", "top_k", "threshold")
        with reranking(output):
            done = rerank_file(model, collection, run, output, depth, force=force, ray=ray, **options)
        _report_run(done, output, as_json)
        return
    refuse(context, "only with --run", "collection", "output", "depth", "force", "ray")
    if query is None:
        raise ProrankError("no query", hint='prorank rerank "a query" "a document" "another"')
    if os.path.isfile(os.path.join(query, "config.json")):
        raise ProrankError(f"the query is a model's folder: {query}", hint="the model goes under --model")
    if documents and file is not None:
        raise InputError("documents and --file", hint="give one of them")
    check_argument(query, "the query")
    check_argument(instruction or "", "the instruction")
    for place, text in enumerate(documents or [], start=1):
        check_argument(text, f"document {place}")
    found: list[Any] = list(documents or []) or _read_documents(file)
    with uncollected():
        reranker = Reranker.from_pretrained(model, **options)
    if threshold is not None:
        reranker.probability([])  # says so at once where scores are no probabilities
    results = [result | {"text": found[result["corpus_id"]]} for result in reranker.rank(query, found)]
    chances = _probabilities(reranker, results)
    if chances is not None:
        results = [{**result, "probability": chance} for result, chance in zip(results, chances)]
    shown = [r for r in results if threshold is None or r["probability"] >= threshold][:top_k]
    _say_if_none(results, shown, threshold)
    if as_json:
        print_json(shown)
    else:
        print_ranking(shown)


def _report_run(done: Reranked, output: Path, as_json: bool) -> None:
    if as_json:
        rate = done.scored / done.seconds if done.scored else None
        print_json(done._asdict() | {"pairs_per_second": rate, "output": str(output)})
    else:
        out.print(f"{done.pairs} documents of {done.queries} queries reranked", highlight=False)
        written(output)


def _probabilities(reranker: Any, results: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """The results' probabilities of relevance, or None where the model's scores stand for none."""
    try:
        return [float(chance) for chance in reranker.probability([result["score"] for result in results])]
    except CheckpointError:
        return None


def _say_if_none(results: Sequence[Mapping[str, Any]], shown: Sequence[Any], threshold: float | None) -> None:
    if not results:
        err.print("no documents")
    elif not shown:
        best = math.floor(1000 * results[0]["probability"]) / 1000  # cut: it must not look like the threshold
        err.print(f"0 of {len(results)} documents reach {threshold:g}; the best has {best:g}", highlight=False)


def print_ranking(results: Sequence[Mapping[str, Any]]) -> None:
    """One line per document: place, score, probability, id, title and text, as much as there is and as fits.

    Args:
        results: of `Reranker.rank`, with the documents and maybe `probability`.
    """
    documents = [r["text"] if isinstance(r["text"], Mapping) else {"text": r["text"]} for r in results]
    ids = [one_line(str(d.get("id", d.get("_id", ""))), 40) for d in documents]
    wide = max(map(len, ids), default=0)
    width = out.width if out.is_terminal else PIPED_TEXT
    chance = any("probability" in result for result in results)
    if out.is_terminal and results:
        names = [f"{'':>3}  {'score':>8}", *(["prob."] if chance else []), *([f"{'id':<{wide}}"] if wide else [])]
        out.print("  ".join([*names, "document"]), style="dim", markup=False, highlight=False)
    for place, (result, document, key) in enumerate(zip(results, documents, ids), start=1):
        cells = [f"{place:>3}  {result['score']:+8.3f}"]
        cells += [f"{result['probability']:.3f}"] if chance else []
        cells += [f"{key:<{wide}}"] if wide else []
        start = "  ".join(cells)
        text = ": ".join(part for part in (document.get("title"), document["text"]) if part)
        print(f"{start}  {one_line(text, max(10, width - len(start) - 2))}")


def _read_documents(file: Path | None) -> list[Any]:
    """Documents of a file or, unless it is a terminal, of standard input."""
    from prorank.data.documents import read_documents

    if file is None and (sys.stdin is None or sys.stdin.isatty()):
        raise ProrankError("no documents", hint="give them as arguments, by --file, or on standard input")
    return list(read_documents(file))
