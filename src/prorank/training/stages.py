"""The stages that train: each takes a model's folder, leaves a trained one in the run's folder, and says where.

A stage that a resumed run finds done is not repeated. Between stages the model is always read back from its folder,
so a resumed run goes the same way as an undisturbed one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers

from prorank.backbone import Backbone
from prorank.checkpoint import public_base
from prorank.engine import query_groups
from prorank.errors import TrainingError
from prorank.evaluation.evaluate import Evaluation, evaluate_run, rerank_run, scored_lists, top
from prorank.evaluation.significance import binomial_above_chance
from prorank.evaluation.stages import PRIMARY, lists_of
from prorank.files import read_json, write_json
from prorank.reranker import Reranker, fitting_length
from prorank.training import processes
from prorank.training.figures import diagnosis
from prorank.training.graded import listwise_items, sft_items
from prorank.training.items import held_out_pairs, list_items, training_pairs
from prorank.training.listwise import ListwiseTrainer
from prorank.training.recipe import RankingSection, Recipe
from prorank.training.score_learning import ScoreTrainer
from prorank.training.setting import Setting, sampled
from prorank.training.sft import SftTrainer
from prorank.training.trainer import RankingTrainer, SlotTrainer
from prorank.training.warmup import WarmupTrainer


def load_reranker(setting: Setting, model: str, for_training: bool = False) -> Reranker:
    """The starting model by the recipe's settings, or a checkpoint of this run by its own."""
    section = setting.recipe.backbone
    new = setting.recipe.grades.max_new_tokens
    longer = None if for_training else setting.recipe.evaluation.max_length
    common: dict[str, Any] = {
        "precision": section.precision,
        "for_training": for_training,
        "trust_remote_code": setting.trust_remote_code,
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


def by_collection(setting: Setting, evaluation: Evaluation) -> dict[str, float]:
    """Mean NDCG@10 over the queries of each of a union's collections."""
    values = evaluation.per_query[PRIMARY]
    found = {}
    for member in setting.members:
        own = [value for query, value in values.items() if query in member.collection.queries]
        found[member.collection.name] = sum(own) / len(own)
    return found


def train_warmup(setting: Setting) -> tuple[str, dict[str, Any]]:
    """Stage 1. Returns the folder of the warmed-up model and its held-out figures."""
    section, recipe = setting.recipe.warmup, setting.recipe
    assert section is not None
    folder = setting.folder / "warmup"
    if setting.study.has("warmup/model") and setting.study.has("warmup/figures.json"):
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
        # the checkpoint was chosen on dev, so the dev pairs say nothing about chance
        "p_above_chance": binomial_above_chance(test_figures.correct, test_figures.total),
        "diagnosis": diagnosis(figures),
        "start": start._asdict(),
        "test": test_figures._asdict(),
    }

    def write() -> None:
        save_stage(setting, whole(setting, recipe.backbone.model, reranker, trainer), folder / "model")
        write_json(folder / "figures.json", result)
        setting.study.keep("warmup/model", "warmup/figures.json")

    processes.first_only(write)
    return str(folder / "model"), result


def train_scores(setting: Setting, model: str) -> str:
    """Stage 2. Returns the folder of the trained model."""
    section = setting.recipe.score_learning
    assert section is not None

    def trainer(reranker: Reranker, *rest: Any) -> RankingTrainer:
        items = list_items(setting, reranker.pair_tokenizer)
        backbone = ready_to_train(reranker.backbone, setting.recipe)
        return ScoreTrainer(reranker.settings.score, backbone, reranker.pair_tokenizer, section, items, *rest)

    return train_ranking(setting, model, "score-learning", "Stage 2, score learning", section, trainer)


def train_grades(setting: Setting, model: str) -> str:
    """ERank's first stage. Returns the folder of the trained model."""
    section = setting.recipe.sft
    assert section is not None

    def trainer(reranker: Reranker, *rest: Any) -> RankingTrainer:
        items = sft_items(setting, reranker.pair_tokenizer)
        backbone = ready_to_train(reranker.backbone, setting.recipe)
        return SftTrainer(backbone, reranker.pair_tokenizer, section, items, *rest)

    return train_ranking(setting, model, "sft", "Supervised grades", section, trainer)


def train_listwise(setting: Setting, model: str) -> str:
    """ERank's second stage. Returns the folder of the trained model."""
    section = setting.recipe.listwise
    assert section is not None

    def trainer(reranker: Reranker, *rest: Any) -> RankingTrainer:
        items = listwise_items(setting, reranker)  # before dropout and adapters come in: it asks the model for grades
        backbone = ready_to_train(reranker.backbone, setting.recipe, section.lora)
        return ListwiseTrainer(backbone, reranker.pair_tokenizer, section, items, *rest)

    return train_ranking(setting, model, "listwise", f"Listwise reinforcement, {section.reward}", section, trainer)


def train_ranking(
    setting: Setting,
    model: str,
    stage: str,
    title: str,
    section: RankingSection,
    trainer_of: Callable[..., RankingTrainer],
) -> str:
    """Train a ranking stage, unless it is done; leave model, curves and `done.json` in its folder.

    Args:
        setting: what the run knows.
        model: folder or name of the model that training starts from.
        stage: name of the stage's folder.
        title: printed when training starts.
        section: of the recipe.
        trainer_of: (reranker, dev figures, folder, seed, console, log_to) -> trainer.

    Returns:
        The folder of the trained model.
    """
    folder = setting.folder / stage
    if setting.study.has(f"{stage}/model") and setting.study.has(f"{stage}/done.json"):
        return str(folder / "model")
    setting.console.print(f"[bold]{title}[/bold]: {section.steps} steps")
    transformers.set_seed(setting.recipe.seed)
    reranker = load_reranker(setting, model, for_training=True)
    for other in section.average_with:
        if other != "start":  # one that does not fit is refused before the training, not after it
            weights_like(setting, other, reranker)
    measure = dev_measure(setting, reranker, section.dev_queries)
    trainer = trainer_of(reranker, measure, folder / "training", setting.recipe.seed, setting.console, setting.log_to)
    trainer.run(resume=True)

    best = trainer.state.best_metric
    figures, mean = {"best_dev_ndcg@10": best, "best_step": trainer.best_step()}, None
    if section.average_with:
        others = [model if name == "start" else name for name in section.average_with]
        mean = mean_with(setting, model, others, trainer)
        average = float(dev_measure(setting, mean, section.dev_queries)()["dev_ndcg@10"])
        setting.console.print(
            f"  mean with {', '.join(section.average_with)}: dev NDCG@10 {average:.3f}, best checkpoint {best:.3f}"
        )
        figures["average_dev_ndcg@10"] = average
        mean = mean if average > best else None
    figures["unchanged"] = mean is None and trainer.best_step() == 0
    if figures["unchanged"]:
        setting.console.print(f"  [yellow]{unchanged_sentence([stage])}[/yellow]")

    def write() -> None:
        save_stage(setting, mean or whole(setting, model, reranker, trainer), folder / "model")
        write_json(folder / "done.json", figures)
        setting.study.keep(f"{stage}/model", f"{stage}/done.json")

    processes.first_only(write)
    return str(folder / "model")


def unchanged_sentence(stages: Sequence[str]) -> str:
    """What to say of stages that kept their starting model; empty where all changed it.

    >>> unchanged_sentence(["score-learning"])
    'score-learning: no step beat the start on dev, so its model is the one that it started from'
    """
    names = ", ".join(stages)
    return f"{names}: no step beat the start on dev, so its model is the one that it started from" if names else ""


def mean_with(setting: Setting, start: str, others: list[str], trainer: SlotTrainer) -> Reranker:
    """A model with the mean of the weights that training ended with and of other models' weights.

    With the start it often keeps what that knew of other data without losing what was learned (Wortsman et al. 2022,
    "Robust fine-tuning of zero-shot models", section 3, alpha = 0.5); with other runs from one start it is a uniform
    soup (Wortsman et al. 2022, "Model soups", section 2).
    """
    mean = started_again(setting, start, trainer)
    trainer.load_last(mean.backbone)
    mean.backbone.merge_lora()
    with torch.no_grad():
        for other in others:
            part = weights_like(setting, other, mean)
            for name, weights in mean.backbone.named_parameters():
                weights.add_(part[name])
        for weights in mean.backbone.parameters():
            weights.div_(1 + len(others))
    mean.backbone.eval()
    return mean


def weights_like(setting: Setting, model: str, like: Reranker) -> dict[str, torch.Tensor]:
    """Name -> weights of a model whose prompt and shapes must be those of another."""
    found = load_reranker(setting, model, for_training=True)
    weights = {name: p.detach() for name, p in found.backbone.named_parameters()}
    if {n: w.shape for n, w in weights.items()} != {n: p.shape for n, p in like.backbone.named_parameters()}:
        raise TrainingError(f"average_with: {model} is another architecture", hint="take it out of the recipe")
    if found.settings.prompt != like.settings.prompt:
        raise TrainingError(f"average_with: {model} was trained with another prompt", hint="take it out of the recipe")
    return weights


def dev_measure(setting: Setting, reranker: Reranker, queries: int) -> Any:
    """A function that gives dev NDCG@10 of the model as it is, the mean over collections and each one's.

    Pairs are as long as they will be when the model is used (`evaluation.max_length`), which may be longer than those
    it is trained on. Texts are tokenised once, at most `queries` of each collection's queries shared out over the
    processes.
    """
    recipe = setting.recipe
    qrels = sampled(setting, recipe.data.dev, queries)
    lists = lists_of(setting.first_stage, qrels)
    depth = recipe.evaluation.rerank
    shortened = top(lists, depth)
    ids = [(query, document) for query in processes.share(list(lists)) for document in shortened[query]]
    texts = setting.texts()
    length = fitting_length(recipe.evaluation.max_length or reranker.settings.max_length, reranker.backbone)
    tokenizer = replace(reranker.pair_tokenizer, max_length=length)
    sequences, _ = tokenizer.encode([(setting.collection.queries[q], texts[d]) for q, d in ids])
    groups = query_groups(ids)

    def measure() -> dict[str, float]:
        mine = reranker.score_sequences(sequences, groups=groups)[0].tolist()
        scores = scored_lists(lists, processes.gathered(list(zip(ids, mine))))
        reranked = rerank_run(lists, scores, depth)
        found = by_collection(setting, evaluate_run(reranked, qrels, ("nDCG@10",)))
        total = {"dev_ndcg@10": sum(found.values()) / len(found)}
        return total | {f"dev_ndcg@10_{name}": value for name, value in found.items() if len(found) > 1}

    return measure


def ready_to_train(backbone: Backbone, recipe: Recipe, lora: bool = True) -> Backbone:
    """Attach LoRA if the recipe wants it, otherwise every weight is trained; switch dropout off if it says so."""
    if not recipe.backbone.dropout:
        for module in backbone.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    adapters = recipe.backbone.lora
    if adapters is not None and lora:
        backbone.add_lora(adapters.rank, adapters.alpha, adapters.dropout)
    return backbone.train()


def whole(setting: Setting, start: str, reranker: Reranker, trainer: SlotTrainer) -> Reranker:
    """The trained model; where its weights are shared out over processes, a whole one with the best checkpoint's."""
    if not trainer.sharded():
        return reranker
    again = started_again(setting, start, trainer)
    trainer.load_best(again.backbone)
    return again


def started_again(setting: Setting, start: str, trainer: SlotTrainer) -> Reranker:
    """The starting model, whole and with the adapters of the one that was trained: its checkpoints fit in."""
    again = load_reranker(setting, start, for_training=True)
    ready_to_train(again.backbone, setting.recipe, trainer.backbone.has_lora)
    return again


def save_stage(setting: Setting, reranker: Reranker, folder: Path) -> None:
    """Write a checkpoint with the recipe and the data's fingerprint in it."""
    reranker.settings = reranker.settings.model_copy(
        update={
            "recipe": setting.recipe.model_dump(mode="json"),
            "data_fingerprint": setting.collection.fingerprint,
            "base_model": public_base(setting.recipe.backbone.model),
            "calibration": None,
        }
    )
    with torch.no_grad():
        reranker.save_pretrained(folder)
