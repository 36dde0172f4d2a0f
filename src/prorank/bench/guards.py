"""Which guards keep prompt warmup from a cold start or a collapse: one warmup per variant and seed, the rest equal.

Each run keeps its folder, so a stopped study can be resumed, and several processes can share one
(each with seeds of its own). Knows recipes and runs; draws nothing (see `bench.tables`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console

from prorank.bench.toy import toy_recipe
from prorank.pipeline.run import finished
from prorank.pipeline.stages import train_warmup
from prorank.recipe.loading import load_recipe, made_from, validate_recipe
from prorank.recipe.sections import Recipe
from prorank.training.context import prepare_data
from prorank.training.inputs import load_collections, run_inputs, settled
from prorank.util.errors import RecipeError
from prorank.util.files import read_json
from prorank.warmup.pairs import RANDOM

SUPERVISED = {
    "entropy_bonus": 0.0,
    "experimental": {"policy_weight": 0.0, "supervised_weight": 1.0, "supervised_share": None},
}
ANNEALED = {"supervised_weight": 1.0, "supervised_share": 0.3}
BALANCED = {"balance_verdicts": True}
BARE = {
    "negatives": RANDOM.model_dump(),
    "scale_advantages": "std",
    "separate_rewards": False,
    "entropy_bonus": 0.0,
    "experimental": {"balance_verdicts": False, "fade_format": False},
}
# What each variant changes in the recipe's warmup section.
VARIANTS: dict[str, dict[str, Any]] = {
    "recipe": {},
    "supervised": SUPERVISED,
    "std": {"scale_advantages": "std"},
    "std-balanced": {"scale_advantages": "std", "experimental": BALANCED},
    "unscaled": {"scale_advantages": "none"},
    "together": {"separate_rewards": False},
    "random-negatives": {"negatives": RANDOM.model_dump()},
    "random-std-balanced": {"negatives": RANDOM.model_dump(), "scale_advantages": "std", "experimental": BALANCED},
    "format-constant": {"experimental": {"fade_format": False}},
    "no-entropy": {"entropy_bonus": 0.0},
    "annealed": {"experimental": ANNEALED},
    "kl": {"kl": 0.01},
    "drawn": {"num_generations": 16},
    "drawn-annealed": {"num_generations": 16, "experimental": ANNEALED},
    "drawn-epochs": {"num_generations": 16, "experimental": {"epochs": 2, "rollout_batches": 2} | ANNEALED},
    "bare-exact": BARE,
    "bare-drawn": BARE | {"num_generations": 16},
}


def base_recipe(name_or_path: str, overrides: Sequence[str], folder: Path) -> Recipe:
    """The recipe that variants change: `toy` (see `bench.toy`), a shipped one or a file.

    Raises:
        RecipeError: it has no warmup.
    """
    source: str | dict[str, Any] = toy_recipe(folder / "toy") if name_or_path == "toy" else name_or_path
    recipe = load_recipe(source, overrides)
    if recipe.warmup is None:
        raise RecipeError(f"recipe '{recipe.name}' has no warmup")
    return settled(recipe)


def changed(section: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A section with some of its fields changed, those of its subsection `experimental` one by one.

    >>> changed({"kl": 0, "experimental": {"epochs": 1, "curriculum": False}}, {"experimental": {"epochs": 2}})
    {'kl': 0, 'experimental': {'epochs': 2, 'curriculum': False}}
    """
    merged = {**section, **changes}
    if "experimental" in changes:
        merged["experimental"] = {**section["experimental"], **changes["experimental"]}
    return merged


def varied(recipe: Recipe, variant: str, seed: int) -> Recipe:
    """The recipe with one variant's warmup, and no score learning.

    Raises:
        RecipeError: no such variant.
    """
    if variant not in VARIANTS:
        raise RecipeError(f"no variant '{variant}'", hint=f"there are: {', '.join(VARIANTS)}")
    tree = recipe.model_dump(mode="json")
    return validate_recipe(
        tree | {"seed": seed, "score_learning": None, "warmup": changed(tree["warmup"], VARIANTS[variant])}, variant
    )


def run_guards(
    recipe: Recipe,
    variants: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    console: Console,
    force: bool = False,
) -> dict[str, Any]:
    """Warm up once per variant and seed; runs that are done are read, not repeated.

    Args:
        recipe: what the variants change.
        variants: keys of `VARIANTS`.
        seeds: of data order, head and draws.
        folder: one folder per run, `VARIANT/SEED`.
        console: where progress goes.
        force: start over what was made from another recipe, other data or another model; refused without.

    Returns:
        `rows` (one per variant: metrics on test pairs as means over seeds, and the worst seed's), `runs` (one per
        variant and seed: curve of held-out metrics, metrics of the chosen checkpoint on dev and test pairs), the
        recipe.

    Raises:
        RecipeError: no such variant.
        ProrankError: a run's folder holds metrics of something else; the difference is named.
    """
    recipes = [varied(recipe, variant, seed) for variant in variants for seed in seeds]  # errors before work
    names = [(variant, seed) for variant in variants for seed in seeds]
    collections = load_collections(recipe)
    runs = []
    for (variant, seed), one in zip(names, recipes):
        place = folder / variant / str(seed)

        def work(one: Recipe = one, place: Path = place, variant: str = variant, seed: int = seed) -> dict[str, Any]:
            console.print(f"[bold]{variant}[/bold], seed {seed}")
            return run_variant(one, place, console) | {"variant": variant, "seed": seed}

        runs.append(finished(one, place, "run.json", run_inputs(one, collections), force, work))
    return {
        "rows": [summary_row(variant, [run for run in runs if run["variant"] == variant]) for variant in variants],
        "runs": runs,
        "variants": {variant: VARIANTS[variant] for variant in variants},
    } | made_from(recipe)


def run_variant(recipe: Recipe, folder: Path, console: Console) -> dict[str, Any]:
    """One warmup: its curve and the metrics of the checkpoint that it chose."""
    context = prepare_data(recipe, folder, console)
    _, metrics = train_warmup(context)
    log = read_json(folder / "warmup" / "training" / "log.json")
    curve = [entry for entry in log if "eval_balanced_accuracy" in entry]
    return {
        "curve": curve,
        "dev": metrics,
        "test": metrics["test"],
        "data_fingerprint": context.collection.fingerprint,
        "carved_splits": context.collection.carved,
    }


def summary_row(variant: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and worst over a variant's seeds.

    >>> metrics = {"balanced_accuracy": 0.8, "format_rate": 1.0, "verdict_balance": 0.5, "diagnosis": ""}
    >>> summary_row("recipe", [{"seed": 1, "dev": metrics, "test": metrics}])["test_worst"]
    0.8
    """
    found: dict[str, Any] = {"variant": variant, "seeds": [run["seed"] for run in runs]}
    for split in ("dev", "test"):
        accuracies = [run[split]["balanced_accuracy"] for run in runs]
        found |= {split: mean(accuracies), f"{split}_worst": min(accuracies)}
    found["format_worst"] = min(run[split]["format_rate"] for run in runs for split in ("dev", "test"))
    found["verdict_balance"] = mean(run["test"]["verdict_balance"] for run in runs)
    found["failed"] = sum(bool(run["dev"]["diagnosis"]) for run in runs)
    return found
