"""A whole training run, top to bottom: data, first stage, zero-shot, the recipe's stages, report.

Each step leaves its result in the run's folder and is skipped when a resumed run finds it there, made from the same
recipe, data and models (see `study`). Under a launcher every process walks through the same steps; files are the first
one's business (see `processes`).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from prorank.data.runs import Run, lists_of, top, without_relevant
from prorank.data.trec import read_run, write_run
from prorank.evaluation.calibration import even_odds, fit_platt, judged_scores
from prorank.evaluation.cascade import Readings, choose, tradeoffs
from prorank.evaluation.hybrid import choose_weight
from prorank.evaluation.metrics import Evaluation, evaluate_run, write_evaluation
from prorank.evaluation.plots import plot_run
from prorank.evaluation.rerank import PRIMARY, rerank_collection, result_notes, row_of
from prorank.evaluation.significance import compare
from prorank.evaluation.tables import print_rows
from prorank.first_stage.fusion import hybrid_run
from prorank.model.checkpoint import SETTINGS_FILE, save_cascade
from prorank.pipeline.checks import check_named
from prorank.pipeline.run_folder import CHECKPOINT, CHECKPOINT_PART, prepare_folder, refuse_taken
from prorank.pipeline.stages import (
    STAGES,
    by_collection,
    load_reranker,
    stages_of,
    train_ranking,
    train_warmup,
    unchanged_sentence,
)
from prorank.recipe.families import differences
from prorank.recipe.loading import dump_recipe
from prorank.recipe.sections import Recipe
from prorank.reranker import Reranker
from prorank.training import distributed
from prorank.training.checkpoints import drop_checkpoints
from prorank.training.context import RunContext, dev_qrels, first_stage_name, prepare_data, test_qrels
from prorank.training.inputs import load_collections, run_inputs, settled, used_files
from prorank.training.splits import run_splits
from prorank.util.errors import DataError, InputError, require
from prorank.util.files import read_json, write_json
from prorank.util.live import locked
from prorank.util.provenance import fingerprint, hardware, versions
from prorank.util.study import Inputs, Study

DEV_RUN = "dev.run"  # the dev queries reranked by the last stage, inside its folder


def run_recipe(
    recipe: Recipe,
    folder: str | Path,
    *,
    force: bool = False,
    resume: bool = False,
    console: Console | None = None,
    log_to: Sequence[str] = ("tensorboard",),
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Run a recipe from data to report.

    Args:
        recipe: what to do.
        folder: where everything goes: `recipe.yaml`, `first_stage.run`, one folder per stage, `checkpoint/`,
            `results.json`, plots.
        force: start over in a folder that is taken (its old contents are deleted).
        resume: continue an interrupted run of the same recipe; refused where the data or a model changed.
        console: where to print.
        log_to: where training logs go besides console and `log.json`: `tensorboard` (in each stage's `training/`
            folder), `wandb`.
        trust_remote_code: run the backbone's own Python code; a recipe cannot say so.

    Returns:
        The contents of `results.json`.

    Raises:
        ProrankError: the folder is taken, or holds a run of another recipe or of other data; the difference is named.
        InputError: both `force` and `resume`.
    """
    if force and resume:
        raise InputError("--force and --resume exclude each other: one starts over, the other resumes")
    start = time.monotonic()
    for package in log_to:
        require(package, None if package == "wandb" else "train")
    folder, console = Path(folder), (console or Console()) if distributed.is_main() else Console(quiet=True)
    distributed.run_on_main(lambda: refuse_taken(folder, force, resume))
    collections = load_collections(recipe)
    with_splits, _ = run_splits(recipe, collections)  # refused before the folder is made
    if not (folder / "results.json").is_file():
        check_named(recipe, with_splits)
    recipe, given = settled(recipe, trust_remote_code), recipe
    if filled := differences(given, recipe):
        console.print(f"defaults of a causal backbone: {filled}", highlight=False)
    with ExitStack() as held:
        distributed.run_on_main(lambda: held.enter_context(locked(folder)))
        distributed.run_on_main(lambda: prepare_folder(recipe, folder, force, resume, run_inputs(recipe, collections)))
        if Study(folder).has("results.json"):  # a finished run is reported again, not repeated
            results = dict(read_json(folder / "results.json"))
        else:
            context = prepare_data(recipe, folder, console, log_to, collections)
            context.trust_remote_code = trust_remote_code
            results = all_stages(context) | {"seconds": round(time.monotonic() - start, 1), "resumed": resume}
            distributed.run_on_main(lambda: write_results(folder, results))
    print_rows(console, results["rows"])
    for note in results["notes"]:
        console.print(f"[yellow]{note}[/yellow]", highlight=False)
    return results


def all_stages(context: RunContext) -> dict[str, Any]:
    """Every stage of the recipe, each measured: what `results.json` says of the run, but for the time that it took."""
    recipe = context.recipe
    rows = [first_stage_row(context)]
    model = recipe.backbone.model
    rows.append(evaluate_stage(context, "zero-shot", model))
    warmup: dict[str, Any] | None = None
    if recipe.warmup is not None:
        model, warmup = train_warmup(context)
        rows.append(evaluate_stage(context, "warmup", model, rows[-1]["stage"]))
    for stage in stages_of(recipe):
        model = train_ranking(context, model, stage)
        rows.append(evaluate_stage(context, stage.name, model, rows[-1]["stage"]))
    if recipe.evaluation.hybrid_weight == "dev":
        rerank_dev(context, rows[-1]["stage"], model)
    distributed.run_on_main(lambda: publish(context, model, rows[-1]["stage"]))
    rows.append(hybrid_row(context, rows[-1]["stage"]))
    queries, training = len(test_qrels(context)), trained(context)
    left_out = len(without_relevant(context.collection.judgments(recipe.data.test)))
    unchanged = unchanged_sentence([stage for stage, metrics in training.items() if metrics["unchanged"]])
    notes = (unchanged, *result_notes(queries, left_out, context.collection.carved))
    return {
        "recipe": recipe.name,
        "collection": context.collection.name,
        "rows": rows,
        "warmup": warmup,
        "training": training,
        "queries": queries,
        "queries_without_relevant": left_out,
        "rerank": recipe.evaluation.rerank_depth,
        "seed": recipe.seed,
        "versions": versions(),
        "hardware": hardware(),
        "processes": distributed.count(),
        "data_fingerprint": context.collection.fingerprint,
        "leakage": context.leakage,
        "recipe_fingerprint": fingerprint(dump_recipe(recipe)),
        "used_fingerprints": used_files(recipe),
        "carved_splits": context.collection.carved,
        "notes": [note for note in notes if note],
    }


def trained(context: RunContext) -> dict[str, dict[str, Any]]:
    """By stage, which step's model dev chose, and whether that is the one that it started from."""
    files = {stage.name: context.folder / stage.name / "done.json" for stage in STAGES}
    return {stage: dict(read_json(file)) for stage, file in files.items() if file.is_file()}


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """Write `results.json`, which makes the run a finished one, and its plot."""
    write_json(folder / "results.json", results)
    plot_run(folder)
    Study(folder).keep("results.json")


def finished(
    recipe: Recipe, folder: Path, product: str, inputs: Inputs, force: bool, work: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What a study's run found: read where it is finished, otherwise worked out in a folder held by this process.

    Args:
        recipe: of the run.
        folder: of the run.
        product: JSON file in the folder that takes what was found.
        inputs: what the run is made from.
        force: a run that was made from something else is started over; otherwise it is refused.
        work: resumes the run in its folder.

    Raises:
        ProrankError: the folder holds a run of something else, or another process works in it.
    """
    study = Study(folder)
    if not study.reusable(product, inputs, force):
        with locked(folder):
            prepare_folder(recipe, folder, force=force, resume=True, inputs=inputs)
            if not study.has(product):
                write_json(folder / product, work())
                study.keep(product)
                drop_checkpoints(folder)
    return dict(read_json(folder / product))


def first_stage_row(context: RunContext) -> dict[str, Any]:
    """The first stage's row."""
    return row_of(first_stage_name(context), context.first_stage_evaluation)


def versus(evaluation: Evaluation, stage: str, earlier: Evaluation) -> dict[str, Any]:
    """Paired comparison with an earlier stage."""
    return {"stage": stage} | compare(evaluation, earlier, PRIMARY)._asdict()


def evaluate_stage(context: RunContext, stage: str, model: str, before: str | None = None) -> dict[str, Any]:
    """Rerank the test queries with a model and write run, per-query metrics and summary.

    Args:
        context: the run's data.
        stage: name of the row and of the folder.
        model: checkpoint folder or name.
        before: the stage that it is compared with besides the first stage.
    """
    folder, product = context.folder / stage / "test", f"{stage}/test"
    if context.study.has(product):
        return dict(read_json(folder / "row.json"))
    start = time.monotonic()
    depth = context.recipe.evaluation.rerank_depth
    qrels = test_qrels(context)
    reranker = load_reranker(context, model)
    lists = lists_of(context.first_stage, qrels)
    run = rerank_shared(reranker, context, lists, depth, f"evaluate {stage}")
    evaluation = evaluate_run(run, qrels)
    row = row_of(stage, evaluation, context.first_stage_evaluation)
    if before is not None:
        earlier = evaluate_run(read_run(context.folder / before / "test" / "run.trec"), qrels)
        row["versus_before"] = versus(evaluation, before, earlier)
    if len(context.subsets) > 1:
        row["by_collection"] = by_collection(context, evaluation)
    row["seconds"] = round(time.monotonic() - start, 1)

    def write() -> None:
        write_evaluation(folder, run, evaluation, row | context.judgments(), force=True)
        write_json(folder / "row.json", row)
        context.study.keep(product)

    distributed.run_on_main(write)
    context.console.print(
        f"[bold]{stage}[/bold]: NDCG@10 {row[PRIMARY]:.3f} "
        f"(first stage {row[PRIMARY] - row['difference']:.3f}, p = {row['p_value']:.4f})"
    )
    return row


def rerank_dev(context: RunContext, stage: str, model: str) -> None:
    """Rerank the dev queries with the last stage's model, for the hybrid's weight and the calibration."""
    product = f"{stage}/{DEV_RUN}"
    if context.study.has(product):
        return
    lists = lists_of(context.first_stage, dev_qrels(context))
    depth = context.recipe.evaluation.rerank_depth
    run = rerank_shared(load_reranker(context, model), context, lists, depth, f"{stage} on dev")

    def write() -> None:
        write_run(run, context.folder / product, tag=stage)
        context.study.keep(product)

    distributed.run_on_main(write)


def rerank_shared(reranker: Reranker, context: RunContext, lists: Run, depth: int, progress: str) -> Run:
    """`rerank_collection`, the queries shared out over the processes."""
    mine = {query: lists[query] for query in distributed.shard(list(lists))}
    bar = progress if distributed.is_main() else None
    parts = dict(distributed.gather(list(rerank_collection(reranker, context.collection, mine, depth, bar).items())))
    return {query: parts[query] for query in lists}


def hybrid_row(context: RunContext, stage: str) -> dict[str, Any]:
    """First stage and the last stage's scores joined by z-scores; the weight is fixed or tuned on dev."""
    folder = context.folder / "hybrid"
    weight = context.recipe.evaluation.hybrid_weight
    depth = context.recipe.evaluation.rerank_depth
    results = context.folder / stage / "test"
    if weight == "dev":
        dev = dev_qrels(context)
        weight = choose_weight(
            lists_of(context.first_stage, dev), read_run(context.folder / stage / DEV_RUN), dev, depth
        )
    qrels = test_qrels(context)
    reranked = read_run(results / "run.trec")
    run = hybrid_run(lists_of(context.first_stage, qrels), reranked, float(weight), depth)
    evaluation = evaluate_run(run, qrels)
    row = row_of("hybrid", evaluation, context.first_stage_evaluation) | {"first_stage_weight": float(weight)}
    row["versus_before"] = versus(evaluation, stage, evaluate_run(reranked, qrels))
    summary = row | context.judgments()
    distributed.run_on_main(lambda: write_evaluation(folder, run, evaluation, summary, force=True))
    return row


def publish(context: RunContext, model: str, stage: str) -> None:
    """Copy the last stage's model to `checkpoint/`, whole or not at all, with calibrated probabilities."""
    final = context.folder / CHECKPOINT
    if final.is_dir() or model == context.recipe.backbone.model:
        return
    part = context.folder / CHECKPOINT_PART
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(model, part)
    recipe = context.recipe.model_dump(mode="json")
    settings = read_json(part / SETTINGS_FILE) | {"calibration": calibration(context, stage), "recipe": recipe}
    if context.recipe.evaluation.max_length is not None:
        settings["max_length"] = context.recipe.evaluation.max_length
    write_json(part / SETTINGS_FILE, settings)
    if context.recipe.evaluation.cascade_loss is not None:
        add_cascade(context, part, context.recipe.evaluation.cascade_loss)
    part.rename(final)


def add_cascade(context: RunContext, folder: Path, loss: float) -> None:
    """Choose a checkpoint's cascade on the dev lists; says so where none loses so little."""
    qrels, depth = dev_qrels(context), context.recipe.evaluation.rerank_depth
    lists = top(lists_of(context.first_stage, qrels), depth)
    readings = Readings(load_reranker(context, str(folder)), context.collection, lists, qrels, "cascade, dev")
    try:
        save_cascade(folder, choose(tradeoffs([readings]), loss))
    except DataError as error:
        context.console.print(f"  [yellow]no cascade: {error}[/yellow]")


def calibration(context: RunContext, stage: str) -> dict[str, float] | None:
    """Platt's two numbers from the dev lists that were reranked; None where there are none, or they say nothing."""
    file = context.folder / stage / DEV_RUN
    if not file.is_file():
        return None
    reranked = top(read_run(file), context.recipe.evaluation.rerank_depth)  # below, scores are only places in the list
    try:
        scores, labels = judged_scores(reranked, dev_qrels(context))
        return even_odds(fit_platt(scores, labels), labels)
    except DataError as error:
        context.console.print(f"  [yellow]not calibrated: {error}[/yellow]")
        return None
