"""ERank's first stage: language modelling of the answer, and of the reasoning before it where the data hold one.

Only the answer's tokens carry loss. Prompts and answers of causal models run end to end in one packed row; a masked
model's answer is the one token at its slot. Source: ERank, arXiv 2509.00520, section 3.2. Knows tokenised pairs and
answers; where they come from is `graded`'s matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from prorank.engine.generate import completion_log_probs
from prorank.training.parts import Outputs
from prorank.training.reading import read_slots
from prorank.training.trainer import RankingTrainer


class SftItem(NamedTuple):
    """A tokenised pair and the tokens of its answer."""

    input_ids: list[int]
    completion: list[int]


class SftTrainer(RankingTrainer):
    """Supervised learning of grades; the items are pairs with answers."""

    title, items_setting = "sft", "pairs_per_step"

    def collate(self, items: Sequence[SftItem]) -> dict[str, Any]:
        """Pairs and the tokens of their answers."""
        return {"sequences": [item.input_ids for item in items], "completions": [item.completion for item in items]}

    def added_tokens(self, inputs: dict[str, Any]) -> int:
        """The longest answer of the step."""
        return max(map(len, inputs["completions"])) if self.backbone.family == "causal" else 0

    def read(self, model: Any, inputs: dict[str, Any], part: slice) -> Outputs:
        """(B,) mean log-probability of the tokens of each answer."""
        sequences, completions = inputs["sequences"][part], inputs["completions"][part]
        if self.backbone.family == "causal":
            rows, mask = completion_log_probs(model, sequences, [[completion] for completion in completions])  # (B, L)
            return {"log_prob": rows.sum(-1) / mask.sum(-1)}
        logits = read_slots(model, self.pair_tokenizer, sequences)
        answers = torch.tensor([first for first, *_ in completions], device=logits.device)
        return {"log_prob": -F.cross_entropy(logits, answers, reduction="none")}

    def loss(self, outputs: Outputs, inputs: dict[str, Any], whole: dict[str, Any]) -> torch.Tensor:
        """Mean over pairs of the mean over the answer's tokens of -log p."""
        return -outputs["log_prob"].sum() / len(whole["sequences"])
