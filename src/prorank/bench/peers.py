"""Training beside sentence-transformers' CrossEncoderTrainer: one backbone, the same lists, order and batches.

Every system starts from the recipe's backbone and sees the candidate lists that `drawn_lists` draws for a seed, as many
a step. Learning rate, schedule, weight decay, clipping and the choice of a checkpoint by dev NDCG@10 are the
recipe's for all. What differs is the library: prompt, head, loss, engine. Knows recipes, runs and that trainer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console

from prorank.bench.peer_trainer import train_peer
from prorank.data.runs import lists_of
from prorank.evaluation.comparison import compared, comparison_markdown
from prorank.evaluation.metrics import Evaluation, evaluate_run
from prorank.evaluation.rerank import PRIMARY, rerank_collection
from prorank.evaluation.tables import markdown_lines
from prorank.pipeline.run import finished
from prorank.pipeline.stages import STAGES, load_reranker, train_ranking, train_warmup
from prorank.recipe.families import as_said
from prorank.recipe.loading import made_from, validate_recipe
from prorank.recipe.sections import Recipe
from prorank.score_learning.lists import drawn_lists
from prorank.training.context import RunContext, prepare_data, test_qrels
from prorank.training.inputs import load_collections, run_inputs
from prorank.util.errors import RecipeError
from prorank.util.provenance import hardware, versions

TEACHER = {"loss": "margin_mse"}  # the recipe's own, or its default: the backbone as a bi-encoder
# System -> (loss of sentence-transformers or None, what the recipe changes). The first is what the others stand beside.
SYSTEMS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "sentence-transformers, BCE": ("bce", {"loss": "pointwise"}),
    "sentence-transformers, LambdaLoss": ("lambda", {"loss": "listwise"}),
    "sentence-transformers, MarginMSE": ("margin_mse", {"label_weight": 0.0, "teacher": TEACHER}),
    "prorank, stage 2": (None, {"loss": "listwise"}),
    "prorank, stage 2, MarginMSE": (None, {"label_weight": 0.0, "teacher": TEACHER}),
    "prorank, both stages": (None, {"loss": "listwise", "warmup": True}),
    "prorank, both stages, LambdaLoss": (None, {"loss": "lambda", "warmup": True}),
}


def recipe_of(base: Recipe, system: str, seed: int) -> Recipe:
    """The recipe of one system; all draw the same lists for a seed.

    Raises:
        RecipeError: the recipe lacks a stage, or a setting by which lists would differ.
    """
    tree, changes = as_said(base), dict(SYSTEMS[system][1])
    if base.warmup is None or base.score_learning is None:
        raise RecipeError(f"recipe '{base.name}' lacks a stage", hint="both are compared: take one like `minilm`")
    if not changes.pop("warmup", False):
        tree["warmup"] = None
    section = tree["score_learning"]
    own = (section["teacher"] or {}) | {"margin": None}
    section |= {"teacher": None, "label_weight": 1.0, "average_with": []} | changes
    if section["teacher"] is not None:
        section["teacher"] = own | section["teacher"]
    tree["seed"] = seed
    if tree["evaluation"]["seed"] is None:
        tree["evaluation"]["seed"] = base.seed
    return validate_recipe(tree, system)


def run_system(recipe: Recipe, system: str, folder: Path, console: Console) -> dict[str, Any]:
    """Train one system and measure it: seconds of training (clock, processor), NDCG@10 per test query."""
    console.print(f"[bold]{system}[/bold], seed {recipe.seed}")
    context = prepare_data(recipe, folder, console)
    lists, teacher = drawn_lists(context)  # the teacher is asked before the clock starts
    loss, start = SYSTEMS[system][0], (time.perf_counter(), time.process_time())
    model = recipe.backbone.model
    if loss is None:
        if recipe.warmup is not None:
            model, _ = train_warmup(context)
        model = train_ranking(context, model, STAGES[0])
        took = _since(start)
        values = measured(context, load_reranker(context, model))
    else:
        peer = train_peer(context, loss, lists, teacher)
        took = _since(start)
        values = measured(context, peer)
    pairs = sum(len(one.documents) for one in lists)
    if recipe.warmup is not None:
        pairs += recipe.warmup.steps * recipe.warmup.pairs_per_step
    console.print(f"  NDCG@10 {mean(values.values()):.3f}, {took['seconds']:.0f} s")
    return {"system": system, "seed": recipe.seed, "pairs": pairs, "values": values} | took


def _since(start: tuple[float, float]) -> dict[str, float]:
    """Seconds by the clock, and those that all threads of this process spent on a processor."""
    return {"seconds": time.perf_counter() - start[0], "cpu_seconds": time.process_time() - start[1]}


def measured(context: RunContext, scorer: Any) -> dict[str, float]:
    """NDCG@10 of each test query, its first-stage list reranked."""
    qrels = test_qrels(context)
    lists = lists_of(context.first_stage, qrels)
    run = rerank_collection(scorer, context.collection, lists, context.recipe.evaluation.rerank_depth, "measure")
    return evaluate_run(run, qrels, ("nDCG@10",)).values(PRIMARY)


def run_peer_bench(
    base: Recipe,
    systems: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    console: Console,
    force: bool = False,
) -> dict[str, Any]:
    """Train and measure every system with every seed.

    Args:
        base: recipe with both stages.
        systems: of `SYSTEMS`; the first is what the others are compared with.
        seeds: of lists, data order and initial heads.
        folder: one folder per run, `SEED/SYSTEM`; those that are done are not repeated.
        console: where progress goes.
        force: start over what was made from another recipe, other data or another model; refused without.

    Returns:
        `rows`: a system each, its queries' means over seeds with interval, paired tests against the first, seconds and
        the mean of each seed; `first_stage`; and how they were made.
    """
    runs: dict[str, list[dict[str, Any]]] = {system: [] for system in systems}
    for seed in seeds:
        for system in systems:
            one = recipe_of(base, system, seed)
            place = folder / str(seed) / "".join(c if c.isalnum() else "-" for c in system)

            def work(one: Recipe = one, system: str = system, place: Path = place) -> dict[str, Any]:
                return run_system(one, system, place, console)

            inputs = run_inputs(one, load_collections(one))
            runs[system].append(finished(one, place, "run.json", inputs, force, work))
    rows = compared({system: over_seeds(own) for system, own in runs.items()}, PRIMARY)
    for row, own in zip(rows, runs.values()):
        row["by_seed"] = [mean(run["values"].values()) for run in own]
        row |= {unit: mean(run[unit] for run in own) for unit in ("seconds", "cpu_seconds")}
        row["pairs"] = own[0]["pairs"]
    return {"rows": rows, "seeds": list(seeds), "versions": versions(), "hardware": hardware()} | made_from(base)


def over_seeds(runs: Sequence[dict[str, Any]]) -> Evaluation:
    """Each query's mean over seeds."""
    values = {query: mean(run["values"][query] for run in runs) for query in runs[0]["values"]}
    return Evaluation((PRIMARY,), {PRIMARY: values})


def peers_markdown(found: dict[str, Any]) -> str:
    """The comparison's table, and one of what each system cost and what each seed gave."""
    header = ["system", "pairs", "CPU-seconds", *(f"seed {seed}" for seed in found["seeds"])]
    lines = [
        [row["name"], str(row["pairs"]), f"{row['cpu_seconds']:.0f}", *(f"{value:.3f}" for value in row["by_seed"])]
        for row in found["rows"]
    ]
    return f"{comparison_markdown(found['rows'], PRIMARY)}\n\n{markdown_lines(header, lines)}"
