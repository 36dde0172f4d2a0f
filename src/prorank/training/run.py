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

from prorank.checkpoint import SETTINGS_FILE
from prorank.collection import Run, read_run, write_run
from prorank.errors import DataError, InputError, ProrankError, require
from prorank.evaluation.calibration import even_odds, fit_platt, judged_scores
from prorank.evaluation.evaluate import Evaluation, evaluate_run, top, write_evaluation
from prorank.evaluation.hybrid import choose_weight, hybrid_run
from prorank.evaluation.report import plot_run, print_rows
from prorank.evaluation.significance import compare
from prorank.evaluation.stages import PRIMARY, carved_sentence, few_queries, lists_of, rerank_collection, row_of
from prorank.files import atomic_writer, read_json, write_json
from prorank.live import LOCK, locked
from prorank.provenance import fingerprint, hardware, versions
from prorank.reranker import Reranker
from prorank.study import RECORD, Inputs, Study
from prorank.training import processes
from prorank.training.checkpoints import drop_checkpoints
from prorank.training.inputs import load_collections, run_inputs
from prorank.training.recipe import Recipe, dump_recipe
from prorank.training.setting import Setting, dev_qrels, prepare_data, test_qrels
from prorank.training.splits import run_splits
from prorank.training.stages import (
    by_collection,
    load_reranker,
    train_grades,
    train_listwise,
    train_scores,
    train_warmup,
    unchanged_sentence,
)

CHECKPOINT = "checkpoint"  # the final model, inside the run's folder


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
        folder: where everything goes: `recipe.yaml`, `first_stage.run`, one folder a stage, `checkpoint/`,
            `results.json`, plots.
        force: start over in a folder that is taken (its old contents are deleted).
        resume: go on where an interrupted run of the same recipe stopped; refused where the data or a model changed.
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
        raise InputError("--force and --resume exclude each other: one starts over, the other goes on")
    start = time.monotonic()
    for package in log_to:
        require(package, None if package == "wandb" else "train")
    folder, console = Path(folder), (console or Console()) if processes.is_first() else Console(quiet=True)
    processes.first_only(lambda: refuse_taken(folder, force, resume))
    collections = load_collections(recipe)
    run_splits(recipe, collections)  # refused before the folder is made
    with ExitStack() as held:
        processes.first_only(lambda: held.enter_context(locked(folder)))
        processes.first_only(lambda: prepare_folder(recipe, folder, force, resume, run_inputs(recipe, collections)))
        if Study(folder).has("results.json"):  # a finished run is reported again, not repeated
            results = dict(read_json(folder / "results.json"))
        else:
            setting = prepare_data(recipe, folder, console, log_to, collections)
            setting.trust_remote_code = trust_remote_code
            results = all_stages(setting) | {"seconds": round(time.monotonic() - start, 1), "resumed": resume}
            processes.first_only(lambda: write_results(folder, results))
    print_rows(console, results["rows"])
    for note in results["notes"]:
        console.print(f"[yellow]{note}[/yellow]", highlight=False)
    return results


def all_stages(setting: Setting) -> dict[str, Any]:
    """Every stage of the recipe, each measured: what `results.json` says of the run, but for the time that it took."""
    recipe = setting.recipe
    rows = [first_stage_row(setting)]
    model = recipe.backbone.model
    rows.append(evaluate_stage(setting, "zero-shot", model))
    warmup: dict[str, Any] | None = None
    if recipe.warmup is not None:
        model, warmup = train_warmup(setting)
        rows.append(evaluate_stage(setting, "warmup", model, rows[-1]["stage"]))
    if recipe.score_learning is not None:
        model = train_scores(setting, model)
        rows.append(evaluate_stage(setting, "score-learning", model, rows[-1]["stage"]))
    if recipe.sft is not None:
        model = train_grades(setting, model)
        rows.append(evaluate_stage(setting, "sft", model, rows[-1]["stage"]))
    if recipe.listwise is not None:
        model = train_listwise(setting, model)
        rows.append(evaluate_stage(setting, "listwise", model, rows[-1]["stage"]))
    processes.first_only(lambda: publish(setting, model, rows[-1]["stage"]))
    rows.append(hybrid_row(setting, rows[-1]["stage"]))
    queries, training = len(test_qrels(setting)), trained(setting)
    unchanged = unchanged_sentence([stage for stage, figures in training.items() if figures["unchanged"]])
    notes = (unchanged, few_queries(queries), carved_sentence(setting.collection.carved))
    return {
        "recipe": recipe.name,
        "collection": setting.collection.name,
        "rows": rows,
        "warmup": warmup,
        "training": training,
        "queries": queries,
        "rerank": recipe.evaluation.rerank,
        "seed": recipe.seed,
        "versions": versions(),
        "hardware": hardware(),
        "processes": processes.count(),
        "data_fingerprint": setting.collection.fingerprint,
        "leakage": setting.leakage,
        "recipe_fingerprint": fingerprint(dump_recipe(recipe)),
        "carved_splits": setting.collection.carved,
        "notes": [note for note in notes if note],
    }


def trained(setting: Setting) -> dict[str, dict[str, Any]]:
    """By stage, which step's model dev chose, and whether that is the one that it started from."""
    stages = ("score-learning", "sft", "listwise")
    files = {stage: setting.folder / stage / "done.json" for stage in stages}
    return {stage: dict(read_json(file)) for stage, file in files.items() if file.is_file()}


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """Write `results.json`, which makes the run a finished one, and its plot."""
    write_json(folder / "results.json", results)
    plot_run(folder)
    Study(folder).keep("results.json")


def contents(folder: Path) -> set[str]:
    """Names of what a folder holds, this process's lock left out."""
    return {path.name for path in folder.iterdir()} - {LOCK} if folder.is_dir() else set()


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
        work: goes on with the run in its folder.

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


def refuse_taken(folder: Path, force: bool, resume: bool) -> None:
    """Refuse a folder that holds something else, or a run when neither `force` nor `resume` is given.

    Raises:
        ProrankError: what it holds, and what can be done.
    """
    found = contents(folder)
    a_run = bool(found & {RECORD, "recipe.yaml"})
    if a_run and not force and not resume:
        raise ProrankError(f"{folder} holds a run", hint="--resume goes on with it, --force starts over")
    if found and not a_run:
        hint = "--force deletes only runs of prorank" if force else "choose another output"
        raise ProrankError(f"{folder} is not empty and not a run's folder", hint=hint)


def prepare_folder(recipe: Recipe, folder: Path, force: bool, resume: bool, inputs: Inputs | None = None) -> None:
    """Make the run's folder with the resolved recipe and what it starts from; refuse to mix two runs.

    Args:
        recipe: resolved.
        folder: of the run.
        force: delete what a run left there; together with `resume` only one of another recipe, data or models.
        resume: go on with a run of the same recipe, data and models.
        inputs: what the run is made from; None reads the recipe's data to find out.

    Raises:
        ProrankError: the folder is taken, or holds a run of something else; the difference is named.
    """
    refuse_taken(folder, force, resume)
    inputs = run_inputs(recipe, load_collections(recipe)) if inputs is None else inputs
    study, text, saved = Study(folder), dump_recipe(recipe), folder / "recipe.yaml"
    if contents(folder):
        if resume and not (force and study.differences(inputs)):
            study.check(inputs)
            if saved.is_file() and saved.read_text(encoding="utf-8") != text:
                raise ProrankError(f"{saved} changed since the run was begun", hint="--force starts over")
        else:
            clear(folder)
    if not study.file.is_file():
        study.begin(inputs)
    if not saved.is_file():
        with atomic_writer(saved) as file:
            file.write(text)


def clear(folder: Path) -> None:
    """Delete what a run left in its folder; its lock stays."""
    for name in contents(folder):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def first_stage_evaluation(setting: Setting) -> Evaluation:
    """Figures of the first stage alone."""
    qrels = test_qrels(setting)
    return evaluate_run(lists_of(setting.first_stage, qrels), qrels)


def first_stage_row(setting: Setting) -> dict[str, Any]:
    """The first stage's row."""
    names = {"bm25": "BM25", "dense": "dense", "candidates": "candidates (BM25)"}
    return row_of(names[setting.recipe.first_stage.method], first_stage_evaluation(setting))


def versus(evaluation: Evaluation, stage: str, earlier: Evaluation) -> dict[str, Any]:
    """Paired comparison with an earlier stage."""
    return {"stage": stage} | compare(evaluation, earlier, PRIMARY)._asdict()


def evaluate_stage(setting: Setting, stage: str, model: str, before: str | None = None) -> dict[str, Any]:
    """Rerank the test queries with a model and write run, per-query figures and summary.

    Args:
        setting: the run's data.
        stage: name of the row and of the folder.
        model: checkpoint folder or name.
        before: the stage that it is compared with besides the first stage.
    """
    folder, product = setting.folder / stage / "test", f"{stage}/test"
    if setting.study.has(product):
        return dict(read_json(folder / "row.json"))
    start = time.monotonic()
    depth = setting.recipe.evaluation.rerank
    qrels = test_qrels(setting)
    reranker = load_reranker(setting, model)
    lists = lists_of(setting.first_stage, qrels)
    run = rerank_shared(reranker, setting, lists, depth, f"evaluate {stage}")
    evaluation = evaluate_run(run, qrels)
    row = row_of(stage, evaluation, first_stage_evaluation(setting))
    if before is not None:
        earlier = evaluate_run(read_run(setting.folder / before / "test" / "run.trec"), qrels)
        row["versus_before"] = versus(evaluation, before, earlier)
    if len(setting.members) > 1:
        row["by_collection"] = by_collection(setting, evaluation)
    row["seconds"] = round(time.monotonic() - start, 1)
    dev_run: Run = {}
    if setting.recipe.evaluation.hybrid_weight == "dev":
        dev = lists_of(setting.first_stage, dev_qrels(setting))
        dev_run = rerank_shared(reranker, setting, dev, depth, f"{stage} on dev")

    def write() -> None:
        write_evaluation(folder, run, evaluation, row, force=True)
        if dev_run:
            write_run(dev_run, folder / "dev.run", tag=stage)
        write_json(folder / "row.json", row)
        setting.study.keep(product)

    processes.first_only(write)
    setting.console.print(
        f"[bold]{stage}[/bold]: NDCG@10 {row[PRIMARY]:.3f} "
        f"(first stage {row[PRIMARY] - row['difference']:.3f}, p = {row['p_value']:.4f})"
    )
    return row


def rerank_shared(reranker: Reranker, setting: Setting, lists: Run, depth: int, progress: str) -> Run:
    """`rerank_collection`, the queries shared out over the processes."""
    mine = {query: lists[query] for query in processes.share(list(lists))}
    bar = progress if processes.is_first() else None
    parts = dict(processes.gathered(list(rerank_collection(reranker, setting.collection, mine, depth, bar).items())))
    return {query: parts[query] for query in lists}


def hybrid_row(setting: Setting, stage: str) -> dict[str, Any]:
    """First stage and the last stage's scores joined by z-scores; the weight is fixed or tuned on dev."""
    folder = setting.folder / "hybrid"
    weight = setting.recipe.evaluation.hybrid_weight
    depth = setting.recipe.evaluation.rerank
    results = setting.folder / stage / "test"
    if weight == "dev":
        dev = dev_qrels(setting)
        weight = choose_weight(lists_of(setting.first_stage, dev), read_run(results / "dev.run"), dev, depth)
    qrels = test_qrels(setting)
    reranked = read_run(results / "run.trec")
    run = hybrid_run(lists_of(setting.first_stage, qrels), reranked, float(weight), depth)
    evaluation = evaluate_run(run, qrels)
    row = row_of("hybrid", evaluation, first_stage_evaluation(setting)) | {"first_stage_weight": float(weight)}
    row["versus_before"] = versus(evaluation, stage, evaluate_run(reranked, qrels))
    processes.first_only(lambda: write_evaluation(folder, run, evaluation, row, force=True))
    return row


def publish(setting: Setting, model: str, stage: str) -> None:
    """Copy the last stage's model to `checkpoint/`, whole or not at all, with calibrated probabilities."""
    final = setting.folder / CHECKPOINT
    if final.is_dir() or model == setting.recipe.backbone.model:
        return
    part = setting.folder / f".{CHECKPOINT}.part"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(model, part)
    recipe = setting.recipe.model_dump(mode="json")
    settings = read_json(part / SETTINGS_FILE) | {"calibration": calibration(setting, stage), "recipe": recipe}
    if setting.recipe.evaluation.max_length is not None:
        settings["max_length"] = setting.recipe.evaluation.max_length
    write_json(part / SETTINGS_FILE, settings)
    part.rename(final)


def calibration(setting: Setting, stage: str) -> dict[str, float] | None:
    """Platt's two numbers from the dev lists that were reranked; None where there are none, or they say nothing."""
    file = setting.folder / stage / "test" / "dev.run"
    if not file.is_file():
        return None
    reranked = top(read_run(file), setting.recipe.evaluation.rerank)  # below, scores are only places in the list
    try:
        scores, labels = judged_scores(reranked, dev_qrels(setting))
        return even_odds(fit_platt(scores, labels), labels)
    except DataError as error:
        setting.console.print(f"  [yellow]not calibrated: {error}[/yellow]")
        return None
