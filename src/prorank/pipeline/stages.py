"""The stages that train: each takes a model's folder, leaves a trained one in the run's folder, and says where.

A stage that a resumed run finds done is not repeated. Between stages the model is always read back from its folder,
so a resumed run goes the same way as an undisturbed one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from prorank.data.runs import lists_of, rerank_run, scored_lists, top
from prorank.engine.load import fitting_length
from prorank.engine.scorer import query_numbers
from prorank.erank.graded import listwise_items, sft_items
from prorank.erank.listwise import ListwiseTrainer
from prorank.erank.sft import SftTrainer
from prorank.evaluation.metrics import Evaluation, evaluate_run
from prorank.evaluation.rerank import PRIMARY
from prorank.evaluation.significance import binomial_above_chance
from prorank.model.backbone import Backbone
from prorank.model.checkpoint import plain_card, public_base
from prorank.recipe.sections import Recipe
from prorank.reranker import Reranker
from prorank.score_learning.lists import list_items
from prorank.score_learning.trainer import ScoreTrainer
from prorank.training import distributed
from prorank.training.context import RunContext, sampled
from prorank.training.trainer import RankingTrainer, SlotTrainer, TrainContext
from prorank.util.errors import TrainingError
from prorank.util.files import read_json, write_json
from prorank.warmup.metrics import diagnosis
from prorank.warmup.pairs import held_out_pairs, training_pairs
from prorank.warmup.trainer import WarmupTrainer


def load_reranker(context: RunContext, model: str, for_training: bool = False) -> Reranker:
    """The starting model by the recipe's settings, or a checkpoint of this run by its own."""
    section = context.recipe.backbone
    new = context.recipe.grades.max_new_tokens
    longer = None if for_training else context.recipe.evaluation.max_length
    common: dict[str, Any] = {
        "precision": section.precision,
        "for_training": for_training,
        "trust_remote_code": context.trust_remote_code,
    }
    if model != section.model:
        return Reranker.from_pretrained(model, max_length=longer, max_new_tokens=new, **common)
    return Reranker.from_pretrained(
        model,
        prompt=section.prompt,
        max_length=longer or section.max_length,
        instruction=section.instruction,
        score=section.score,
        family=section.family,
        max_new_tokens=new,
        **common,
    )


def by_collection(context: RunContext, evaluation: Evaluation) -> dict[str, float]:
    """Mean NDCG@10 over the queries of each of a union's collections."""
    values = evaluation.per_query[PRIMARY]
    found = {}
    for subset in context.subsets:
        own = [value for query, value in values.items() if query in subset.collection.queries]
        found[subset.collection.name] = sum(own) / len(own)
    return found


def train_warmup(context: RunContext) -> tuple[str, dict[str, Any]]:
    """Stage 1. Returns the folder of the warmed-up model and its held-out metrics."""
    section, recipe = context.recipe.warmup, context.recipe
    assert section is not None
    folder = context.folder / "warmup"
    if context.study.has("warmup/model") and context.study.has("warmup/metrics.json"):
        return str(folder / "model"), dict(read_json(folder / "metrics.json"))
    context.console.print(f"[bold]Stage 1, prompt warmup[/bold]: {section.steps} steps")
    transformers.set_seed(recipe.seed)
    reranker = load_reranker(context, recipe.backbone.model, for_training=True)
    dev, test = (
        held_out_pairs(context, reranker.pair_tokenizer, split, section.held_out_pairs)
        for split in (recipe.data.dev, recipe.data.test)
    )
    items = training_pairs(context, reranker.pair_tokenizer)
    trainer = WarmupTrainer(train_context(context, reranker, section, items, folder), dev)
    start = trainer.metrics(dev)
    trainer.run(resume=True)
    with trainer.whole_weights():
        metrics, test_metrics = trainer.metrics(dev), trainer.metrics(test)
    result = metrics._asdict() | {
        # the checkpoint was chosen on dev, so the dev pairs say nothing about chance
        "p_above_chance": binomial_above_chance(test_metrics.correct, test_metrics.total),
        "diagnosis": diagnosis(metrics),
        "start": start._asdict(),
        "test": test_metrics._asdict(),
    }

    def write() -> None:
        save_stage(context, whole(context, recipe.backbone.model, reranker, trainer), folder / "model")
        write_json(folder / "metrics.json", result)
        context.study.keep("warmup/model", "warmup/metrics.json")

    distributed.run_on_main(write)
    return str(folder / "model"), result


def train_context(
    context: RunContext,
    reranker: Reranker,
    section: Any,
    items: Sequence[Any],
    folder: Path,
    dev_metrics: Callable[[], dict[str, float]] | None = None,
) -> TrainContext:
    """What a trainer is made from; the model gets its adapters and its training mode."""
    backbone = ready_to_train(reranker.backbone, context.recipe, getattr(section, "lora", True))
    return TrainContext(
        backbone,
        reranker.pair_tokenizer,
        section,
        items,
        folder / "training",
        context.recipe.seed,
        context.console,
        context.log_to,
        dev_metrics,
    )


@dataclass(frozen=True)
class Stage:
    """A stage whose checkpoint is chosen by dev NDCG@10.

    Args:
        name: of its folder and its row.
        section: its field in the recipe.
        title: printed when training starts; `{0}` is the section.
        items: training items of a run. The model is as it was before: it may be asked for grades.
        trainer: made from a `TrainContext` and the reranker that is trained.
    """

    name: str
    section: str
    title: str
    items: Callable[[RunContext, Reranker], Sequence[Any]]
    trainer: Callable[[TrainContext, Reranker], RankingTrainer]


STAGES = (
    Stage(
        "score-learning",
        "score_learning",
        "Stage 2, score learning",
        lambda context, reranker: list_items(context, reranker.pair_tokenizer),
        lambda context, reranker: ScoreTrainer(context, reranker.settings.score),
    ),
    Stage(
        "sft",
        "sft",
        "Supervised grades",
        lambda context, reranker: sft_items(context, reranker.pair_tokenizer),
        lambda context, _: SftTrainer(context),
    ),
    Stage(
        "listwise",
        "listwise",
        "Listwise reinforcement, {0.reward}",
        listwise_items,
        lambda context, _: ListwiseTrainer(context),
    ),
)


def stages_of(recipe: Recipe) -> list[Stage]:
    """The ranking stages that a recipe has, in order."""
    return [stage for stage in STAGES if getattr(recipe, stage.section) is not None]


def train_ranking(context: RunContext, model: str, stage: Stage) -> str:
    """Train a ranking stage, unless it is done; leave model, curves and `done.json` in its folder.

    Args:
        context: what the run knows.
        model: folder or name of the model that training starts from.
        stage: which.

    Returns:
        The folder of the trained model.
    """
    folder, section = context.folder / stage.name, getattr(context.recipe, stage.section)
    products = f"{stage.name}/model", f"{stage.name}/done.json"
    if all(map(context.study.has, products)):
        return str(folder / "model")
    context.console.print(f"[bold]{stage.title.format(section)}[/bold]: {section.steps} steps")
    transformers.set_seed(context.recipe.seed)
    reranker = load_reranker(context, model, for_training=True)
    names = [model if name == "start" else name for name in section.average_with]
    others = summed_weights(context, names, reranker)  # one that does not fit is refused before the training
    measure = dev_measure(context, reranker, section.dev_queries)
    items = stage.items(context, reranker)
    trainer = stage.trainer(
        train_context(context, reranker, section, items, folder, lambda: measure(reranker)), reranker
    )
    trainer.run(resume=True)

    best = trainer.state.best_metric
    metrics, mean = {"best_dev_ndcg@10": best, "best_step": trainer.best_step()}, None
    if names:
        mean = mean_with(context, model, others, len(names), trainer)
        average = float(measure(mean)["dev_ndcg@10"])
        context.console.print(
            f"  mean with {', '.join(section.average_with)}: dev NDCG@10 {average:.3f}, best checkpoint {best:.3f}"
        )
        metrics["average_dev_ndcg@10"] = average
        mean = mean if average > best else None
    metrics["unchanged"] = mean is None and trainer.best_step() == 0
    if metrics["unchanged"]:
        context.console.print(f"  [yellow]{unchanged_sentence([stage.name])}[/yellow]")

    def write() -> None:
        save_stage(context, mean or whole(context, model, reranker, trainer), folder / "model")
        write_json(folder / "done.json", metrics)
        context.study.keep(*products)

    distributed.run_on_main(write)
    return str(folder / "model")


def unchanged_sentence(stages: Sequence[str]) -> str:
    """What to say of stages that kept their starting model; empty where all changed it.

    >>> unchanged_sentence(["score-learning"])
    'score-learning: no step beat the start on dev, so its model is the one that it started from'
    """
    names = ", ".join(stages)
    return f"{names}: no step beat the start on dev, so its model is the one that it started from" if names else ""


def mean_with(
    context: RunContext, start: str, others: dict[str, torch.Tensor], count: int, trainer: SlotTrainer
) -> Reranker:
    """A model with the mean of the weights that training ended with and of `count` other models' weights.

    With the start it often keeps what that knew of other data without losing what was learned (Wortsman et al. 2022,
    "Robust fine-tuning of zero-shot models", section 3, alpha = 0.5); with other runs from one start it is a uniform
    soup (Wortsman et al. 2022, "Model soups", section 2).
    """
    mean = reload_start(context, start, trainer)
    trainer.load_last(mean.backbone)
    mean.backbone.merge_lora()
    with torch.no_grad():
        for name, weights in mean.backbone.named_parameters():
            weights.add_(others[name].to(weights.device)).div_(1 + count)
    mean.backbone.eval()
    return mean


def summed_weights(context: RunContext, models: Sequence[str], like: Reranker) -> dict[str, torch.Tensor]:
    """Name -> sum of the weights of models whose prompt and shapes must be those of another; kept off the GPU."""
    total: dict[str, torch.Tensor] = {}
    for model in models:
        for name, weights in weights_like(context, model, like).items():
            total[name] = total[name] + weights.cpu() if name in total else weights.cpu()
    return total


def weights_like(context: RunContext, model: str, like: Reranker) -> dict[str, torch.Tensor]:
    """Name -> weights of a model whose prompt and shapes must be those of another."""
    found = load_reranker(context, model, for_training=True)
    weights = {name: p.detach() for name, p in found.backbone.named_parameters()}
    if {n: w.shape for n, w in weights.items()} != {n: p.shape for n, p in like.backbone.named_parameters()}:
        raise TrainingError(f"average_with: {model} is another architecture", hint="take it out of the recipe")
    if found.settings.prompt != like.settings.prompt:
        raise TrainingError(f"average_with: {model} was trained with another prompt", hint="take it out of the recipe")
    return weights


def dev_measure(context: RunContext, like: Reranker, queries: int) -> Callable[[Reranker], dict[str, float]]:
    """A function that gives dev NDCG@10 of a model as it is, the mean over collections and each one's.

    Pairs are as long as they will be when the model is used (`evaluation.max_length`), which may be longer than those
    it is trained on. Texts are tokenised once, as `like` does it, at most `queries` of each collection's queries shared
    out over the processes.
    """
    recipe = context.recipe
    qrels = sampled(context, recipe.data.dev, queries)
    lists = lists_of(context.first_stage, qrels)
    depth = recipe.evaluation.rerank_depth
    shortened = top(lists, depth)
    ids = [(query, document) for query in distributed.shard(list(lists)) for document in shortened[query]]
    texts = context.texts()
    length = fitting_length(recipe.evaluation.max_length or like.settings.max_length, like.backbone)
    tokenizer = replace(like.pair_tokenizer, max_length=length)
    sequences, _ = tokenizer.encode([(context.collection.queries[q], texts[d]) for q, d in ids])
    groups = query_numbers(ids)

    def measure(reranker: Reranker) -> dict[str, float]:
        mine = reranker.score_sequences(sequences, groups=groups)[0].tolist()
        scores = scored_lists(lists, distributed.gather(list(zip(ids, mine))))
        reranked = rerank_run(lists, scores, depth)
        found = by_collection(context, evaluate_run(reranked, qrels, ("nDCG@10",)))
        total = {"dev_ndcg@10": sum(found.values()) / len(found)}
        return total | {f"dev_ndcg@10_{name}": value for name, value in found.items() if len(found) > 1}

    return measure


def without_dropout(model: torch.nn.Module) -> None:
    """Switch a model's dropout off for good."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def ready_to_train(backbone: Backbone, recipe: Recipe, lora: bool = True) -> Backbone:
    """Attach LoRA if the recipe wants it, otherwise every weight is trained; switch dropout off if it says so."""
    if not recipe.backbone.dropout:
        without_dropout(backbone)
    adapters = recipe.backbone.lora
    if adapters is not None and lora:
        backbone.add_lora(adapters.rank, adapters.alpha, adapters.dropout)
    return backbone.train()


def whole(context: RunContext, start: str, reranker: Reranker, trainer: SlotTrainer) -> Reranker:
    """The trained model; where its weights are shared out over processes, a whole one with the best checkpoint's."""
    if not trainer.sharded():
        return reranker
    again = reload_start(context, start, trainer)
    trainer.load_best(again.backbone)
    return again


def reload_start(context: RunContext, start: str, trainer: SlotTrainer) -> Reranker:
    """The starting model, whole and with the adapters of the one that was trained: its checkpoints fit in."""
    again = load_reranker(context, start, for_training=True)
    ready_to_train(again.backbone, context.recipe, trainer.backbone.has_lora)
    return again


def save_stage(context: RunContext, reranker: Reranker, folder: Path) -> None:
    """Write a checkpoint with the recipe and the data's fingerprint in it."""
    reranker.settings = reranker.settings.model_copy(
        update={
            "recipe": context.recipe.model_dump(mode="json"),
            "data_fingerprint": context.collection.fingerprint,
            "base_model": public_base(context.recipe.backbone.model),
            "calibration": None,
            "cascade": None,
        }
    )
    with torch.no_grad():
        reranker.save_pretrained(folder, plain_card(reranker.settings))  # the start's card speaks of other weights
