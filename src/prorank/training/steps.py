"""The gradient of one optimisation step: in one pass where it fits, else in parts, always that of the whole step.

Subclasses say what is read of a step's pairs (`collate`, `read`) and the loss of it (`loss`). Parts are cut in one of
two ways. Where each item (a pair, or a query's list) has its own part in the loss, items are computed lot after lot.
Where something is measured over the whole step, or a list alone is too long, outputs come first and gradients after
them (`parts.cached_gradient`). This module knows the Trainer, backbones and token counts; nothing of checkpoints.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers
from torch.distributed.fsdp import FSDPModule

from prorank.model.backbone import Backbone
from prorank.model.packing import shared_prefixes
from prorank.training import distributed
from prorank.training.memory import default_budget
from prorank.training.parts import Outputs, cached_gradient, cut, even, random_state, restore
from prorank.util.errors import TrainingError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Items:
    """A step's items on their way through the Trainer, which would look into a plain list for tensors."""

    items: list[Any]


def mean_of(values: Sequence[tuple[torch.Tensor, float]]) -> torch.Tensor:
    """Mean of (value, weight).

    >>> mean_of([(torch.tensor(1.0), 0.5), (torch.tensor(2.0), 0.5), (torch.tensor(3.0), 1.0)])
    tensor(2.2500)
    """
    weight = sum(weight for _, weight in values)
    return torch.stack([value * part for value, part in values]).sum() / weight


def by_item(costs: tuple[Sequence[int], Sequence[int]], sizes: Sequence[int]) -> list[int]:
    """Tokens of each item from those of its sequences, and how many of these are saved.

    >>> by_item(([5, 5, 4], [0, 3, 0]), [2, 1])
    [7, 4]
    """
    left = iter([own - less for own, less in zip(*costs)])
    return [sum(next(left) for _ in range(size)) for size in sizes]


class StepTrainer(transformers.Trainer):
    """A Trainer whose steps hold a budget of tokens; what it adds is `training_step` alone."""

    backbone: Backbone
    settings: Any  # the recipe's section: `token_budget`, `gradient_checkpointing`
    notes: dict[str, list[tuple[torch.Tensor, float]]]
    token_budget: int | None  # None until the first step finds out
    part_weight = 1.0  # of the step, where a part's loss is taken by itself

    def collate(self, items: Sequence[Any]) -> dict[str, Any]:
        """A step's items as `sequences` (token ids, pair after pair), and what the loss needs besides, on the device.

        Where an item has several sequences, `sizes` tells how many; where pairs may share what they begin with,
        `groups` holds a number for each.
        """
        raise NotImplementedError

    def prepare(self, model: Any, inputs: dict[str, Any], parts: Sequence[slice]) -> None:
        """Add to the inputs what is drawn or generated before the outputs are read, in these parts."""

    def read(self, model: Any, inputs: dict[str, Any], part: slice) -> Outputs:
        """What the loss needs of the sequences of a part; `model` is the backbone, perhaps wrapped."""
        raise NotImplementedError

    def loss(self, outputs: Outputs, inputs: dict[str, Any], whole: dict[str, Any]) -> torch.Tensor:
        """Loss of outputs; of a part, its own share in the loss of the `whole` step."""
        raise NotImplementedError

    def added_tokens(self, inputs: dict[str, Any]) -> int:
        """Tokens that `read` adds to each sequence."""
        return 0

    def separable(self) -> bool:
        """Whether a step's loss is the sum of its items' losses, with nothing measured over all of them."""
        return True

    def loss_on(self, model: Any, inputs: dict[str, Any], whole: dict[str, Any] | None = None) -> torch.Tensor:
        """Loss of collated items in one pass, as `loss` says."""
        everything = slice(0, len(inputs["sequences"]))
        self.prepare(model, inputs, [everything])
        return self.loss(self.read(model, inputs, everything), inputs, inputs if whole is None else whole)

    def averaged(self, value: torch.Tensor) -> torch.Tensor:
        """Mean of a detached value over the processes."""
        mean: torch.Tensor = self.accelerator.reduce(value.detach(), "mean")
        return mean

    def note(self, **values: torch.Tensor | float) -> None:
        """Remember metrics of this step; their means since the last log line are logged with the loss."""
        for name, value in values.items():
            found = torch.as_tensor(value, device=self.backbone.device).detach().float()
            self.notes.setdefault(name, []).append((found, self.part_weight))

    def sharded(self) -> list[FSDPModule]:
        """The parts of the model whose weights are shared out over the processes."""
        return [module for module in self.backbone.modules() if isinstance(module, FSDPModule)]

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Gradient of a step, in parts that fit the budget of tokens; where memory runs out, in smaller ones."""
        model.train()
        items, device = inputs["items"].items, self.backbone.device
        if self.token_budget is None:
            self.token_budget = default_budget(self.backbone)
        state, noted = random_state(device), {name: len(values) for name, values in self.notes.items()}
        while True:
            try:
                return self._gradient(model, items, self.token_budget)
            except torch.OutOfMemoryError:
                if distributed.count() > 1 or self.token_budget < min(self.costs(self.collate(items))[0]):
                    raise  # other processes wait for this one, or a pair alone does not fit
            self._shrink(items)  # here the failed pass is no longer in memory
            model.zero_grad()
            restore(state, device)
            self.notes = {name: self.notes[name][:count] for name, count in noted.items()}

    def _gradient(self, model: Any, items: Sequence[Any], budget: int) -> torch.Tensor:
        """Add a step's gradient to the parameters; returns the loss."""
        inputs = self.collate(items)
        costs = self.costs(inputs)
        parts = self._agreed(cut(*costs, budget), len(inputs["sequences"]))
        wanted = self.settings.gradient_checkpointing
        too_long = max(costs[0]) > budget  # a pair cannot be cut any further
        self.backbone.gradient_checkpointing = too_long if wanted is None else wanted
        try:
            if len(parts) == 1:
                loss = self._finite(self.loss_on(model, inputs))
                self.accelerator.backward(loss)
                return loss.detach()
            whole_items = by_item(costs, inputs.get("sizes", [1] * len(items)))
            if self.separable() and max(whole_items) <= max(budget, max(costs[0])):
                pieces = self._agreed(cut(whole_items, [0] * len(items), budget), len(items))
                return self._piece_by_piece(model, items, pieces, inputs)
            self.prepare(model, inputs, parts)
            return cached_gradient(
                lambda part: self.read(model, inputs, part),
                lambda outputs: self._finite(self.loss(outputs, inputs, inputs)),
                parts,
                self.backbone.device,
                partial(self._backward, model),
            )
        finally:
            self.backbone.gradient_checkpointing = False

    def _piece_by_piece(
        self, model: Any, items: Sequence[Any], pieces: Sequence[slice], whole: dict[str, Any]
    ) -> torch.Tensor:
        """The gradient where each item has its own part of the loss."""
        total = torch.zeros((), device=self.backbone.device)
        for place, piece in enumerate(pieces):
            self.part_weight = len(items[piece]) / len(items)
            try:
                loss = self._finite(self.loss_on(model, self.collate(items[piece]), whole))
            finally:
                self.part_weight = 1.0
            self._backward(model, loss, place == len(pieces) - 1)
            total = total + loss.detach()
        return total

    def _backward(self, model: Any, loss: torch.Tensor, last: bool) -> None:
        """Differentiate a part; processes add up their gradients with the last one."""
        with nullcontext() if last else self.accelerator.no_sync(model):
            self.accelerator.backward(loss)

    def costs(self, inputs: dict[str, Any]) -> tuple[list[int], list[int]]:
        """Tokens that each sequence costs, and how many of them it saves behind one of its group."""
        sequences, added = inputs["sequences"], self.added_tokens(inputs)
        tokens, saved = [len(ids) + added for ids in sequences], [0] * len(sequences)
        if not self.backbone.supports_packing:
            return [max(tokens)] * len(tokens), saved
        groups = inputs.get("groups")
        if groups is not None:
            prefixes = shared_prefixes(sequences, groups, causal=self.backbone.family == "causal")
            saved = [p if i and groups[i] == groups[i - 1] else 0 for i, p in enumerate(prefixes)]
        return tokens, saved

    def _agreed(self, parts: list[slice], count: int) -> list[slice]:
        """The parts, as many in each process where every pass gathers shared-out weights from all of them."""
        if not self.sharded():
            return parts
        most, fewest = max(distributed.gather([len(parts)])), min(distributed.gather([count]))
        return even(count, min(most, fewest))

    def _shrink(self, items: Sequence[Any]) -> None:
        """Continue with half the tokens of a pass."""
        assert self.token_budget is not None
        tokens, saved = self.costs(self.collate(items))
        self.token_budget = min(self.token_budget, sum(tokens) - sum(saved)) // 2
        logger.warning("out of memory: training goes on with %d tokens per pass", self.token_budget)
        if self.backbone.device.type == "cuda":
            torch.cuda.empty_cache()

    def _finite(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss, refused when it is not a number."""
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}",
                hint="lower the learning rate, or resume from the last checkpoint with precision fp32",
            )
        return loss
