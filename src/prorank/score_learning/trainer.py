"""Stage 2, fine-grained score learning: the logit difference itself becomes the ranking score.

No layer is added: the gradient flows through the two answer rows into the backbone (or its LoRA adapters).
Labels, a teacher's scores or both train candidate lists; the best checkpoint by dev NDCG@10 is kept. This
module knows tokenised lists and loss functions; where the lists come from is the matter of `lists`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from prorank.engine.scores import SCORES
from prorank.score_learning.losses import LABEL_LOSSES, TEACHER_LOSSES, terms_of
from prorank.training.lists import ListItem
from prorank.training.parts import Outputs
from prorank.training.reading import read_slots
from prorank.training.trainer import RankingTrainer, TrainContext
from prorank.types import ScoreKind


class ScoreTrainer(RankingTrainer):
    """Score learning over candidate lists of one size.

    Args:
        context: its items are the lists in training order.
        kind: score formula that is trained.
    """

    title, items_setting = "score learning", "queries_per_step"

    def __init__(self, context: TrainContext, kind: ScoreKind) -> None:
        self.score = SCORES[kind]
        super().__init__(context)

    def collate(self, items: Sequence[ListItem]) -> dict[str, Any]:
        """All lists of a step, pair after pair, with labels (Q, N) and teacher scores (Q, N)."""
        device = self.backbone.device
        sizes = [len(item.sequences) for item in items]
        inputs = {
            "sequences": [ids for item in items for ids in item.sequences],
            "sizes": sizes,
            "groups": [number for number, size in enumerate(sizes) for _ in range(size)],
            "label": torch.tensor([item.labels for item in items], device=device),
        }
        if self.settings.teacher is not None:
            inputs["teacher"] = torch.tensor([item.teacher for item in items], device=device)
        return inputs

    def read(self, model: Any, inputs: dict[str, Any], part: slice) -> Outputs:
        """Answer logits (N, K); a query's documents share what stands before them."""
        sequences, groups = inputs["sequences"][part], inputs["groups"][part]
        return {"logits": read_slots(model, self.pair_tokenizer, sequences, self.pair_tokenizer.answer_ids, groups)}

    def loss(self, outputs: Outputs, inputs: dict[str, Any], whole: dict[str, Any]) -> torch.Tensor:
        """label_weight * loss on grades + teacher weight * distillation loss."""
        settings, label, every = self.settings, inputs["label"], whole["label"]
        scores = self.score(outputs["logits"]).view_as(label)  # (Q, N)
        share = terms_of(settings.loss, label) / max(1, terms_of(settings.loss, every))
        loss = settings.label_weight * LABEL_LOSSES[settings.loss](scores, label) * share
        teacher = settings.teacher
        if teacher is not None:
            target = inputs["teacher"] / teacher.temperature
            share = len(label) / len(every)
            loss = loss + teacher.weight * TEACHER_LOSSES[teacher.loss](scores, target) * share
        return loss
