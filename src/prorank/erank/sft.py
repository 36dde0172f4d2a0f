"""ERank's first stage: language modelling of the answer, and of the reasoning before it where the data hold one.

Only the answer's tokens carry loss. Prompts and answers of causal models run end to end in one packed row; a masked
model's answer is the one token at its slot. Source: ERank, arXiv 2509.00520, section 3.2. Knows tokenised pairs and
answers; where they come from is `graded`'s matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch.nn import functional as F

from prorank.model.backbone import Backbone
from prorank.prompts.tokenization import PairTokenizer
from prorank.recipe.sections import SftSection
from prorank.training.trainer import RankingTrainer
from prorank.warmup.answer_distribution import completion_log_probs


class SftItem(NamedTuple):
    """A tokenised pair and the tokens of its answer."""

    input_ids: list[int]
    completion: list[int]


class SftTrainer(RankingTrainer):
    """Supervised learning of grades; the items are pairs with answers. Arguments: see `RankingTrainer`."""

    def __init__(
        self,
        backbone: Backbone,
        tokenizer: PairTokenizer,
        settings: SftSection,
        items: Sequence[SftItem],
        dev_metrics: Callable[[], dict[str, float]],
        folder: Path,
        seed: int,
        console: Console,
        log_to: Sequence[str] = (),
    ) -> None:
        super().__init__(
            backbone,
            tokenizer,
            settings,
            items,
            dev_metrics,
            folder,
            seed,
            console,
            log_to,
            batch_items=settings.pairs_per_step,
            title="sft",
        )

    def collate(self, items: list[SftItem]) -> dict[str, Any]:
        """Padded prompts, and the answers as lists."""
        batch = self.pair_tokenizer.collate([item.input_ids for item in items])
        return {**batch.tensors(), "completions": [item.completion for item in items]}

    def loss_on(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Mean over pairs of the mean over the answer's tokens of -log p."""
        arguments = (inputs["input_ids"], inputs["attention_mask"], inputs["slot"])
        completions: list[list[int]] = inputs["completions"]
        device = inputs["slot"].device
        if self.backbone.family != "causal":
            return F.cross_entropy(model(*arguments), torch.tensor([first for first, *_ in completions], device=device))
        rows, mask = completion_log_probs(model, inputs, [[completion] for completion in completions])  # (B, L)
        return -(rows.sum(-1) / mask.sum(-1)).mean()
