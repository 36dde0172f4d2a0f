"""`prorank bench` where seconds and bytes are measured. Parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from prorank.cli.bench_shared import Output, finish, numbers, parts
from prorank.cli.shared import (
    AsJson,
    CollectionOption,
    Device,
    Force,
    Model,
    PrecisionOption,
    err,
    out,
    print_json,
    refuse_taken,
    written,
)
from prorank.shipped import MINI


def bench_inference(
    shape: Annotated[
        Literal["minilm", "smollm2-135m", "qwen2.5-0.5b"], typer.Option(help="Published shape.")
    ] = "minilm",
    collection: CollectionOption = "cosqa",
    short_collection: Annotated[str, typer.Option(help="Short documents, for the instruction-first layout.")] = "cosqa",
    pairs: Annotated[int, typer.Option(help="Pairs that each library scores.", min=8)] = 100,
    repeats: Annotated[int, typer.Option(help="Times they are scored; the best counts.", min=1)] = 1,
    work: Annotated[Path, typer.Option(help="Folder for models and peers.")] = Path("runs/bench"),
    without: Annotated[
        str, typer.Option(help="Peers to leave out, with commas between: mxbai-rerank, llama.cpp, flashrank.")
    ] = "",
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
        without=parts(without),
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
            out.print(f"share of the matmul limit: {found['limit_share']:.2f}")
    if results["cuda"] is None:
        out.print(results["cuda_note"])


def bench_warmup(
    shape: Annotated[Literal["small", "qwen2.5-0.5b"], typer.Option(help="Model of random weights.")] = "small",
    prompts: Annotated[int, typer.Option(help="Prompts per step.", min=2)] = 4,
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
        told = {group: "unknown" if value is None else f"{value:.2f}" for group, value in results[key].items()}
        out.print(f"{key}: " + ", ".join(f"G={group} {value}" for group, value in told.items()))
    out.print(f"a step over a supervised one: {results['supervised_ratio']:.2f}")
    out.print(f"general path, TRL over ours: {results['general_ratio']:.2f}")


def bench_memory(
    model: Annotated[str, typer.Argument(help="Folder or name of a model.")],
    stage: Annotated[Literal["warmup", "score-learning", "sft"], typer.Option(help="Whose loss.")] = "warmup",
    pairs: Annotated[int, typer.Option(help="Pairs of a step; score learning makes lists of 8.", min=8)] = 16,
    length: Annotated[int, typer.Option(help="Tokens of a pair.", min=16)] = 256,
    budgets: Annotated[str, typer.Option(help="Tokens of a pass, with commas between.")] = "512,1024",
    lora: Annotated[str, typer.Option(help="Ranks with commas between; 0 trains every weight.")] = "0,32",
    gradient_checkpointing: Annotated[
        bool, typer.Option(help="Measure each budget with gradient checkpointing as well.")
    ] = False,
    steps: Annotated[int, typer.Option(help="Timed steps; the median counts.", min=1)] = 3,
    device: Device = "auto",
    precision: PrecisionOption = "auto",
    output: Output = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Measure memory and time of a training step at each budget of tokens, beside one pass."""
    from prorank.bench.memory import GIGABYTE, run_memory_bench

    refuse_taken(force, output)
    if stage == "score-learning" and pairs % 8:
        raise typer.BadParameter("score learning needs a multiple of 8", param_hint="--pairs")
    results = run_memory_bench(
        model,
        stage=stage,
        pairs=pairs,
        length=length,
        budgets=numbers(budgets),
        lora=numbers(lora),
        gradient_checkpointing=gradient_checkpointing,
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
        again = ", gradient checkpointing" if row["gradient_checkpointing"] else ""
        out.print(
            f"{kind}, budget {row['budget'] or 'none'}{again}: {held} GB beyond the weights, {row['time_ratio']:.2f} x "
            "the time of one pass"
        )


def bench_step(
    model: Annotated[str, typer.Argument(help="Folder or name of a model.")] = "embedded",
    collection: CollectionOption = "cosqa",
    queries: Annotated[int, typer.Option(help="Lists of a step.", min=1)] = 4,
    documents: Annotated[int, typer.Option(help="Documents of a list.", min=2)] = 8,
    length: Annotated[int, typer.Option(help="Most tokens of a pair.", min=32)] = 256,
    lora: Annotated[str, typer.Option(help="Ranks with commas between; 0 trains every weight.")] = "0",
    steps: Annotated[int, typer.Option(help="Timed steps; the median counts.", min=1)] = 5,
    device: Device = "auto",
    output: Output = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Time a score-learning step and its memory beside sentence-transformers, on the same lists of texts."""
    from prorank.bench.step import run_step_bench, step_markdown
    from prorank.data.collection import load_collection

    refuse_taken(force, output)
    ranks = numbers(lora)
    if min(ranks) < 0:
        raise typer.BadParameter("a rank is 1 or more, or 0", param_hint="--lora")
    results = run_step_bench(
        model,
        load_collection(collection),
        queries=queries,
        documents=documents,
        length=length,
        lora=ranks,
        steps=steps,
        device=device,
        console=err,
    )
    if finish(results, output, as_json):
        return
    print(step_markdown(results))


def bench_profile(
    models: Annotated[list[str], typer.Argument(help="Folders or names of models.")],
    stages: Annotated[str, typer.Option(help="inference, warmup, score-learning; with commas between.")] = "inference",
    pairs: Annotated[int, typer.Option(help="Pairs that are read; score learning makes lists of 8.", min=8)] = 16,
    length: Annotated[int, typer.Option(help="Tokens of a pair.", min=16)] = 256,
    lora: Annotated[str, typer.Option(help="Ranks with commas between; 0 trains every weight.")] = "0",
    device: Device = "auto",
    precision: PrecisionOption = "auto",
    output: Output = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Where the time goes, and how near the matrix products come to what this machine can do."""
    from prorank.bench.profile import STAGES, profile_markdown, run_profiles

    refuse_taken(force, output)
    if unknown := [stage for stage in parts(stages) if stage not in STAGES]:
        raise typer.BadParameter(f"no stage '{unknown[0]}'; there are: {', '.join(STAGES)}", param_hint="--stages")
    if pairs % 8:
        raise typer.BadParameter("score learning needs a multiple of 8", param_hint="--pairs")
    results = run_profiles(
        models,
        parts(stages),
        numbers(lora),
        pairs=pairs,
        length=length,
        device=device,
        precision=precision,
        console=err,
    )
    if not finish(results, output, as_json):
        print(profile_markdown(results))


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
    from prorank.bench.tables import serving_markdown

    refuse_taken(force, output)
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
    if not finish(found, output, as_json):
        print(serving_markdown(found))
