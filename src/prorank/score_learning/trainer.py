"""Stage 2, fine-grained score learning: the logit difference itself becomes the ranking score.

No layer is added: the gradient flows through the two answer rows into the backbone (or its LoRA adapters).
Labels, a teacher's scores or both train candidate lists; the best checkpoint by dev NDCG@10 is kept. This
module knows tokenised lists and loss functions; where the lists come from is `groups`' matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from prorank.engine.scores import SCORES
from prorank.model.backbone import Backbone
from prorank.prompts.tokenization import PairTokenizer
from prorank.recipe.sections import ScoreLearningSection
from prorank.score_learning.losses import LABEL_LOSSES, TEACHER_LOSSES
from prorank.training.lists import ListItem
from prorank.training.trainer import RankingTrainer
from prorank.types import ScoreKind


class ScoreTrainer(RankingTrainer):
    """Score learning over candidate lists of one size.

    Args:
        kind: score formula that is trained.
        backbone, tokenizer, settings, items, dev_metrics, folder, seed, console, log_to: see `RankingTrainer`.
    """

    def __init__(
        self,
        kind: ScoreKind,
        backbone: Backbone,
        tokenizer: PairTokenizer,
        settings: ScoreLearningSection,
        items: Sequence[ListItem],
        dev_metrics: Callable[[], dict[str, float]],
        folder: Path,
        seed: int,
        console: Console,
        log_to: Sequence[str] = (),
    ) -> None:
        self.settings, self.score = settings, SCORES[kind]
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
            batch_items=settings.queries_per_step,
            title="score learning",
        )

    def collate(self, items: list[ListItem]) -> dict[str, Any]:
        """All lists of a step in one padded batch (Q * N rows) with labels (Q, N) and teacher scores."""
        batch = self.pair_tokenizer.collate([ids for item in items for ids in item.sequences])
        inputs = {**batch.tensors(), "label": torch.tensor([item.labels for item in items])}
        if self.settings.teacher is not None:
            inputs["teacher"] = torch.tensor([item.teacher for item in items])
        return inputs

    def loss_on(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """label_weight * loss on grades + teacher weight * distillation loss."""
        logits = model(
            inputs["input_ids"], inputs["attention_mask"], inputs["slot"], rows=self.pair_tokenizer.answer_ids
        )  # (Q * N, K)
        scores = self.score(logits).view_as(inputs["label"])  # (Q, N)
        loss = self.settings.label_weight * LABEL_LOSSES[self.settings.loss](scores, inputs["label"])
        teacher = self.settings.teacher
        if teacher is not None:
            target = inputs["teacher"] / teacher.temperature
            loss = loss + teacher.weight * TEACHER_LOSSES[teacher.loss](scores, target)
        return loss
