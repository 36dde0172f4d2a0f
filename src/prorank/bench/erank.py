"""ERank's stages on real collections: supervised grades, reinforcement, both, each reward; integers against 0 and 1.

One training per variant and seed; every model is then measured with each score formula. Runs that are done are read,
not repeated. Knows recipes, stages and scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console

from prorank.data.runs import lists_of, rerank_run, scored_lists, top
from prorank.engine.scorer import answer_logits
from prorank.engine.scores import SCORES
from prorank.evaluation.metrics import Evaluation, evaluate_run
from prorank.evaluation.rerank import sample_queries
from prorank.evaluation.significance import compare
from prorank.evaluation.ties import distinct_scores, random_ties
from prorank.pipeline.run import finished
from prorank.pipeline.stages import stages_of, train_ranking
from prorank.recipe.loading import made_from, validate_recipe
from prorank.recipe.sections import Recipe
from prorank.reranker import Reranker
from prorank.training.context import RunContext, prepare_data
from prorank.training.inputs import load_collections, run_inputs
from prorank.util.errors import RecipeError
from prorank.util.files import distinct_names

METRIC = "ndcg@10"
REWARDS = ("rr", "ndcg", "se")
VARIANTS = ("sft", "binary", *(f"rl-{r}" for r in REWARDS), *(f"sft+{r}" for r in REWARDS))
BINARY_PROMPT = "prorank-short"
BASE = ("sft", "expected_grade")  # what everything is compared with
SAMPLE = 0  # seed of the test queries that are measured


def varied(recipe: Recipe, variant: str, seed: int, collection: str, folder: Path) -> Recipe:
    """The recipe of one variant; all of one seed share the grades of its `sft`, and `sft+...` its model.

    Raises:
        RecipeError: no such variant, or the recipe lacks a stage.
    """
    if variant not in VARIANTS:
        raise RecipeError(f"no variant '{variant}'", hint=f"there are: {', '.join(VARIANTS)}")
    if recipe.sft is None or recipe.listwise is None:
        raise RecipeError(f"recipe '{recipe.name}' lacks sft or listwise")
    tree = recipe.model_dump(mode="json")
    tree |= {"seed": seed, "warmup": None, "score_learning": None}
    tree["data"] |= {"collection": collection, "union": []}
    supervised = folder / "sft" / str(seed)
    if variant != "sft":
        tree["grades"]["file"] = str(supervised / "grades.jsonl")
    if variant in ("sft", "binary"):
        tree["listwise"] = None
    else:
        tree["sft"] = None
        tree["listwise"]["reward"] = variant.partition("-")[2] or variant.partition("+")[2]
    if variant == "binary":
        tree["backbone"] |= {"prompt": BINARY_PROMPT, "score": "logit_difference"}
    if variant.startswith("sft+"):
        model = {"model": str(supervised / "sft" / "model"), "prompt": None, "max_length": None, "score": None}
        tree["backbone"] |= model
    return validate_recipe(tree, variant)


def run_erank_bench(
    recipe: Recipe,
    collections: Sequence[str],
    variants: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    console: Console,
    force: bool = False,
) -> dict[str, Any]:
    """Train and measure every variant on every collection with every seed.

    Args:
        recipe: with both of ERank's stages.
        collections: folders in BEIR layout.
        variants: of `VARIANTS`; `sft` must be among them, the others build on it.
        seeds: of data order and draws.
        folder: one folder per run, `COLLECTION/VARIANT/SEED`.
        console: where progress goes.
        force: start over what was made from another recipe, other data or another model; refused without.

    Returns:
        `rows`: one per collection, variant and score formula, with the mean over seeds and the paired comparison with
        expected grades after supervised training alone (queries' means over seeds); `runs`: one per training; and how
        they were made.

    Raises:
        RecipeError: `sft` is not among the variants.
        ProrankError: a run's folder holds metrics of something else; the difference is named.
    """
    if "sft" not in variants:
        raise RecipeError("the variants build on 'sft'", hint="add it")
    ordered = sorted(variants, key=lambda variant: variant != "sft")  # the others need its grades
    runs = []
    for collection, name in zip(collections, distinct_names(collections)):
        loaded = load_collections(varied(recipe, "sft", seeds[0], collection, folder / name))
        for seed in seeds:
            for variant in ordered:
                one = varied(recipe, variant, seed, collection, folder / name)
                place = folder / name / variant / str(seed)

                def work(one: Recipe = one, place: Path = place, name: str = name) -> dict[str, Any]:
                    variant, seed = place.parent.name, one.seed
                    console.print(f"[bold]{name}[/bold], {variant}, seed {seed}")
                    labels = {"collection": name, "variant": variant, "seed": seed}
                    return run_variant(one, place, console) | labels

                runs.append(finished(one, place, "run.json", run_inputs(one, loaded), force, work))
    return {
        "rows": rows_of(runs),
        "runs": [{key: value for key, value in run.items() if key != "per_query"} for run in runs],
        "seeds": list(seeds),
    } | made_from(recipe)


def run_variant(recipe: Recipe, folder: Path, console: Console) -> dict[str, Any]:
    """One training and its metrics on test queries by score formula."""
    context = prepare_data(recipe, folder, console)
    model = recipe.backbone.model
    for stage in stages_of(recipe):
        model = train_ranking(context, model, stage)
    return measured(context, model)


def measured(context: RunContext, model: str) -> dict[str, Any]:
    """Metrics of a model on the test queries: by score formula, with ties counted."""
    section = context.recipe.evaluation
    judged = context.collection.judgments(context.recipe.data.test)
    qrels = sample_queries(judged, section.max_queries, SAMPLE)  # the same for all seeds
    lists = lists_of(context.first_stage, qrels)
    depth = section.rerank_depth
    ids = [(query, document) for query, documents in top(lists, depth).items() for document in documents]
    texts = context.texts()
    reranker = Reranker(model)
    tokenizer = reranker.pair_tokenizer
    sequences, _ = tokenizer.encode([(context.collection.queries[query], texts[document]) for query, document in ids])
    logits = answer_logits(reranker.backbone, tokenizer, sequences, progress="measure")
    first = evaluate_run(lists, qrels, ("nDCG@10",))
    found: dict[str, Any] = {"first_stage": first.mean(METRIC), "scores": {}, "per_query": {}}
    found["carved_splits"] = context.collection.carved
    for kind, formula in SCORES.items():
        scores = scored_lists(lists, zip(ids, formula(logits).tolist()))
        evaluation = evaluate_run(rerank_run(lists, scores, depth), qrels, ("nDCG@10",))
        ties = random_ties(scores, qrels)
        found["scores"][kind] = {
            METRIC: evaluation.mean(METRIC),
            "distinct": distinct_scores(scores),
            "random_ties": ties["mean"],
            "random_ties_deviation": ties["deviation"],
        }
        found["per_query"][kind] = evaluation.per_query[METRIC]
    return found


def rows_of(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per collection, variant and score formula: means over seeds, and the comparison with `sft`."""
    rows = []
    by_variant: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for run in runs:
        by_variant.setdefault((run["collection"], run["variant"]), []).append(run)
    for (collection, variant), found in by_variant.items():
        for kind in SCORES:
            metrics = [run["scores"][kind] for run in found]
            row = {
                "collection": collection,
                "variant": variant,
                "score": kind,
                "first_stage": mean(run["first_stage"] for run in found),
                "seeds": [one[METRIC] for one in metrics],
            }
            row |= {key: mean(one[key] for one in metrics) for key in metrics[0]}
            if (variant, kind) != BASE:
                base = over_seeds(by_variant[(collection, BASE[0])], BASE[1])
                row |= compare(over_seeds(found, kind), base, METRIC)._asdict()
            rows.append(row)
    return rows


def over_seeds(runs: Sequence[Mapping[str, Any]], kind: str) -> Evaluation:
    """Each query's mean over the seeds that measured it."""
    queries = set.intersection(*(set(run["per_query"][kind]) for run in runs))
    values = {query: mean(run["per_query"][kind][query] for run in runs) for query in sorted(queries)}
    return Evaluation((METRIC,), {METRIC: values})
