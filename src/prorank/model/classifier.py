"""Somebody else's cross-encoder, here for comparison: its own classification head over the first token.

Knows no prompts and no training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from prorank.model.backbone import Backbone
from prorank.model.heads import classifier_head


class ClassifierBackbone(Backbone):
    """A cross-encoder with one or two labels; its slot is the first token."""

    def project(self, hidden: torch.Tensor, rows: Sequence[int] | None = None) -> torch.Tensor:
        """Hidden states (B, H) -> logits of its two labels (B, 2), whatever the rows; a lone logit stands against 0."""
        logits = classifier_head(self.core)(hidden.to(next(self.core.parameters()).dtype)).float()
        return F.pad(logits, (1, 0)) if logits.shape[1] == 1 else logits
