"""What each part of ProRank adds: variants of one recipe, trained over the same seeds and measured on the same queries.

Each variant is an ordinary run of the whole recipe in a folder of its own, so that a stopped study can be resumed and
a run that is done is read. Knows recipes, runs and paired tests; draws nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console

from prorank.bench.guards import SUPERVISED, changed
from prorank.data.collection import Collection
from prorank.evaluation.metrics import Evaluation, read_per_query
from prorank.evaluation.rerank import PRIMARY
from prorank.evaluation.significance import bootstrap_interval, compare, holm
from prorank.pipeline.run import run_recipe
from prorank.recipe.families import as_said
from prorank.recipe.loading import made_from, validate_recipe
from prorank.recipe.sections import Recipe
from prorank.training.checkpoints import drop_checkpoints
from prorank.training.inputs import load_collections, run_inputs, settled
from prorank.util.errors import RecipeError
from prorank.util.files import read_json
from prorank.util.study import Study

BASE = "recipe"
# ProRank's published GRPO where its text says so, ERank's settings where it is silent (arXiv 2509.00520, section 4).
PUBLISHED = {"scale_advantages": "std", "separate_rewards": False, "kl": 0.001}
DRAWN = {"num_generations": 8}
# What each variant changes, section by section; None takes the section out, a number of steps keeps the pairs equal.
VARIANTS: dict[str, dict[str, Any]] = {
    BASE: {},
    "no-warmup": {"warmup": None},
    "no-score-learning": {"score_learning": None},
    "supervised": {"warmup": {"experimental": SUPERVISED["experimental"]}},
    "exact": {"warmup": {"num_generations": "exact"}},
    "drawn": {"warmup": DRAWN},
    "published": {"warmup": DRAWN | PUBLISHED},
    "uft": {"warmup": {"experimental": {"supervised_weight": 1.0, "supervised_share": 0.5}}},
    "stale-0": {"warmup": DRAWN | {"experimental": {"epochs": 1, "rollout_batches": 1}}},
    "stale-2": {"warmup": DRAWN | {"experimental": {"epochs": 3, "rollout_batches": 1}}},
    "stale-8": {"warmup": DRAWN | {"experimental": {"epochs": 3, "rollout_batches": 3}}},
    "full": {"backbone": {"lora": None}},
    "lora": {"backbone": {"lora": {"rank": 32, "alpha": 64}}},
    "pointwise": {"score_learning": {"loss": "pointwise"}},
    "pairwise": {"score_learning": {"loss": "pairwise"}},
    "listwise": {"score_learning": {"loss": "listwise"}},
    "lambda": {"score_learning": {"loss": "lambda"}},
    "distilled": {"score_learning": {"label_weight": 0.0, "teacher": {}}},
}


def fitting(recipe: Recipe) -> list[str]:
    """Variants whose sections the recipe has, and that differ from it."""
    base = varied(recipe, BASE, recipe.seed)
    found = [BASE]
    for name in VARIANTS:
        try:
            different = varied(recipe, name, recipe.seed) != base
        except RecipeError:
            continue
        found += [name] if different else []
    return found


def pairs_of(recipe: Recipe) -> int:
    """Pairs that a run is trained on, both stages together."""
    warmup, score = recipe.warmup, recipe.score_learning
    pairs = warmup.steps * warmup.pairs_per_step if warmup else 0
    return pairs + (score.steps * score.queries_per_step * (1 + score.negatives.total) if score else 0)


def varied(recipe: Recipe, variant: str, seed: int) -> Recipe:
    """The recipe of one variant; without warmup the second stage gets the pairs that the first one had.

    Raises:
        RecipeError: no such variant, or the recipe lacks the section that it changes.
    """
    if variant not in VARIANTS:
        raise RecipeError(f"no variant '{variant}'", hint=f"there are: {', '.join(VARIANTS)}")
    tree = as_said(recipe)
    for name, changes in VARIANTS[variant].items():
        if tree[name] is None:
            raise RecipeError(f"recipe '{recipe.name}' has no {name}, which '{variant}' changes")
        tree[name] = None if changes is None else changed(tree[name], changes)
    if tree["warmup"] is None and tree["score_learning"] is None:
        raise RecipeError(f"'{variant}' leaves no stage of recipe '{recipe.name}'")
    if variant == "no-warmup" and recipe.score_learning is not None:
        a_step = recipe.score_learning.queries_per_step * (1 + recipe.score_learning.negatives.total)
        tree["score_learning"]["steps"] = round(pairs_of(recipe) / a_step)
    tree["seed"] = seed
    if tree["evaluation"]["seed"] is None:
        tree["evaluation"]["seed"] = recipe.seed  # the same queries whatever the seed of training
    return validate_recipe(tree, variant)


def run_ablation(
    recipe: Recipe,
    variants: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    console: Console,
    force: bool = False,
) -> dict[str, Any]:
    """Train and measure every variant with every seed.

    Args:
        recipe: what the variants change.
        variants: keys of `VARIANTS`; the recipe as it stands is always among them.
        seeds: of data order, dropout and draws.
        folder: one folder per run, `VARIANT/SEED`.
        console: where progress goes.
        force: start over what was made from another recipe, other data or another model; refused without.

    Returns:
        `rows`, one per variant: verdict metrics on test pairs and NDCG@10 by stage as means over seeds, the last
        stage's interval, and its paired difference to the recipe (p-values by Holm over the variants); `runs`, one per
        variant and seed; and how they were made.

    Raises:
        RecipeError: no such variant, or the recipe lacks a section.
        ProrankError: a run's folder holds metrics of something else; the difference is named.
    """
    names = list(dict.fromkeys([BASE, *variants]))
    recipes = {(name, seed): settled(varied(recipe, name, seed)) for seed in seeds for name in names}  # errors first
    collections = load_collections(recipe)
    runs = []
    for (name, seed), one in recipes.items():
        console.print(f"[bold]{name}[/bold], seed {seed}")
        runs.append(
            {"variant": name, "seed": seed, "pairs": pairs_of(one)}
            | run_of(one, folder / name / str(seed), collections, console, force)
        )
    rows = rows_of(runs)
    kept = [{key: value for key, value in run.items() if key != "per_query"} for run in runs]
    return {"rows": rows, "runs": kept, "seeds": list(seeds)} | made_from(recipe)


def run_of(
    recipe: Recipe, folder: Path, collections: Sequence[Collection], console: Console, force: bool
) -> dict[str, Any]:
    """One run's metrics: trained now, gone on with, or read where it is finished."""
    if Study(folder).reusable("results.json", run_inputs(recipe, collections), force):
        results = dict(read_json(folder / "results.json"))
    else:
        differs = force and bool(Study(folder).differences(run_inputs(recipe, collections)))
        results = run_recipe(recipe, folder, resume=not differs, force=differs, console=console)
        drop_checkpoints(folder)
    stages = {row["stage"]: row[PRIMARY] for row in results["rows"]}
    last = list(stages)[-2]  # the hybrid is the last row
    warmup = results["warmup"]
    return {
        "stages": stages,
        "last": last,
        "verdicts": {"start": warmup["start"], "test": warmup["test"]} if warmup else None,
        "seconds": results["seconds"],
        "per_query": read_per_query(folder / last / "test" / "per_query.tsv")[PRIMARY],
    }


def rows_of(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per variant: means over seeds, an interval over queries, the comparison with the recipe as it stands."""
    by_variant: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        by_variant.setdefault(run["variant"], []).append(run)
    base = over_seeds(by_variant[BASE])
    rows = []
    for variant, found in by_variant.items():
        own = over_seeds(found)
        row: dict[str, Any] = {"variant": variant, "pairs": found[0]["pairs"], PRIMARY: own.mean(PRIMARY)}
        row[f"{PRIMARY}_interval"] = bootstrap_interval(list(own.values(PRIMARY).values()))
        row["seeds"] = [run["stages"][run["last"]] for run in found]
        row["stages"] = {stage: mean(run["stages"][stage] for run in found) for stage in found[0]["stages"]}
        if found[0]["verdicts"] is not None:
            for name in ("format_rate", "balanced_accuracy"):
                row[name] = mean(run["verdicts"]["test"][name] for run in found)
        if variant != BASE:
            row["versus_recipe"] = compare(own, base, PRIMARY)._asdict()
        rows.append(row)
    compared = [row["versus_recipe"] for row in rows if "versus_recipe" in row]
    for one, adjusted in zip(compared, holm([one["p_value"] for one in compared])):
        one["adjusted"] = adjusted
    return rows


def over_seeds(runs: Sequence[Mapping[str, Any]]) -> Evaluation:
    """Each query's mean of NDCG@10 over the seeds."""
    queries = runs[0]["per_query"]
    return Evaluation((PRIMARY,), {PRIMARY: {q: mean(run["per_query"][q] for run in runs) for q in queries}})
