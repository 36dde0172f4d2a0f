"""`prorank analyze`: does a model understand the prompt, are its states and scores narrow? Parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prorank.cli.shared import (
    MODEL_HELP,
    AsJson,
    CollectionOption,
    Device,
    Force,
    MaxLength,
    PrecisionOption,
    print_json,
    refuse,
    written,
)
from prorank.util.terminal import visible


def analyze(
    context: typer.Context,
    models: Annotated[list[str], typer.Argument(help=f"{MODEL_HELP} Several are set side by side.")],
    collection: CollectionOption,
    split: Annotated[str, typer.Option(help="Split whose queries are asked.")] = "test",
    prompts: Annotated[
        str, typer.Option(help="Names or YAML files with commas between; default: the model's own and four shipped.")
    ] = "",
    queries: Annotated[int, typer.Option(help="A seeded sample of the queries.", min=1)] = 50,
    hard: Annotated[int, typer.Option(help="Negatives per query from BM25's first ten ranks.", min=1, max=10)] = 2,
    max_length: MaxLength = None,
    device: Device = "auto",
    precision: PrecisionOption = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the sample and of the documents drawn.")] = 13,
    output: Annotated[Path | None, typer.Option(help="Folder for analysis.json, tables and two plots.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """ProRank's preliminary analysis: format, verdicts and order for each prompt; width of states and scores."""
    from prorank.evaluation.analysis_report import analysis_markdown, plot_analysis
    from prorank.pipeline.analyze import analyze_models
    from prorank.util.files import atomic_writer, refuse_folder_overwrite, write_json

    if output is None:
        refuse(context, "only with --output", "force")
    else:
        refuse_folder_overwrite(output, force)
    result = analyze_models(
        models,
        collection,
        split=split,
        prompts=[name.strip() for name in prompts.split(",") if name.strip()],
        queries=queries,
        hard=hard,
        max_length=max_length,
        device=device,
        precision=precision,
        seed=seed,
    )
    if output is not None:
        write_json(output / "analysis.json", result)
        with atomic_writer(output / "analysis.md") as file:
            file.write(analysis_markdown(result) + "\n")
        plot_analysis(result, output)
        written(output)
    if as_json:
        print_json(result)
    else:
        print(visible(analysis_markdown(result)))
