"""One point of the memory benchmark, alone in a process: `python -m prorank.bench.memory_worker SPEC RESULT`.

Pairs of random tokens; a step is a whole one: the trainer's own gradient, clipping, AdamW.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from prorank.bench.worker import Memory
from prorank.erank.sft import SftItem, SftTrainer
from prorank.model.backbone import Backbone
from prorank.model.checkpoint import read_settings
from prorank.model.loading import resolve_source
from prorank.recipe.sections import Optimisation, ScoreLearningSection, SftSection, WarmupSection
from prorank.reranker import Reranker
from prorank.score_learning.trainer import ScoreTrainer
from prorank.training.lists import ListItem
from prorank.training.memory import shape_of
from prorank.training.steps import Items
from prorank.training.trainer import SlotTrainer, TrainContext
from prorank.warmup.pairs import PairItem
from prorank.warmup.trainer import WarmupTrainer

LIST = 8  # documents of a query in score learning
RATE = 1e-6  # learning rate; small, so that no step leads to another kind of numbers


def random_pairs(backbone: Backbone, pairs: int, length: int) -> list[list[int]]:
    """Token ids of pairs that share nothing."""
    generator = torch.Generator().manual_seed(1)
    rows: list[list[int]] = torch.randint(
        100, backbone.config.vocab_size // 2, (pairs, length), generator=generator
    ).tolist()
    return rows


def trainer_of(spec: dict[str, Any], folder: Path) -> SlotTrainer:
    """The stage's trainer over one step of random pairs."""
    reranker = Reranker.from_pretrained(
        spec["model"],
        prompt=None if read_settings(resolve_source(spec["model"])) else "prorank-short",  # a checkpoint has its own
        max_length=max(512, spec["length"]),
        device=spec["device"],
        precision=spec["precision"],
        for_training=True,
    )
    backbone = reranker.backbone.train()
    if spec["lora"]:
        backbone.add_lora(spec["lora"], 2 * spec["lora"])
    rows = random_pairs(backbone, spec["pairs"], spec["length"])
    common = {
        "steps": 1,
        "token_budget": spec["budget"] or spec["pairs"] * (spec["length"] + LIST),
        "gradient_checkpointing": spec["gradient_checkpointing"] or None,
    }

    def context(settings: Optimisation, items: Sequence[Any]) -> TrainContext:
        return TrainContext(backbone, reranker.pair_tokenizer, settings, items, folder, 0, Console(quiet=True))

    if spec["stage"] == "score-learning":
        lists = [ListItem(rows[i : i + LIST], (1, *[0] * (LIST - 1)), None) for i in range(0, len(rows), LIST)]
        section = ScoreLearningSection(queries_per_step=len(lists), **common)
        return ScoreTrainer(context(section, lists), reranker.settings.score)
    if spec["stage"] == "sft":
        answer = reranker.pair_tokenizer.answer_tokens[0]
        graded = [SftItem(ids, [*answer, *answer]) for ids in rows]
        return SftTrainer(context(SftSection(pairs_per_step=len(rows), **common), graded))
    pairs = [PairItem(ids, i % 2) for i, ids in enumerate(rows)]
    return WarmupTrainer(context(WarmupSection(pairs_per_step=len(rows), **common), pairs), [])


def whole_in_memory(model: torch.nn.Module) -> None:
    """Bring weights that are mapped from a file into memory."""
    for parameter in model.parameters():
        parameter.detach().sum()


def timed_steps(trainer: SlotTrainer, steps: int) -> dict[str, Any]:
    """Seconds of each step over all of the trainer's items, and bytes at the highest point beyond the weights.

    The first step is left out of the median.
    """
    backbone, items = trainer.backbone, Items(list(trainer.context.items))
    whole_in_memory(backbone)
    trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE)
    memory, seconds = Memory(str(backbone.device)), []
    for _ in range(steps + 1):
        start = time.perf_counter()
        loss = trainer.training_step(backbone, {"items": items})
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds[1:]), "all_seconds": seconds, "extra_bytes": memory.peak()}


def main(spec_file: str, result_file: str) -> None:
    """Measure one point."""
    spec = json.loads(Path(spec_file).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(spec, Path(folder))
    backbone = trainer.backbone
    result = timed_steps(trainer, spec["steps"]) | {
        "shape": shape_of(backbone.config, lora=spec["lora"], compute=backbone.compute_dtype)._asdict(),
    }
    Path(result_file).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
