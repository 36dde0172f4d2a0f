"""A whole training run, top to bottom: data, first stage, zero-shot, warmup, score learning, report.

Each step leaves its result in the run's folder and is skipped when a resumed run finds it there. Between the
stages the model is always read back from its folder, so a resumed run goes the same way as an undisturbed one. Under a
launcher every process walks through the same steps; files are the first one's business (see `processes`).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console

from prorank.backbone import Backbone
from prorank.checkpoint import SETTINGS_FILE
from prorank.collection import Run, read_run, write_run
from prorank.engine import answer_logits
from prorank.errors import DataError, ProrankError, RecipeError, require
from prorank.evaluation.calibration import fit_platt, judged_scores
from prorank.evaluation.evaluate import Evaluation, evaluate_run, rerank_run, top, write_evaluation
from prorank.evaluation.hybrid import choose_weight, hybrid_run
from prorank.evaluation.report import plot_curves, plot_stages, results_table
from prorank.evaluation.significance import binomial_above_chance
from prorank.evaluation.stages import PRIMARY, lists_of, rerank_collection, row_of
from prorank.files import atomic_writer, read_json, refuse_overwrite, write_json
from prorank.provenance import fingerprint, hardware, versions
from prorank.reranker import Reranker
from prorank.scores import SCORES
from prorank.training import processes
from prorank.training.figures import diagnosis
from prorank.training.items import held_out_pairs, list_items, training_pairs
from prorank.training.recipe import Recipe, dump_recipe
from prorank.training.score_learning import ScoreTrainer
from prorank.training.setting import Setting, dev_qrels, prepare_data, sampled, test_qrels
from prorank.training.trainer import SlotTrainer
from prorank.training.warmup import WarmupTrainer

CHECKPOINT = "checkpoint"  # the final model, inside the run's folder


def run_recipe(
    recipe: Recipe,
    folder: str | Path,
    *,
    force: bool = False,
    resume: bool = False,
    console: Console | None = None,
    log_to: Sequence[str] = ("tensorboard",),
) -> dict[str, Any]:
    """Run a recipe from data to report.

    Args:
        recipe: what to do.
        folder: where everything goes: `recipe.yaml`, `first_stage.run`, one folder a stage, `checkpoint/`,
            `results.json`, plots.
        force: start over in a folder that is taken (its old contents are deleted).
        resume: go on where an interrupted run of the same recipe stopped.
        console: where to print.
        log_to: where training logs go besides console and `log.json`: `tensorboard` (in each stage's `training/`
            folder), `wandb`.

    Returns:
        The contents of `results.json`.

    Raises:
        ProrankError: the folder is taken, or holds a run of another recipe.
    """
    start = time.monotonic()
    for package in log_to:
        require(package, None if package == "wandb" else "train")
    folder, console = Path(folder), (console or Console()) if processes.is_first() else Console(quiet=True)
    processes.first_only(lambda: prepare_folder(recipe, folder, force, resume))
    if (folder / "results.json").is_file():  # a finished run is reported again, not repeated
        results = dict(read_json(folder / "results.json"))
        console.print(results_table(results["rows"]))
        return results
    setting = prepare_data(recipe, folder, console, log_to)

    rows = [first_stage_row(setting)]
    model = recipe.backbone.model
    rows.append(evaluate_stage(setting, "zero-shot", model))
    warmup: dict[str, Any] | None = None
    if recipe.warmup is not None:
        model, warmup = train_warmup(setting)
        rows.append(evaluate_stage(setting, "warmup", model))
    if recipe.score_learning is not None:
        model = train_scores(setting, model)
        rows.append(evaluate_stage(setting, "score-learning", model))
    processes.first_only(lambda: publish(setting, model, rows[-1]["stage"]))
    rows.append(hybrid_row(setting, rows[-1]["stage"]))

    results = {
        "recipe": recipe.name,
        "collection": setting.collection.name,
        "rows": rows,
        "warmup": warmup,
        "queries": len(test_qrels(setting)),
        "rerank": recipe.evaluation.rerank,
        "seed": recipe.seed,
        "seconds": round(time.monotonic() - start, 1),
        "resumed": resume,
        "versions": versions(),
        "hardware": hardware(),
        "processes": processes.count(),
        "data_fingerprint": setting.collection.fingerprint,
        "recipe_fingerprint": fingerprint(dump_recipe(recipe)),
    }
    if processes.is_first():
        write_json(folder / "results.json", results)
        plot_stages(rows, folder / "stages.png")
    console.print(results_table(rows))
    return results


def prepare_folder(recipe: Recipe, folder: Path, force: bool, resume: bool) -> None:
    """Make the run's folder with the resolved recipe; refuse to mix two runs."""
    text = dump_recipe(recipe)
    saved = folder / "recipe.yaml"
    if resume and saved.is_file():
        if saved.read_text(encoding="utf-8") != text:
            raise RecipeError(f"{saved} is another recipe", hint="resume with the same recipe and overrides")
        return
    if saved.is_file() and not force:
        raise ProrankError(f"{folder} holds a run", hint="--resume goes on with it, --force starts over")
    refuse_overwrite(folder, force)
    if force and folder.is_dir():
        if any(folder.iterdir()) and not saved.is_file():
            raise ProrankError(f"{folder} is not a run's folder", hint="--force deletes only runs of prorank")
        shutil.rmtree(folder)
    with atomic_writer(saved) as file:
        file.write(text)


def first_stage_evaluation(setting: Setting) -> Evaluation:
    """Figures of the first stage alone."""
    qrels = test_qrels(setting)
    return evaluate_run(lists_of(setting.first_stage, qrels), qrels)


def first_stage_row(setting: Setting) -> dict[str, Any]:
    """The first stage's row."""
    names = {"bm25": "BM25", "dense": "dense", "candidates": "candidates (BM25)"}
    return row_of(names[setting.recipe.first_stage.method], first_stage_evaluation(setting))


def load_reranker(setting: Setting, model: str, for_training: bool = False) -> Reranker:
    """The starting model by the recipe's settings, or a checkpoint of this run by its own."""
    section = setting.recipe.backbone
    common: dict[str, Any] = {"precision": section.precision, "for_training": for_training}
    if model != section.model:
        return Reranker.from_pretrained(model, **common)
    return Reranker.from_pretrained(
        model,
        prompt=section.prompt,
        max_length=section.max_length,
        instruction=section.instruction,
        score=section.score,
        family=section.family,
        trust_remote_code=section.trust_remote_code,
        **common,
    )


def evaluate_stage(setting: Setting, stage: str, model: str) -> dict[str, Any]:
    """Rerank the test queries with a model and write run, per-query figures and summary."""
    folder = setting.folder / stage / "test"
    if (folder / "row.json").is_file():
        return dict(read_json(folder / "row.json"))
    start = time.monotonic()
    depth = setting.recipe.evaluation.rerank
    qrels, dev = test_qrels(setting), dev_qrels(setting)
    reranker = load_reranker(setting, model)
    lists = lists_of(setting.first_stage, qrels)
    run = rerank_shared(reranker, setting, lists, depth, f"evaluate {stage}")
    evaluation = evaluate_run(run, qrels)
    row = row_of(stage, evaluation, first_stage_evaluation(setting))
    if len(setting.members) > 1:
        row["by_collection"] = by_collection(setting, evaluation)
    row["seconds"] = round(time.monotonic() - start, 1)
    dev_run: Run = {}
    if setting.recipe.evaluation.hybrid_weight == "dev":
        dev_run = rerank_shared(reranker, setting, lists_of(setting.first_stage, dev), depth, f"{stage} on dev")

    def write() -> None:
        write_evaluation(folder, run, evaluation, row, force=True)
        if dev_run:
            write_run(dev_run, folder / "dev.run", tag=stage)
        write_json(folder / "row.json", row)

    processes.first_only(write)
    setting.console.print(
        f"[bold]{stage}[/bold]: NDCG@10 {row[PRIMARY]:.3f} "
        f"(first stage {row[PRIMARY] - row['difference']:.3f}, p = {row['p_value']:.4f})"
    )
    return row


def by_collection(setting: Setting, evaluation: Evaluation) -> dict[str, float]:
    """Mean NDCG@10 over the queries of each of a union's collections."""
    values = evaluation.per_query[PRIMARY]
    found = {}
    for member in setting.members:
        own = [value for query, value in values.items() if query in member.collection.queries]
        found[member.collection.name] = sum(own) / len(own)
    return found


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
    run = hybrid_run(lists_of(setting.first_stage, qrels), read_run(results / "run.trec"), float(weight), depth)
    evaluation = evaluate_run(run, qrels)
    row = row_of("hybrid", evaluation, first_stage_evaluation(setting)) | {"first_stage_weight": float(weight)}
    processes.first_only(lambda: write_evaluation(folder, run, evaluation, row, force=True))
    return row


def train_warmup(setting: Setting) -> tuple[str, dict[str, Any]]:
    """Stage 1. Returns the folder of the warmed-up model and its held-out figures."""
    section, recipe = setting.recipe.warmup, setting.recipe
    assert section is not None
    folder = setting.folder / "warmup"
    if (folder / "figures.json").is_file():
        return str(folder / "model"), dict(read_json(folder / "figures.json"))
    setting.console.print(f"[bold]Stage 1, prompt warmup[/bold]: {section.steps} steps")
    transformers.set_seed(recipe.seed)
    reranker = load_reranker(setting, recipe.backbone.model, for_training=True)
    dev, test = (
        held_out_pairs(setting, reranker.pair_tokenizer, split, section.held_out_pairs)
        for split in (recipe.data.dev, recipe.data.test)
    )
    trainer = WarmupTrainer(
        ready_to_train(reranker.backbone, recipe),
        reranker.pair_tokenizer,
        section,
        training_pairs(setting, reranker.pair_tokenizer),
        dev,
        folder / "training",
        recipe.seed,
        setting.console,
        setting.log_to,
    )
    start = trainer.figures(dev)
    trainer.run(resume=True)
    with trainer.whole_weights():
        figures, test_figures = trainer.figures(dev), trainer.figures(test)
    result = figures._asdict() | {
        "p_above_chance": binomial_above_chance(figures.correct, figures.total),
        "diagnosis": diagnosis(figures),
        "start": start._asdict(),
        "test": test_figures._asdict(),  # the checkpoint was chosen on dev
    }

    def write() -> None:
        save_stage(setting, whole(setting, recipe.backbone.model, reranker, trainer), folder / "model")
        plot_curves(trainer.state.log_history, folder / "curves.png")
        write_json(folder / "figures.json", result)

    processes.first_only(write)
    return str(folder / "model"), result


def train_scores(setting: Setting, model: str) -> str:
    """Stage 2. Returns the folder of the trained model."""
    section, recipe = setting.recipe.score_learning, setting.recipe
    assert section is not None
    folder = setting.folder / "score-learning"
    if (folder / "done.json").is_file():
        return str(folder / "model")
    setting.console.print(f"[bold]Stage 2, score learning[/bold]: {section.steps} steps")
    transformers.set_seed(recipe.seed)
    reranker = load_reranker(setting, model, for_training=True)
    trainer = ScoreTrainer(
        ready_to_train(reranker.backbone, recipe),
        reranker.pair_tokenizer,
        section,
        reranker.settings.score,
        list_items(setting, reranker.pair_tokenizer),
        dev_measure(setting, reranker),
        folder / "training",
        recipe.seed,
        setting.console,
        setting.log_to,
    )
    trainer.run(resume=True)

    def write() -> None:
        save_stage(setting, whole(setting, model, reranker, trainer), folder / "model")
        plot_curves(trainer.state.log_history, folder / "curves.png")
        write_json(folder / "done.json", {"best_dev_ndcg@10": trainer.state.best_metric})

    processes.first_only(write)
    return str(folder / "model")


def dev_measure(setting: Setting, reranker: Reranker) -> Any:
    """A function that gives dev NDCG@10 of the model as it is, the mean over collections and each one's.

    Texts are tokenised once, queries shared out over the processes.
    """
    recipe = setting.recipe
    assert recipe.score_learning is not None
    qrels = sampled(setting, recipe.data.dev, recipe.score_learning.dev_queries)
    lists = lists_of(setting.first_stage, qrels)
    depth = recipe.evaluation.rerank
    shortened = top(lists, depth)
    ids = [(query, document) for query in processes.share(list(lists)) for document in shortened[query]]
    texts = setting.texts()
    tokenizer = reranker.pair_tokenizer
    sequences, _ = tokenizer.encode([(setting.collection.queries[q], texts[d]) for q, d in ids])
    numbers = {query: number for number, query in enumerate(lists)}
    groups = [numbers[query] for query, _ in ids]

    def measure() -> dict[str, float]:
        logits = answer_logits(reranker.backbone, tokenizer, sequences, groups=groups)
        scores: Run = {query: {} for query in lists}
        mine = SCORES[reranker.settings.score](logits).tolist() if ids else []
        for (query, document), value in processes.gathered(list(zip(ids, mine))):
            scores[query][document] = value
        reranked = rerank_run(lists, scores, depth)
        found = by_collection(setting, evaluate_run(reranked, qrels, ("nDCG@10",)))
        total = {"dev_ndcg@10": sum(found.values()) / len(found)}
        return total | {f"dev_ndcg@10_{name}": value for name, value in found.items() if len(found) > 1}

    return measure


def ready_to_train(backbone: Backbone, recipe: Recipe) -> Backbone:
    """Attach LoRA if the recipe wants it, otherwise every weight is trained; switch dropout off if it says so."""
    if not recipe.backbone.dropout:
        for module in backbone.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    if recipe.backbone.lora is not None:
        lora = recipe.backbone.lora
        backbone.add_lora(lora.rank, lora.alpha, lora.dropout)
    return backbone.train()


def whole(setting: Setting, start: str, reranker: Reranker, trainer: SlotTrainer) -> Reranker:
    """The trained model; where its weights are shared out over processes, a whole one with the best checkpoint's."""
    if not trainer.sharded():
        return reranker
    again = load_reranker(setting, start, for_training=True)
    trainer.load_best(ready_to_train(again.backbone, setting.recipe))
    return again


def save_stage(setting: Setting, reranker: Reranker, folder: Path) -> None:
    """Write a checkpoint with the recipe and the data's fingerprint in it."""
    reranker.settings = reranker.settings.model_copy(
        update={
            "recipe": setting.recipe.model_dump(mode="json"),
            "data_fingerprint": setting.collection.fingerprint,
            "base_model": setting.recipe.backbone.model,
            "calibration": None,
        }
    )
    with torch.no_grad():
        reranker.save_pretrained(folder)


def publish(setting: Setting, model: str, stage: str) -> None:
    """Copy the last stage's model to `checkpoint/`, whole or not at all, with calibrated probabilities."""
    final = setting.folder / CHECKPOINT
    if final.is_dir() or model == setting.recipe.backbone.model:
        return
    part = setting.folder / f".{CHECKPOINT}.part"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(model, part)
    write_json(part / SETTINGS_FILE, read_json(part / SETTINGS_FILE) | {"calibration": calibration(setting, stage)})
    part.rename(final)


def calibration(setting: Setting, stage: str) -> dict[str, float] | None:
    """Platt's two numbers from the dev lists that were reranked; None where there are none, or they say nothing."""
    file = setting.folder / stage / "test" / "dev.run"
    if not file.is_file():
        return None
    reranked = top(read_run(file), setting.recipe.evaluation.rerank)  # below, scores are only places in the list
    try:
        return fit_platt(*judged_scores(reranked, dev_qrels(setting)))
    except DataError as error:
        setting.console.print(f"  [yellow]not calibrated: {error}[/yellow]")
        return None
