"""One contender of the step benchmark, alone in a process: `python -m prorank.bench.step_worker SPEC RESULT`.

The contender learns scores from the same lists of texts with the softmax loss over each list: prorank's trainer, or
sentence-transformers' CrossEncoderTrainer with ListNetLoss. A step is a whole one. Nothing is evaluated or kept.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from prorank.bench.memory_worker import RATE, timed_steps, whole_in_memory
from prorank.bench.peer_trainer import quietly
from prorank.bench.warmup_worker import Clock
from prorank.bench.worker import Memory
from prorank.pipeline.stages import without_dropout
from prorank.recipe.sections import ScoreLearningSection
from prorank.reranker import Reranker
from prorank.score_learning.trainer import ScoreTrainer
from prorank.training.lists import ListItem
from prorank.training.trainer import TrainContext
from prorank.util.errors import require


def prorank(spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """prorank's step in one pass."""
    reranker = Reranker.from_pretrained(
        spec["folder"], max_length=spec["length"], device=spec["device"], for_training=True
    )
    backbone = reranker.backbone.train()
    if spec["lora"]:
        backbone.add_lora(spec["lora"], 2 * spec["lora"])
    without_dropout(backbone)
    lists = [
        ListItem(reranker.pair_tokenizer.encode([(query, document) for document in documents])[0], tuple(labels), None)
        for query, documents, labels in spec["lists"]
    ]
    section = ScoreLearningSection(steps=1, queries_per_step=len(lists), loss="listwise", token_budget=1 << 40)
    context = TrainContext(backbone, reranker.pair_tokenizer, section, lists, folder, 0, Console(quiet=True))
    return timed_steps(ScoreTrainer(context, reranker.settings.score), spec["steps"])


def sentence_transformers(spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """sentence-transformers' step: a classifier, or the same logits of a causal model that prorank exported."""
    library = require("sentence_transformers.cross_encoder", "train")
    losses = require("sentence_transformers.cross_encoder.losses", "train")
    data = require("datasets", "train")
    model = library.CrossEncoder(
        spec["folder"],
        max_length=spec["length"],
        device=spec["device"],
        **({"num_labels": 1} if spec["new_head"] else {}),
    )
    if spec["lora"]:
        peft = require("peft", "train")
        settings = peft.LoraConfig(r=spec["lora"], lora_alpha=2 * spec["lora"], target_modules="all-linear")
        peft.inject_adapter_in_model(settings, model.transformers_model)  # freezes the rest
        if spec["new_head"]:
            model.transformers_model.classifier.requires_grad_(True)
    without_dropout(model)
    whole_in_memory(model)
    queries, documents, labels = zip(*spec["lists"] * (spec["steps"] + 1))
    rows = {"query": queries, "docs": documents, "labels": [[float(grade) for grade in own] for own in labels]}
    clock = Clock()
    arguments = library.CrossEncoderTrainingArguments(
        output_dir=str(folder),
        max_steps=spec["steps"] + 1,
        per_device_train_batch_size=len(spec["lists"]),
        learning_rate=RATE,
        logging_strategy="no",
        **quietly(torch.device(spec["device"])),
    )
    trainer = library.CrossEncoderTrainer(
        model=model,
        args=arguments,
        train_dataset=data.Dataset.from_dict(rows),
        loss=losses.ListNetLoss(model),
        callbacks=[clock],
    )
    memory = Memory(spec["device"])
    trainer.train()
    return {
        "seconds": statistics.median(clock.timed(spec["steps"])),
        "all_seconds": clock.seconds,
        "extra_bytes": memory.peak(),
    }


def main(spec_file: str, result_file: str) -> None:
    """Measure one contender."""
    spec = json.loads(Path(spec_file).read_text(encoding="utf-8"))
    contender = {"prorank": prorank, "sentence-transformers": sentence_transformers}[spec["contender"]]
    with tempfile.TemporaryDirectory() as folder:
        found = contender(spec, Path(folder))
    Path(result_file).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
