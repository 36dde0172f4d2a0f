"""What a model says at the answer slots of tokenised pairs, with gradient: one pack, or one padded batch.

Knows models, pair tokenizers and token ids; nothing of losses, steps or trainers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from prorank.model.backbone import unwrapped
from prorank.model.packing import one_pack
from prorank.prompts.tokenization import PairTokenizer


def read_slots(
    model: Any,
    tokenizer: PairTokenizer,
    sequences: Sequence[list[int]],
    rows: Sequence[int] | None = None,
    groups: Sequence[int] | None = None,
) -> torch.Tensor:
    """Logits at the answer slots.

    Args:
        model: the backbone, or a wrapper of it for several processes.
        tokenizer: knows where the slot is.
        sequences: token ids of N pairs.
        rows: token ids whose logits are wanted; None for the whole vocabulary.
        groups: a number for each pair; pairs of equal number share what they begin with, as a query's documents do.

    Returns:
        (N, len(rows)) or (N, V), float32.
    """
    backbone = unwrapped(model)
    if not backbone.supports_packing:
        batch = tokenizer.collate(sequences).to(backbone.device)
        logits: torch.Tensor = model(batch.input_ids, batch.attention_mask, batch.slot, rows)
        return logits
    pack = one_pack(
        sequences,
        groups,
        causal=backbone.family == "causal",
        slot_from_end=tokenizer.slot_from_end,
        position_offset=backbone.position_offset,
    )
    return backbone.project(model(pack=pack.to(backbone.device)), rows)
