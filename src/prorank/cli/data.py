"""`prorank data`: look at collections and make training data. Parses, calls, prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from prorank.cli.shared import (
    AsJson,
    CollectionArgument,
    ExcludeQueryDocument,
    Force,
    err,
    out,
    print_json,
    refuse,
    written,
)
from prorank.shipped import MINI
from prorank.util.live import again, interruptible

data = typer.Typer(help="Look at collections and make training data.", no_args_is_help=True)


@data.command()
def check(
    collection: CollectionArgument,
    strict: Annotated[bool, typer.Option("--strict", help="Doubtful entries are errors (exit code 2).")] = False,
    as_json: AsJson = False,
) -> None:
    """Read a collection, count what is in it, and list what is doubtful."""
    from prorank.data.collection import REMEDIES, load_collection
    from prorank.evaluation.tables import collection_headline, collection_summary, collection_table

    loaded = load_collection(collection, strict=strict)
    if as_json:
        print_json(collection_summary(loaded))
        return
    out.print(collection_headline(loaded), highlight=False)
    out.print(collection_table(loaded))
    for problem in loaded.problems[:20]:
        out.print(f"[yellow]{escape(str(problem))}[/yellow]", soft_wrap=True)
    out.print(f"{len(loaded.problems)} doubtful entries")
    for kind, remedy in REMEDIES.items():
        if any(problem.kind == kind for problem in loaded.problems):
            out.print(f"{kind}: {remedy}", soft_wrap=True, highlight=False)


@data.command("convert")
def data_convert(
    context: typer.Context,
    layout: Annotated[Literal["followir", "bright", "trec-dl"], typer.Argument(help="Whose files these are.")],
    source: Annotated[Path, typer.Argument(help="Folder of the benchmark's files, as published.")],
    output: Annotated[Path, typer.Option(help="Collection to write, in BEIR layout.")],
    part: Annotated[str | None, typer.Option(help="BRIGHT's domain, or TREC's year.")] = None,
    long: Annotated[bool, typer.Option("--long", help="BRIGHT's whole pages and their gold lists.")] = False,
    force: Force = False,
) -> None:
    """Write FollowIR, BRIGHT or TREC Deep Learning as a collection."""
    from prorank.data.convert import convert

    if layout != "bright":
        refuse(context, "only with bright", "long")
    if layout == "followir":
        refuse(context, "not with followir, which has one part", "part")
    convert(layout, source, output, part=part, long=long, force=force)
    out.print(f"{layout} in [bold]{escape(str(output))}[/bold]; look at it: prorank data check {escape(str(output))}")


@data.command("from-pairs")
def data_from_pairs(
    source: Annotated[
        Path, typer.Argument(help="JSON Lines of query, pos, neg; or CSV or TSV of two columns, question and answer.")
    ],
    output: Annotated[Path, typer.Option(help="Collection to write, in BEIR layout.")],
    split: Annotated[str, typer.Option(help="Split whose judgments they become.")] = "train",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write pairs of questions and answers as a collection; equal texts get one id."""
    from prorank.data.pairs import from_pairs

    found = from_pairs(source, output, split, force)
    if as_json:
        print_json({**found, "output": str(output)})
    else:
        out.print(", ".join(f"{count} {name}" for name, count in found.items()), highlight=False)
        written(output)


@data.command()
def mine(
    context: typer.Context,
    collection: CollectionArgument,
    output: Annotated[Path, typer.Option(help="JSON Lines to write: query_id, positives, negatives.")],
    split: Annotated[str, typer.Option(help="Split whose queries are mined.")] = "train",
    run: Annotated[Path | None, typer.Option(help="First-stage TREC run; default BM25 to rank 1000.")] = None,
    hard: Annotated[int, typer.Option(help="From ranks 1-10.", min=0)] = 4,
    medium: Annotated[int, typer.Option(help="From ranks 11-100.", min=0)] = 2,
    easy: Annotated[int, typer.Option(help="From ranks 101-1000.", min=0)] = 1,
    random: Annotated[int, typer.Option(help="From the whole corpus.", min=0)] = 1,
    teacher: Annotated[str | None, typer.Option(help="Bi-encoder for the false-negative filter.")] = None,
    margin: Annotated[float, typer.Option(help="Drop what scores above the weakest positive minus this.")] = 0.0,
    exclude_query_document: ExcludeQueryDocument = False,
    texts: Annotated[bool, typer.Option("--texts", help="Write texts beside the ids.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the draw and of splits that are made.")] = 13,
    force: Force = False,
) -> None:
    """Mine negatives by rank tier; a recipe trains on them by score_learning.mined."""
    from prorank.training.lists import mine_to_file

    if teacher is None:
        refuse(context, "only with --teacher", "margin")
    quotas = {"hard": hard, "medium": medium, "easy": easy}
    mined = mine_to_file(
        collection,
        output,
        split,
        run,
        quotas,
        random,
        teacher,
        margin,
        seed,
        force,
        exclude_query_document=exclude_query_document,
        with_texts=texts,
    )
    lacking = ", ".join(f"{tier} {count}" for tier, count in mined.shortfall.items() if count) or "none"
    out.print(
        f"{len(mined.negatives)} queries mined; lacking: {lacking}; filtered as likely relevant: {mined.filtered}"
    )


@data.command()
def synthesize(
    context: typer.Context,
    collection: CollectionArgument,
    output: Annotated[Path, typer.Option(help="JSON Lines to write: query_id, documents with grades 0 to 10.")],
    teacher: Annotated[
        str, typer.Option(help="qrels; scorer:MODEL; local:MODEL; or chat:MODEL (with --base-url).")
    ] = f"scorer:{MINI}",
    base_url: Annotated[str, typer.Option(help="OpenAI-compatible endpoint.")] = "http://localhost:8000/v1",
    key_variable: Annotated[str, typer.Option(help="Environment variable that holds the key.")] = "OPENAI_API_KEY",
    generations: Annotated[int, typer.Option(help="Answers per pair; the one nearest their mean is kept.", min=1)] = 3,
    temperature: Annotated[float, typer.Option(help="Of generated answers.", min=0)] = 0.6,
    max_new_tokens: Annotated[int, typer.Option(help="Of a generated answer.", min=8)] = 2_048,
    concurrency: Annotated[int, typer.Option(help="Requests at a time.", min=1)] = 8,
    split: Annotated[str, typer.Option(help="Split whose queries are graded.")] = "train",
    queries: Annotated[int | None, typer.Option(help="A seeded sample of the queries.", min=1)] = None,
    hard: Annotated[int, typer.Option(help="Negatives from ranks 1-10.", min=0)] = 10,
    medium: Annotated[int, typer.Option(help="From ranks 11-100.", min=0)] = 5,
    easy: Annotated[int, typer.Option(help="From ranks 101-1000.", min=0)] = 4,
    seed: Annotated[int, typer.Option(help="Seed of the draw and of splits that are made.")] = 13,
    force: Force = False,
) -> None:
    """Grade candidate lists by a teacher; after a kill, the same command resumes."""
    from prorank.erank.graders import load_teacher
    from prorank.erank.synthesis import graded_candidates, kept_answers, synthesize
    from prorank.util.files import refuse_file_overwrite

    refuse_unused(context, teacher)
    refuse_file_overwrite(output, force)
    asked = load_teacher(teacher, generations, max_new_tokens, temperature, base_url, key_variable, concurrency)
    quotas = {"hard": hard, "medium": medium, "easy": easy}
    loaded, candidates = graded_candidates(collection, split, queries, quotas, seed)
    with interruptible(lambda line: err.print(line, soft_wrap=True), lambda: kept_answers(output), again(sys.argv[1:])):
        statistics = synthesize(loaded, candidates, asked, output, out)
    for name, value in statistics.items():
        out.print(f"{name.replace('_', ' ')}: {value:.2f}" if isinstance(value, float) else f"{name}: {value}")
    written(output)


def refuse_unused(context: typer.Context, teacher: str) -> None:
    """Refuse options of `synthesize` that this teacher does not read."""
    if not teacher.startswith("chat:"):
        refuse(context, "only with --teacher chat:MODEL", "base_url", "key_variable", "concurrency")
    if not teacher.startswith(("chat:", "local:")):
        refuse(context, "only with a teacher that writes", "generations", "temperature", "max_new_tokens")
