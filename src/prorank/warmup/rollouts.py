"""Drawn verdicts kept for several optimisation steps, and the order in which batches come back.

A set of `rollout_batches` batches is passed over `epochs` times. At the first visit verdicts are drawn; later visits
train on the same verdicts against the log-probabilities of the model that drew them, so the ratio is no longer 1 and
clipping acts (PPO, arXiv 1707.06347, algorithm 1). A rollout older than `max_staleness` optimiser steps is dropped, and
the batch is drawn anew. Knows tensors and step numbers; nothing of models or rewards.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file

from prorank.recipe.sections import WarmupSection


class Rollout(NamedTuple):
    """Verdicts of one batch as they were drawn.

    Attributes:
        tokens: (B, G, L) drawn tokens: the verdict and, for causal models, what followed it.
        log_prob: (B * G, L) their log-probabilities under the model that drew them.
        advantages: (B * G,).
        step: optimiser steps done when they were drawn.
    """

    tokens: torch.Tensor
    log_prob: torch.Tensor
    advantages: torch.Tensor
    step: int


def batch_of_step(step: int, settings: WarmupSection) -> int:
    """Number of the batch that a step trains on.

    >>> settings = WarmupSection(num_generations=8, experimental={"epochs": 2, "rollout_batches": 3})
    >>> [batch_of_step(step, settings) for step in range(8)]
    [0, 1, 2, 0, 1, 2, 3, 4]
    """
    size = settings.experimental.rollout_batches
    turn, place = divmod(step, settings.experimental.epochs * size)
    return turn * size + place % size


class Rollouts:
    """The rollouts that later steps may still use, by batch number."""

    def __init__(self, settings: WarmupSection) -> None:
        self.settings = settings
        self.kept: dict[int, Rollout] = {}

    def get(self, step: int) -> Rollout | None:
        """The rollout of this step's batch; None if it must be drawn, for the first time or because it is stale."""
        rollout = self.kept.get(batch_of_step(step, self.settings))
        limit = self.settings.experimental.max_staleness
        if rollout is not None and limit is not None and step - rollout.step > limit:
            return None
        return rollout

    def keep(self, step: int, rollout: Rollout) -> None:
        """Remember a rollout; what no later step will visit is forgotten."""
        if self.settings.experimental.epochs == 1:
            return
        batch = batch_of_step(step, self.settings)
        first = batch - batch % self.settings.experimental.rollout_batches  # of the set that is being passed over
        self.kept = {number: old for number, old in self.kept.items() if number >= first} | {batch: rollout}

    def save(self, file: Path) -> None:
        """Write the kept rollouts beside a checkpoint; nothing is written where none is kept."""
        if not self.kept:
            return
        tensors = {}
        for number, rollout in self.kept.items():
            for name, value in rollout._asdict().items():
                tensor = value if isinstance(value, torch.Tensor) else torch.tensor(value)
                tensors[f"{number}.{name}"] = tensor.detach().cpu().contiguous()
        save_file(tensors, file)

    def load(self, file: Path, device: torch.device) -> None:
        """Read what `save` wrote; without a file nothing is kept."""
        self.kept = {}
        if not file.is_file():
            return
        tensors = load_file(file, device=str(device))
        for number in {int(name.partition(".")[0]) for name in tensors}:
            values = {field: tensors[f"{number}.{field}"] for field in Rollout._fields}
            self.kept[number] = Rollout(**{**values, "step": int(values["step"])})
