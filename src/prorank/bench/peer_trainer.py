"""One training by sentence-transformers' CrossEncoderTrainer on given lists. Knows that library and lists."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch.utils.data import BatchSampler, SequentialSampler

from prorank.data.runs import Run, lists_of
from prorank.evaluation.metrics import evaluate_run
from prorank.evaluation.rerank import PRIMARY, rerank_collection
from prorank.evaluation.systems import PairScorer, logits_of
from prorank.model.device import fast_bf16, resolve_device
from prorank.model.loading import resolve_source
from prorank.pipeline.stages import without_dropout
from prorank.training.context import RunContext, sampled
from prorank.training.lists import CandidateList
from prorank.util.errors import require


def train_peer(context: RunContext, loss: str, lists: Sequence[CandidateList], teacher: Run | None) -> PairScorer:
    """Train a cross-encoder with one output and choose its checkpoint by dev NDCG@10.

    Args:
        context: of a run whose recipe says steps, batch, learning rate, lengths.
        loss: `bce`, `lambda` or `margin_mse`.
        lists: in training order.
        teacher: scores of their documents, for `margin_mse`.

    Returns:
        The scorer.
    """
    library = require("sentence_transformers.cross_encoder", "train")
    losses = require("sentence_transformers.cross_encoder.losses", "train")
    recipe, section = context.recipe, context.recipe.score_learning
    assert section is not None
    transformers.set_seed(recipe.seed)
    device = resolve_device("auto")
    model = library.CrossEncoder(
        resolve_source(recipe.backbone.model), num_labels=1, max_length=recipe.backbone.max_length, device=str(device)
    )
    if not recipe.backbone.dropout:
        without_dropout(model)
    made = {"bce": losses.BinaryCrossEntropyLoss, "lambda": losses.LambdaLoss, "margin_mse": losses.MarginMSELoss}
    size = len(lists[0].documents)
    scorer = logits_of(model)
    best = _Best(context, scorer, model)
    arguments = library.CrossEncoderTrainingArguments(
        output_dir=str(context.folder / "training"),
        max_steps=section.steps,
        per_device_train_batch_size=section.queries_per_step * (size if loss == "bce" else 1),
        learning_rate=section.learning_rate,
        weight_decay=section.weight_decay,
        max_grad_norm=section.max_grad_norm,
        warmup_steps=int(section.lr_warmup_ratio * section.steps),
        lr_scheduler_type="linear",
        seed=recipe.seed,
        **quietly(device),
    )
    trainer = library.CrossEncoderTrainer(
        model=model,
        args=arguments,
        train_dataset=table(context, loss, lists, teacher),
        loss=made[loss](model),
        callbacks=[best],
    )
    trainer.remove_callback(transformers.PrinterCallback)  # standard output is the command's
    trainer.train()
    model.load_state_dict(best.weights)
    model.eval()
    return scorer


def quietly(device: torch.device) -> dict[str, Any]:
    """Arguments of that library's trainer: rows as they stand, the fastest precision, nothing saved or printed."""
    return {
        "bf16": fast_bf16(device),
        "use_cpu": device.type == "cpu",
        "batch_sampler": in_order,
        "save_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
        "dataloader_pin_memory": False,
    }


def in_order(dataset: Any, batch_size: int, drop_last: bool, **_: Any) -> BatchSampler:
    """Batches of the rows as they stand."""
    return BatchSampler(SequentialSampler(dataset), batch_size, drop_last)


def table(context: RunContext, loss: str, lists: Sequence[CandidateList], teacher: Run | None) -> Any:
    """The lists in the columns that a loss of sentence-transformers takes."""
    data, texts, section = require("datasets", "train"), context.texts(), context.recipe.score_learning
    assert section is not None
    if loss == "bce":  # grades scaled to 0..1 inside a list, as prorank's pointwise loss does
        rows = [(one.query, texts[d], min(1.0, y / max(one.labels))) for one in lists for d, y in zip(one[2], one[3])]
        return data.Dataset.from_dict(dict(zip(("query", "document", "label"), map(list, zip(*rows)))))
    if loss == "lambda":
        return data.Dataset.from_dict(
            {
                "query": [one.query for one in lists],
                "docs": [[texts[d] for d in one.documents] for one in lists],
                "labels": [[float(grade) for grade in one.labels] for one in lists],
            }
        )
    assert teacher is not None and section.teacher is not None
    scale = section.teacher.temperature
    columns: dict[str, list[Any]] = {"query": [one.query for one in lists]}
    for place in range(len(lists[0].documents)):
        columns[f"document_{place}"] = [texts[one.documents[place]] for one in lists]
    columns["label"] = [[teacher[one.query_id][d] / scale for d in one.documents] for one in lists]
    return data.Dataset.from_dict(columns)


class _Best(transformers.TrainerCallback):
    """Keeps the weights of the best step by dev NDCG@10, looked at as often as prorank's trainers do."""

    def __init__(self, context: RunContext, scorer: PairScorer, model: Any) -> None:
        section = context.recipe.score_learning
        assert section is not None
        self.model, self.scorer, self.every, self.best = model, scorer, section.evaluate_every, -1.0
        self.qrels = sampled(context, context.recipe.data.dev, section.dev_queries)
        self.collection, self.lists = context.collection, lists_of(context.first_stage, self.qrels)
        self.depth = context.recipe.evaluation.rerank_depth
        self.weights: dict[str, torch.Tensor] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure, and keep the weights where they are the best so far."""
        if state.global_step % self.every and state.global_step != state.max_steps:
            return
        self.model.eval()
        run = rerank_collection(self.scorer, self.collection, self.lists, self.depth)
        self.model.train()
        found = evaluate_run(run, self.qrels, ("nDCG@10",)).mean(PRIMARY)
        if found > self.best:
            self.best, self.weights = found, copy.deepcopy(self.model.state_dict())
