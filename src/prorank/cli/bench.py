"""`prorank bench`: measure prorank beside other libraries. Parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prorank.cli.bench_shared import Output, Replace, finish, numbers, parts
from prorank.cli.bench_speed import (
    bench_inference,
    bench_memory,
    bench_profile,
    bench_serving,
    bench_step,
    bench_warmup,
)
from prorank.cli.shared import (
    AsJson,
    CollectionArgument,
    MaxLength,
    Model,
    err,
    out,
    refuse,
    refuse_taken,
    working,
    written,
)
from prorank.shipped import MINI

bench = typer.Typer(help="Measure prorank beside other libraries.", no_args_is_help=True)
bench.command("inference")(bench_inference)
bench.command("warmup")(bench_warmup)
bench.command("memory")(bench_memory)
bench.command("step")(bench_step)
bench.command("profile")(bench_profile)
bench.command("serving")(bench_serving)


@bench.command("guards")
def bench_guards(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, a YAML file, or `toy`.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, e.g. data.collection=FOLDER")] = None,
    work: Annotated[Path, typer.Option(help="Folder of the runs; what is done is not repeated.")] = Path("runs/guards"),
    variants: Annotated[str, typer.Option(help="Names with commas between; default: all.")] = "",
    seeds: Annotated[str, typer.Option(help="Numbers with commas between.")] = "1,2,3",
    output: Output = None,
    as_json: AsJson = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves to this PNG.")] = None,
    force: Replace = False,
) -> None:
    """Warm up with and without each guard: which keep balanced accuracy?"""
    from prorank.bench.guards import VARIANTS, base_recipe, run_guards
    from prorank.bench.tables import guards_table, plot_guards

    refuse_taken(force, output, plot)
    names, chosen = parts(variants) or list(VARIANTS), numbers(seeds)
    with working(work):
        found = run_guards(base_recipe(recipe, overrides or [], work), names, chosen, work, err, force)
    if plot is not None:
        plot_guards(found["runs"], plot)
        written(plot)
    if finish(found, output, as_json):
        return
    out.print(guards_table(found["rows"]))


@bench.command("variance")
def bench_variance(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, a YAML file, or `toy`.")] = "toy",
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, e.g. data.collection=FOLDER")] = None,
    work: Annotated[Path, typer.Option(help="Folder of the warmup whose model is looked at.")] = Path("runs/variance"),
    groups: Annotated[str, typer.Option(help="Group sizes with commas between.")] = "8,16,64",
    draws: Annotated[int, typer.Option(help="Gradients drawn for each.", min=2)] = 50,
    output: Output = None,
    as_json: AsJson = False,
    force: Replace = False,
) -> None:
    """Measure the gradient noise that the exact expectation removes."""
    from prorank.bench.guards import base_recipe
    from prorank.bench.variance import run_variance_bench

    refuse_taken(force, output)
    with working(work):
        base = base_recipe(recipe, overrides or [], work)
        found = run_variance_bench(base, work / "run", numbers(groups), draws, err, force)
    if finish(found, output, as_json):
        return
    for name in ("start", "warmed"):
        for row in found[name]:
            out.print(f"{name}, G={row['group']}: noise over signal {row['noise']:.2f}")


@bench.command("quality")
def bench_quality(
    context: typer.Context,
    collections: Annotated[list[str], typer.Argument(help="Folders in BEIR layout.")],
    model: Model = MINI,
    dense: Annotated[str, typer.Option(help="Bi-encoder that reranks the same lists.")] = "embedded",
    hybrid: Annotated[float, typer.Option(help="The first stage's share in the hybrid.", min=0, max=1)] = 0.2,
    depth: Annotated[int, typer.Option(help="First-stage documents that are reranked.", min=1)] = 100,
    max_queries: Annotated[int | None, typer.Option(help="A seeded sample of the test queries.", min=1)] = None,
    max_length: MaxLength = None,
    work: Annotated[Path, typer.Option(help="Folder; what is done is not repeated.")] = Path("runs/quality"),
    output: Output = None,
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table in Markdown.")] = False,
    force: Replace = False,
) -> None:
    """Compare a model with BM25 and a bi-encoder on the test queries of several collections."""
    from prorank.bench.quality import run_quality_bench
    from prorank.bench.tables import quality_markdown, quality_table

    if as_json:
        refuse(context, "not with --json", "markdown")
    refuse_taken(force, output)
    with working(work):
        found = run_quality_bench(
            model,
            collections,
            work,
            dense=dense,
            hybrid=hybrid,
            depth=depth,
            max_queries=max_queries,
            max_length=max_length,
            console=err,
            force=force,
        )
    if finish(found, output, as_json):
        return
    if markdown:
        print(quality_markdown(found))
    else:
        out.print(quality_table(found))
        out.print(f"100 passages of 200 tokens: {found['passages']['median_seconds']:.2f} s")


@bench.command("erank")
def bench_erank(
    collections: Annotated[list[str], typer.Argument(help="Folders in BEIR layout.")],
    recipe: Annotated[str, typer.Option(help="A recipe with sft and listwise.")] = "erank-minilm",
    override: Annotated[list[str] | None, typer.Option(help="key=value, e.g. sft.steps=50; several times.")] = None,
    work: Annotated[Path, typer.Option(help="Folder of the runs; what is done is not repeated.")] = Path("runs/erank"),
    variants: Annotated[str, typer.Option(help="Names with commas between; default: all.")] = "",
    seeds: Annotated[str, typer.Option(help="Numbers with commas between.")] = "1,2,3",
    output: Output = None,
    as_json: AsJson = False,
    force: Replace = False,
) -> None:
    """Supervised grades, reinforcement, both, each reward; integers against 0 and 1."""
    from prorank.bench.erank import VARIANTS, run_erank_bench
    from prorank.bench.tables import erank_markdown, ties_markdown
    from prorank.recipe.loading import load_recipe

    refuse_taken(force, output)
    names = parts(variants) or list(VARIANTS)
    with working(work):
        base = load_recipe(recipe, override or [])
        found = run_erank_bench(base, collections, names, numbers(seeds), work, err, force)
    if finish(found, output, as_json):
        return
    print(f"{erank_markdown(found['rows'])}\n\n{ties_markdown(found['rows'])}")


@bench.command("training")
def bench_training(
    collection: CollectionArgument,
    recipe: Annotated[str, typer.Option(help="A recipe with both stages: what all systems share.")] = "minilm",
    override: Annotated[list[str] | None, typer.Option(help="key=value; several times.")] = None,
    systems: Annotated[str, typer.Option(help="Names with semicolons between; default: all.")] = "",
    work: Annotated[Path, typer.Option(help="Folder of the runs; what is done is not repeated.")] = Path("runs/peers"),
    seeds: Annotated[str, typer.Option(help="Numbers with commas between.")] = "1,2,3",
    output: Output = None,
    as_json: AsJson = False,
    force: Replace = False,
) -> None:
    """Train beside sentence-transformers: same backbone, lists, steps, batch and seeds."""
    from prorank.bench.peers import SYSTEMS, peers_markdown, run_peer_bench
    from prorank.recipe.loading import load_recipe

    refuse_taken(force, output)
    names = [name.strip() for name in systems.split(";") if name.strip()] or list(SYSTEMS)
    if unknown := [name for name in names if name not in SYSTEMS]:
        raise typer.BadParameter(f"no system '{unknown[0]}'; there are: {'; '.join(SYSTEMS)}")
    base = load_recipe(recipe, [f"data.collection={collection}", *(override or [])])
    with working(work):
        found = run_peer_bench(base, names, numbers(seeds), work, err, force)
    if not finish(found, output, as_json):
        print(peers_markdown(found))
