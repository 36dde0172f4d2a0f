"""`prorank cascade`: how little must be read for the same ranking. Parses, calls, prints."""

from __future__ import annotations

from typing import Annotated

import typer

from prorank.cli.bench_shared import Output, finish
from prorank.cli.shared import MODEL_HELP, AsJson, Device, Force, MaxLength, refuse, refuse_taken, written


def cascade(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    collections: Annotated[list[str], typer.Argument(help="Folders in BEIR layout, bundled or hub names.")],
    loss: Annotated[float, typer.Option(help="NDCG@10 that may be lost on dev, on the mean.", min=0, max=1)] = 0.002,
    depth: Annotated[int, typer.Option(help="First-stage documents that are reranked.", min=1)] = 100,
    max_queries: Annotated[int | None, typer.Option(help="A seeded sample of dev's and test's queries.", min=1)] = None,
    max_length: MaxLength = None,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Seed of splits and samples that are made.")] = 13,
    save: Annotated[bool, typer.Option("--save", help="Write the cascade into the checkpoint's folder.")] = False,
    output: Output = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Choose on dev how little of how many documents to read; measure on test what that loses and saves."""
    from prorank.evaluation.cascade import cascade_markdown, measure_cascade
    from prorank.model.cascade import Cascade
    from prorank.model.checkpoint import save_cascade, saved_folder
    from prorank.reranker import Reranker

    if output is None:
        refuse(context, "only with --output", "force")
    refuse_taken(force, output)
    folder = saved_folder(model) if save else None
    reranker = Reranker.from_pretrained(model, max_length=max_length, device=device)
    found = measure_cascade(reranker, collections, loss=loss, depth=depth, max_queries=max_queries, seed=seed)
    found = {"model": model} | found
    shown = finish(found, output, as_json)
    if folder is not None:
        save_cascade(folder, Cascade(**found["cascade"]))
        written(folder)
    if not shown:
        print(cascade_markdown(found))
