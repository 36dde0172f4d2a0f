"""Pairs -> scores: tokenise once, sort by length, batch by token budget, read the answer slot only.

The engine knows a backbone, a pair tokenizer and score formulas. It knows nothing of training, collections
or evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import Progress

from prorank.backbone import Backbone
from prorank.prompts import PairTokenizer, Truncation
from prorank.scores import SCORES, ScoreKind

CPU_TOKENS = 8_192  # padded tokens a batch
GPU_TOKENS = 65_536


class ScoredPairs(NamedTuple):
    """Scores in input order, float32 (N,), and what was cut."""

    scores: np.ndarray
    truncation: Truncation


def length_batches(lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Indices in batches of similar length: rows x longest row stays within the budget.

    A sequence longer than the budget makes a batch of its own.

    Args:
        lengths: tokens of each sequence.
        token_budget: padded tokens a batch may hold.

    >>> list(length_batches([5, 1, 4, 2], token_budget=8))
    [[0], [2, 3], [1]]
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):  # longest first: memory peaks early
        if batch and (len(batch) + 1) * lengths[batch[0]] > token_budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@torch.inference_mode()
def slot_logits(
    backbone: Backbone,
    tokenizer: PairTokenizer,
    sequences: Sequence[list[int]],
    rows: Sequence[int] | None,
    *,
    token_budget: int | None = None,
    progress: str | None = None,
) -> torch.Tensor:
    """Logits at the answer slot of tokenised pairs.

    Args:
        sequences: token ids from `PairTokenizer.encode`.
        rows: token ids wanted, or None for the whole vocabulary.
        token_budget: padded tokens a batch; None chooses by device.
        progress: text of a progress bar, or None.

    Returns:
        (N, K) float32 on the CPU, in input order.
    """
    if not sequences:
        return torch.empty(0, len(rows) if rows is not None else len(backbone.tokenizer))
    budget = token_budget or (GPU_TOKENS if backbone.device.type == "cuda" else CPU_TOKENS)
    training = backbone.training
    backbone.eval()
    pieces, order = [], []
    try:
        with Progress(disable=progress is None, transient=True) as bar:
            task = bar.add_task(progress or "", total=len(sequences))
            for indices in length_batches([len(ids) for ids in sequences], budget):
                batch = tokenizer.collate([sequences[i] for i in indices]).to(backbone.device)
                pieces.append(backbone(batch.input_ids, batch.attention_mask, batch.slot, rows).cpu())
                order += indices
                bar.advance(task, len(indices))
    finally:
        backbone.train(training)
    logits = torch.cat(pieces)
    result = torch.empty_like(logits)
    result[torch.tensor(order)] = logits
    return result


def score_pairs(
    backbone: Backbone,
    tokenizer: PairTokenizer,
    pairs: Sequence[tuple[str, str]],
    *,
    kind: ScoreKind = "logit_difference",
    token_budget: int | None = None,
    progress: str | None = None,
) -> ScoredPairs:
    """Ranking scores of (query, document) pairs.

    Args:
        pairs: texts.
        kind: score formula, see `prorank.scores`.
        token_budget: padded tokens a batch; None chooses by device.
        progress: text of a progress bar, or None.

    Returns:
        Scores in input order and what was cut.
    """
    sequences, truncation = tokenizer.encode(pairs)
    logits = slot_logits(
        backbone, tokenizer, sequences, tokenizer.answer_ids, token_budget=token_budget, progress=progress
    )
    return ScoredPairs(SCORES[kind](logits).numpy(), truncation)
