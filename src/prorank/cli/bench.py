"""`prorank bench`: measure prorank beside other libraries. Parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from prorank.cli.shared import (
    AsJson,
    CollectionArgument,
    CollectionOption,
    Force,
    MaxLength,
    Model,
    err,
    out,
    print_json,
    refuse,
    refuse_taken,
    working,
    written,
)
from prorank.shipped import MINI

bench = typer.Typer(help="Measure prorank beside other libraries.", no_args_is_help=True)
Replace = Annotated[bool, typer.Option("--force", help="Replace files, and runs that were made from something else.")]
Output = Annotated[Path | None, typer.Option(help="JSON file to write the results to.")]


def finish(results: Any, output: Path | None, as_json: bool) -> bool:
    """Write results to a file and print them as JSON, as asked; whether nothing is left to print."""
    from prorank.util.files import write_json

    if output is not None:
        write_json(output, results)
        written(output)
    if as_json:
        print_json(results)
    return as_json


def parts(text: str) -> list[str]:
    """What stands between commas.

    >>> parts("sft, binary")
    ['sft', 'binary']
    """
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers(text: str) -> list[int]:
    """Whole numbers between commas.

    Raises:
        typer.BadParameter: another word, or none at all.

    >>> numbers("1,2")
    [1, 2]
    """
    try:
        found = [int(part) for part in parts(text)]
    except ValueError as error:
        raise typer.BadParameter(f"'{text}' is not a list of whole numbers, e.g. 1,2,3") from error
    if not found:
        raise typer.BadParameter("give at least one number")
    return found


@bench.command("inference")
def bench_inference(
    shape: Annotated[Literal["minilm", "qwen2.5-0.5b"], typer.Option(help="Published shape.")] = "minilm",
    collection: CollectionOption = "cosqa",
    short_collection: Annotated[str, typer.Option(help="Short documents, for the instruction-first layout.")] = "cosqa",
    pairs: Annotated[int, typer.Option(help="Pairs that each library scores.", min=8)] = 100,
    repeats: Annotated[int, typer.Option(help="Times they are scored; the best counts.", min=1)] = 1,
    work: Annotated[Path, typer.Option(help="Folder for models and peers.")] = Path("runs/bench"),
    peer_python: Annotated[
        str | None, typer.Option(help="A Python that has mxbai-rerank; default: one is made in the work folder.")
    ] = None,
    output: Output = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Score the same pairs with other libraries and prorank, in one run."""
    from prorank.bench import inference

    refuse_taken(force, output)
    results = inference.run_inference_bench(
        shape,
        collection,
        short_collection,
        work,
        pairs=pairs,
        repeats=repeats,
        peer_interpreter=peer_python,
        console=err,
    )
    if output is not None:
        inference.save(results, output)
        written(output)
    if as_json:
        print_json(results)
        return
    for found in (results, results["cuda"]):
        if found is not None:
            out.print(inference.table(found, f"{shape}, {'cpu' if found is results else 'cuda'}"))
            for key in ("ratios", "memory_ratio"):
                out.print(f"{key}: " + ", ".join(f"{name} {value:.2f}" for name, value in found[key].items()))
            out.print(f"largest difference of scores in fp32: {found['max_score_difference']:.1e}")
    if results["cuda"] is None:
        out.print(results["cuda_note"])


@bench.command("warmup")
def bench_warmup(
    shape: Annotated[Literal["small", "qwen2.5-0.5b"], typer.Option(help="Model of random weights.")] = "small",
    prompts: Annotated[int, typer.Option(help="Prompts a step.", min=2)] = 4,
    prompt_tokens: Annotated[int, typer.Option(help="Mean tokens of a prompt.", min=16)] = 120,
    steps: Annotated[int, typer.Option(help="Timed steps; the median counts.", min=1)] = 3,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where.")] = "cpu",
    output: Output = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Time a warmup step beside TRL's GRPOTrainer and beside plain supervised training."""
    from prorank.bench.warmup import run_warmup_bench

    refuse_taken(force, output)
    results = run_warmup_bench(
        shape, prompts=prompts, prompt_tokens=prompt_tokens, steps=steps, device=device, console=err
    )
    if finish(results, output, as_json):
        return
    for key in ("speed_ratio", "speed_ratio_sampled", "memory_ratio", "memory_ratio_sampled"):
        out.print(f"{key}: " + ", ".join(f"G={group} {value:.2f}" for group, value in results[key].items()))
    out.print(f"a step over a supervised one: {results['supervised_ratio']:.2f}")
    out.print(f"general path, TRL over ours: {results['general_ratio']:.2f}")


@bench.command("memory")
def bench_memory(
    model: Annotated[str, typer.Argument(help="Folder or name of a model.")],
    stage: Annotated[Literal["warmup", "score-learning", "sft"], typer.Option(help="Whose loss.")] = "warmup",
    pairs: Annotated[int, typer.Option(help="Pairs of a step; score learning makes lists of 8.", min=8)] = 16,
    length: Annotated[int, typer.Option(help="Tokens of a pair.", min=16)] = 256,
    budgets: Annotated[str, typer.Option(help="Tokens of a pass, with commas between.")] = "512,1024",
    lora: Annotated[str, typer.Option(help="Ranks with commas between; 0 trains every weight.")] = "0,32",
    recompute: Annotated[bool, typer.Option(help="Measure gradient checkpointing as well.")] = False,
    steps: Annotated[int, typer.Option(help="Timed steps; the median counts.", min=1)] = 3,
    device: Annotated[str, typer.Option(help="Where.")] = "auto",
    precision: Annotated[Literal["auto", "fp32", "bf16"], typer.Option(help="Of the layers.")] = "auto",
    output: Output = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Measure memory and time of a training step at each budget of tokens, beside one pass."""
    from prorank.bench.memory import GIGABYTE, run_memory_bench
    from prorank.util.files import refuse_file_overwrite

    if output is not None:
        refuse_file_overwrite(output, force)
    if stage == "score-learning" and pairs % 8:
        raise typer.BadParameter("score learning needs a multiple of 8", param_hint="--pairs")
    results = run_memory_bench(
        model,
        stage=stage,
        pairs=pairs,
        length=length,
        budgets=numbers(budgets),
        lora=numbers(lora),
        recompute=recompute,
        steps=steps,
        device=device,
        precision=precision,
        console=err,
    )
    if finish(results, output, as_json):
        return
    for row in results["rows"]:
        held = "?" if row["extra_bytes"] is None else f"{row['extra_bytes'] / GIGABYTE:.2f}"
        kind = "all weights" if not row["lora"] else f"LoRA {row['lora']}"
        again = ", layers twice" if row["recompute"] else ""
        out.print(
            f"{kind}, budget {row['budget'] or 'none'}{again}: {held} GB beyond the weights, {row['time_ratio']:.2f} x "
            "the time of one pass"
        )


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
    names = parts(variants) or list(VARIANTS)
    with working(work):
        found = run_guards(base_recipe(recipe, overrides or [], work), names, numbers(seeds), work, err, force)
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


@bench.command("serving")
def bench_serving(
    model: Model = MINI,
    collection: CollectionOption = "cosqa",
    seconds: Annotated[float, typer.Option(help="Of the load; other parts take a quarter of it.", min=1)] = 120,
    clients: Annotated[int, typer.Option(help="That ask at once.", min=1)] = 64,
    hostile: Annotated[int, typer.Option(help="Hostile bodies to send; 0 sends none.", min=0)] = 0,
    infinity: Annotated[
        str | None, typer.Option(help="A Python that has infinity-emb, to serve the same weights beside it.")
    ] = None,
    work: Annotated[Path, typer.Option(help="Folder for the model that both serve.")] = Path("runs/serving"),
    output: Output = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Measure the server: throughput, delay, fairness, a stop under load; beside infinity."""
    from prorank.bench.serving import run_serving_bench
    from prorank.util.files import refuse_file_overwrite

    if output is not None:
        refuse_file_overwrite(output, force)
    found = run_serving_bench(
        model,
        collection,
        work,
        seconds=seconds,
        clients=clients,
        bodies=hostile,
        infinity=infinity,
        console=err,
    )
    if finish(found, output, as_json):
        return
    load, lone, mixed, sigterm = (found[key] for key in ("load", "lone", "mixed", "sigterm"))
    out.print(f"ready after {found['ready_seconds']:.1f} s")
    out.print(
        f"{clients} clients: {load['pairs_per_second']:.1f} pairs/s, {found['throughput_ratio']:.2f} of direct calls; "
        f"{load['wrong']} wrong, {sum(load['lost'].values())} lost"
    )
    out.print(f"a lone request: {lone['p50_ms']:.1f} ms, {lone['overhead_ms']:.1f} ms over a direct call")
    out.print(
        f"short requests beside a long one: p99 {mixed['small']['p99_ms']:.1f} ms, bound {mixed['bound_ms']:.1f} ms"
    )
    out.print(f"SIGTERM: {sigterm['logged']} accepted, {sigterm['logged_without_answer']} of them without an answer")
    if hostile:
        attack = found["hostile"]
        out.print(f"hostile bodies: {attack['failures']} failures, memory {100 * attack['growth']:+.1f} %")
    if infinity:
        out.print(f"throughput over infinity's: {found['infinity']['ratio']:.2f}")


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
