"""`prorank evaluate`: one collection, or a suite of them. Parses, calls, prints."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from prorank.cli.shared import (
    MODEL_HELP,
    AsJson,
    ByCascade,
    Device,
    ExcludeQueryDocument,
    Force,
    MaxLength,
    Passages,
    PrecisionOption,
    err,
    out,
    print_json,
    refuse,
    reranking,
    typed,
    working,
    written,
)
from prorank.util.errors import InputError

if TYPE_CHECKING:
    from prorank.engine.load import RerankerOptions

ONE_COLLECTION = "split run candidates dense hybrid hybrid_scale relevant_from exclude_query_document strict".split()


def evaluate(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    collection: Annotated[
        str | None, typer.Argument(help="Folder in BEIR layout, bundled name or hub data set; of a suite: its folder.")
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(help="open, beir, nano-beir, chinese, code, bright, followir or trec-dl."),
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(help="In a suite, also: a model, bi-encoder:NAME, cross-encoder:NAME, yes-no:NAME, URL."),
    ] = None,
    split: Annotated[str, typer.Option(help="Split whose queries are measured.")] = "test",
    depth: Annotated[int, typer.Option(help="First-stage documents that are reranked.", min=1)] = 100,
    run: Annotated[Path | None, typer.Option(help="First-stage TREC run; default BM25.")] = None,
    candidates: Annotated[bool, typer.Option("--candidates", help="Rerank the collection's own lists.")] = False,
    dense: Annotated[str | None, typer.Option(help="A bi-encoder that reranks the same lists too.")] = None,
    hybrid: Annotated[float | None, typer.Option(help="Also join with this first-stage share.", min=0, max=1)] = None,
    hybrid_scale: Annotated[
        Literal["z-score", "min-max"], typer.Option(help="How a query's two scores are made comparable.")
    ] = "z-score",
    relevant_from: Annotated[int, typer.Option(help="Least relevant grade in metrics without grades.", min=1)] = 1,
    max_queries: Annotated[int | None, typer.Option(help="A seeded sample of the queries.", min=1)] = None,
    prompt: Annotated[str | None, typer.Option(help="Prompt of a model that is no checkpoint.")] = None,
    max_length: MaxLength = None,
    passages: Passages = None,
    cascade: ByCascade = False,
    device: Device = "auto",
    precision: PrecisionOption = "auto",
    exclude_query_document: ExcludeQueryDocument = False,
    seed: Annotated[int, typer.Option(help="Seed of splits and samples that are made.")] = 13,
    output: Annotated[Path | None, typer.Option(help="Folder for run, per-query file and summary.")] = None,
    force: Force = False,
    strict: Annotated[bool, typer.Option("--strict", help="Doubtful data are errors.")] = False,
    as_json: AsJson = False,
) -> None:
    """Rerank the true first stage of a split and compare with it; or of every collection of a suite."""
    from prorank.evaluation.evaluator import evaluate_model
    from prorank.evaluation.rerank_file import JOURNAL, interrupted
    from prorank.util.files import refuse_folder_overwrite

    if suite is not None:
        refuse(context, "not with --suite", *ONE_COLLECTION)
        options: RerankerOptions = {"prompt": prompt, "max_length": max_length, "passages": passages}
        options |= {"cascade": cascade, "device": device, "precision": precision}
        place = output or Path("runs") / f"suite-{suite}"
        within = None if typed(context, "depth") == [] else depth
        evaluate_suite(
            suite, [model, *(beside or [])], place, collection, within, max_queries, seed, options, force, as_json
        )
        return
    refuse(context, "only with --suite", "beside")
    if collection is None:
        raise InputError("there is no collection to evaluate on", hint="give a folder, or --suite NAME")
    if run is not None:
        refuse(context, "the first stage is the run", "candidates")
    if hybrid is None:
        refuse(context, "only with --hybrid", "hybrid_scale")
    if output is None:
        refuse(context, "only with --output", "force")
    elif force or not interrupted(output):
        refuse_folder_overwrite(output, force)
    with reranking(output / JOURNAL) if output else nullcontext():
        summary = evaluate_model(
            model,
            collection,
            split=split,
            depth=depth,
            run_file=run,
            candidates=candidates,
            dense=dense,
            hybrid=hybrid,
            hybrid_scale=hybrid_scale,
            relevant_from=relevant_from,
            max_queries=max_queries,
            prompt=prompt,
            max_length=max_length,
            passages=passages,
            cascade=cascade,
            device=device,
            precision=precision,
            seed=seed,
            output=output,
            strict=strict,
            exclude_query_document=exclude_query_document,
            force=force,
        )
    if as_json:
        print_json(summary)
    else:
        show(summary)
    if output:
        written(output)


def show(summary: dict[str, Any]) -> None:
    """Print one collection's table, and what is to be said of it."""
    from prorank.evaluation.rerank import result_notes
    from prorank.evaluation.tables import results_table

    out.print(results_table(summary["rows"]))
    for row in summary["rows"]:
        if "p_mrr" in row:
            out.print(f"p-MRR of {row['stage']}: {100 * row['p_mrr']:+.1f}")
    for note in result_notes(summary["queries"], summary["queries_without_relevant"], summary["carved_splits"]):
        out.print(f"[yellow]{escape(note)}[/yellow]", soft_wrap=True, highlight=False)


def evaluate_suite(
    suite: str,
    systems: list[str],
    output: Path,
    folder: str | None,
    depth: int | None,
    max_queries: int | None,
    seed: int,
    options: RerankerOptions,
    force: bool,
    as_json: bool,
) -> None:
    """Measure systems on a suite: table, files, page."""
    from prorank.evaluation.suite import run_suite
    from prorank.evaluation.suite_report import refuse_to_drop, suite_markdown, write_suite
    from prorank.evaluation.suites import tasks_of

    within = None if folder is None else Path(folder)
    refuse_to_drop(output, suite, [task.name for task in tasks_of(suite, within)], systems, force)
    with working(output):
        found, pages = run_suite(
            suite,
            systems,
            output,
            folder=within,
            depth=depth,
            max_queries=max_queries,
            seed=seed,
            options=options,
            console=err,
            force=force,
        )
        write_suite(output, found, pages)
    if as_json:
        print_json(found)
    else:
        print(suite_markdown(found))
    written(output)
