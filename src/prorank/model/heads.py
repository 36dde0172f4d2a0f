"""What stands between a model's hidden states and its answer: transforms and classification heads by family.

Knows module names of transformers' models and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from prorank.util.errors import CheckpointError

Head = Callable[[torch.Tensor], torch.Tensor]


def masked_transform(model: Any) -> Head:
    """The part of a masked-language-model head between hidden state and vocabulary matrix: (B, H) -> (B, H).

    Raises:
        CheckpointError: a model of an unknown kind.
    """
    if hasattr(getattr(getattr(model, "cls", None), "predictions", None), "transform"):  # BERT
        return model.cls.predictions.transform
    if hasattr(model, "head") and hasattr(model, "decoder"):  # ModernBERT
        return model.head
    if hasattr(model, "lm_head") and hasattr(model.lm_head, "dense"):  # RoBERTa
        head = model.lm_head
        return lambda hidden: head.layer_norm(F.gelu(head.dense(hidden)))
    raise CheckpointError(
        f"the head of {type(model).__name__} is not known",
        hint="masked backbones may be of the BERT, RoBERTa or ModernBERT kind",
    )


def classifier_head(model: Any) -> Head:
    """The classification head over the first token's hidden state: (B, H) -> (B, labels).

    Raises:
        CheckpointError: a model of an unknown kind, or one that pools otherwise.
    """
    if getattr(model.base_model, "pooler", None) is not None:  # BERT
        return lambda hidden: model.classifier(model.base_model.pooler(hidden[:, None]))
    if hasattr(model, "head") and getattr(model.config, "classifier_pooling", None) == "cls":  # ModernBERT
        return lambda hidden: model.classifier(model.head(hidden))
    if hasattr(getattr(model, "classifier", None), "out_proj"):  # RoBERTa, ELECTRA: the head takes states itself
        return lambda hidden: model.classifier(hidden[:, None])
    raise CheckpointError(
        f"the head of {type(model).__name__} is not known",
        hint="cross-encoders may be of the BERT, RoBERTa, ELECTRA or ModernBERT (first-token) kind",
    )
