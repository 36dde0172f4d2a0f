"""`prorank ablate`: what each part of a recipe adds. Parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prorank.cli.bench_shared import Output, Replace, finish, numbers, parts
from prorank.cli.shared import AsJson, err, print_json, refuse_taken, working


def ablate(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, e.g. data.collection=FOLDER")] = None,
    variants: Annotated[str, typer.Option(help="Names with commas between; default: all that fit the recipe.")] = "",
    seeds: Annotated[str, typer.Option(help="Numbers with commas between.")] = "1,2,3",
    work: Annotated[Path, typer.Option(help="Folder of the runs; what is done is not repeated.")] = Path("runs/ablate"),
    budget: Annotated[bool, typer.Option("--budget", help="Only say how long it will take on this machine.")] = False,
    output: Output = None,
    as_json: AsJson = False,
    force: Replace = False,
) -> None:
    """Train variants of a recipe over seeds: no warmup, supervised or drawn verdicts, other losses, LoRA or not."""
    from prorank.bench.ablation import fitting, run_ablation, varied
    from prorank.bench.budget import budget_rows
    from prorank.bench.tables import ablation_markdown, budget_markdown
    from prorank.recipe.loading import load_recipe
    from prorank.training.inputs import load_collections

    refuse_taken(force, output)
    base, chosen = load_recipe(recipe, overrides or []), numbers(seeds)
    names = parts(variants) or fitting(base)
    if budget:
        recipes = {name: varied(base, name, chosen[0]) for name in names}
        rows = budget_rows(recipes, len(chosen), load_collections(base))
        print_json(rows) if as_json else print(budget_markdown(rows))
        return
    with working(work):
        found = run_ablation(base, names, chosen, work, err, force)
    if not finish(found, output, as_json):
        print(ablation_markdown(found["rows"]))
