"""`prorank calibrate`: how far scores can be trusted as probabilities. Parses, calls, prints."""

from __future__ import annotations

from typing import Annotated

import typer

from prorank.cli.bench_shared import Output, finish
from prorank.cli.shared import MODEL_HELP, AsJson, Device, Force, MaxLength, refuse, refuse_taken


def calibrate(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    collections: Annotated[list[str], typer.Argument(help="Folders in BEIR layout, bundled or hub names.")],
    precision: Annotated[
        float | None, typer.Option(help="Find the score from which on so large a share is relevant.", min=0, max=1)
    ] = None,
    depth: Annotated[int, typer.Option(help="First-stage documents that are reranked.", min=1)] = 20,
    max_queries: Annotated[int | None, typer.Option(help="A seeded sample of dev's and test's queries.", min=1)] = None,
    max_length: MaxLength = None,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Seed of splits and samples that are made.")] = 13,
    output: Output = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Fit calibrations on dev lists, measure them on test lists; find a threshold for a precision."""
    from prorank.data.splits import load_with_splits
    from prorank.evaluation.calibrate import calibrate_model, calibration_markdown
    from prorank.model.loading import resolve_source
    from prorank.reranker import Reranker

    if output is None:
        refuse(context, "only with --output", "force")
    refuse_taken(force, output)
    loaded = [load_with_splits(one, seed) for one in collections]  # a mistyped name is told at once
    resolve_source(model)  # refuses `auto`, whose scores are calibrated already
    reranker = Reranker.from_pretrained(model, max_length=max_length, device=device)
    found = [
        calibrate_model(reranker, one, depth=depth, wanted=precision, max_queries=max_queries, seed=seed)
        for one in loaded
    ]
    if not finish(found, output, as_json):
        print(calibration_markdown(found))
