"""Pairs -> scores: tokenise once, pack without padding, share each query's prefix, read the answer slot only.

Two paths give the same scores. Packed (`prorank.model.packing`): sequences stand end to end in one row and a query's
documents share what comes before them. Padded: batches of similar length, for models that packing does not suit
and for exported runtimes. Both hold a budget of tokens; a GPU that runs out of memory gets half of it and goes on.
Threads may share a model: they take turns, a forward pass each, and models do not wait for one another.

The engine knows a backend (`prorank.engine.backend`), a pair tokenizer and score formulas. It knows nothing of
training, collections or evaluation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from prorank.engine.backend import ScorerBackend
from prorank.engine.scores import whole_answers
from prorank.model.backbone import Backbone
from prorank.model.packing import Pack, plan_packs
from prorank.prompts.tokenization import Batch
from prorank.prompts.truncation import Truncation
from prorank.util.errors import CheckpointError

logger = logging.getLogger(__name__)
CPU_TOKENS = 2_048  # about what the caches hold; measured best for models of 22M and 0.5B parameters
GPU_TOKENS = 65_536
GPU_SHARE = 0.5  # of the free GPU memory may go to activations


class Tokenizer(Protocol):
    """What the engine asks of a pair tokenizer (`PairTokenizer`, `CrossEncoderTokenizer`)."""

    slot_from_end: int
    stem: int | None
    answer_tokens: list[list[int]]

    def encode(self, pairs: Sequence[tuple[str, str]]) -> tuple[list[list[int]], Truncation]:
        """Token ids of pairs, and what was cut."""

    def type_ids(self, sequences: Sequence[list[int]]) -> list[list[int]] | None:
        """Token types of sequences, or None for models without them."""

    def collate(self, sequences: Sequence[list[int]]) -> Batch:
        """Pad sequences on the right."""


class ScoredPairs(NamedTuple):
    """Scores and what is to be said about them.

    Attributes:
        scores: (N,) float32, in input order.
        truncation: what was cut to fit.
        malformed: generated answers that held no grade.
        read: sequences that the model read; more than N where documents are read by passages.
    """

    scores: np.ndarray
    truncation: Truncation
    malformed: int = 0
    read: int = 0


def log_flaws(found: ScoredPairs, max_length: int, passages: bool) -> None:
    """Log a warning of what was cut to fit, and one of generated answers without a grade.

    Args:
        found: of `Reranker.score_detailed`.
        max_length: tokens of a pair.
        passages: whether documents were read by passages.
    """
    if found.malformed:
        logger.warning("%d of %d answers held no grade: these documents rank last", found.malformed, found.read)
    if found.truncation.pairs:
        logger.warning(
            "%d of %d %s were cut to %d tokens (longest text: %d tokens); not read: %s",
            found.truncation.pairs,
            found.read,
            "passages" if passages else "pairs",
            max_length,
            found.truncation.longest,
            found.truncation.not_read,
        )


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


def token_budget(backend: ScorerBackend) -> int:
    """Tokens of one forward pass: the backend's own context, else by device and free GPU memory.

    A token's activations are taken as 16 hidden rows and 4 feed-forward rows of the compute type.
    """
    if backend.token_budget is not None:
        return backend.token_budget
    if backend.device.type != "cuda":
        return CPU_TOKENS
    config = backend.config
    width = 16 * config.hidden_size + 4 * (getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    free, _ = torch.cuda.mem_get_info(backend.device)
    return int(max(1_024, min(GPU_TOKENS, GPU_SHARE * free / (width * backend.compute_dtype.itemsize))))


def _plan(
    backend: ScorerBackend,
    tokenizer: Tokenizer,
    sequences: Sequence[list[int]],
    groups: Sequence[int],
    budget: int,
    slots: int,
) -> Iterator[tuple[list[int], Pack | Batch]]:
    """Forward passes that together cover all sequences, each with the places of its sequences."""
    if backend.supports_packing:
        for pack in plan_packs(
            sequences,
            groups,
            budget,
            causal=backend.family == "causal",
            slot_from_end=tokenizer.slot_from_end,
            slots=slots,
            type_ids=tokenizer.type_ids(sequences),
            position_offset=backend.position_offset,
        ):
            yield pack.sequences, pack
    else:
        for indices in length_batches([len(ids) for ids in sequences], budget):
            yield indices, tokenizer.collate([sequences[i] for i in indices])


def _run(backend: ScorerBackend, work: Pack | Batch, rows: Sequence[int] | None) -> torch.Tensor:
    """Logits (B, K) on the CPU of one forward pass."""
    return backend.read(work, rows).cpu()


def _run_both(backbone: Backbone, work: Pack | Batch, tokenizer: Tokenizer, stem: int) -> torch.Tensor:
    """Logits (B, K) of whole answers: read before the stem and behind it, in one forward pass."""
    if isinstance(work, Pack):
        hidden = backbone.packed_hidden(work.to(backbone.device))
        hidden = hidden.view(-1, 2, hidden.shape[-1])  # (B, 2, H)
    else:
        batch = work.to(backbone.device)
        both = torch.stack([batch.slot - 1, batch.slot], -1)
        hidden = backbone.slot_hidden(batch.input_ids, batch.attention_mask, both, batch.type_ids)
    longer = [place for place, tokens in enumerate(tokenizer.answer_tokens) if len(tokens) > 1]
    first = backbone.project(hidden[:, 0], [tokens[0] for tokens in tokenizer.answer_tokens])  # (B, K)
    after = backbone.project(hidden[:, 1]).log_softmax(-1)  # (B, V)
    after = after[:, [tokenizer.answer_tokens[place][1] for place in longer]]  # (B, L)
    return whole_answers(first, after, stem, longer).cpu()


def slot_logits(
    backend: ScorerBackend,
    tokenizer: Tokenizer,
    sequences: Sequence[list[int]],
    rows: Sequence[int] | None,
    *,
    groups: Sequence[int] | None = None,
    progress: str | None = None,
) -> torch.Tensor:
    """Logits at the answer slot of tokenised pairs.

    Args:
        sequences: token ids from the tokenizer's `encode`.
        rows: token ids wanted, or None for the whole vocabulary.
        groups: a number for each sequence; those of equal number may share a prefix. None: nothing is shared.
        progress: text of a progress bar, or None.

    Returns:
        (N, K) float32 on the CPU, in input order.

    Raises:
        torch.OutOfMemoryError: a single sequence does not fit the GPU.
    """
    if not sequences:
        return torch.empty(0, len(rows) if rows is not None else len(backend.tokenizer))
    return _all(backend, tokenizer, sequences, lambda work: _run(backend, work, rows), 1, groups, progress)


def slot_states(
    backbone: Backbone,
    tokenizer: Tokenizer,
    sequences: Sequence[list[int]],
    *,
    groups: Sequence[int] | None = None,
    progress: str | None = None,
) -> torch.Tensor:
    """Hidden states at the answer slot, as the vocabulary matrix gets them (N, H), float32 on the CPU, in input order.

    Args:
        sequences: at least one.
        groups, progress: see `slot_logits`.
    """

    def states(work: Pack | Batch) -> torch.Tensor:
        if isinstance(work, Pack):
            return backbone.packed_hidden(work.to(backbone.device)).cpu()
        batch = work.to(backbone.device)
        return backbone.slot_hidden(batch.input_ids, batch.attention_mask, batch.slot, batch.type_ids).cpu()

    return _all(backbone, tokenizer, sequences, states, 1, groups, progress)


def answer_logits(
    backend: ScorerBackend,
    tokenizer: Tokenizer,
    sequences: Sequence[list[int]],
    *,
    groups: Sequence[int] | None = None,
    progress: str | None = None,
) -> torch.Tensor:
    """Logits (N, K) of the answers of tokenised pairs, whole answers where some take two tokens.

    Args:
        sequences, groups, progress: see `slot_logits`.

    Raises:
        CheckpointError: an answer takes two tokens, and the backend is an export.
    """
    if tokenizer.stem is None:
        return slot_logits(
            backend, tokenizer, sequences, [t[0] for t in tokenizer.answer_tokens], groups=groups, progress=progress
        )
    if not isinstance(backend, Backbone):
        raise CheckpointError("an export reads answers of one token each", hint="use the checkpoint it was made from")
    stem, model = tokenizer.stem, backend
    if not sequences:
        return torch.empty(0, len(tokenizer.answer_tokens))
    longer = [ids + tokenizer.answer_tokens[stem] for ids in sequences]
    return _all(backend, tokenizer, longer, lambda work: _run_both(model, work, tokenizer, stem), 2, groups, progress)


def _shrink(backend: ScorerBackend, budget: int) -> None:
    """Let the backend go on with a smaller budget, or one still smaller that another thread has found meanwhile."""
    with backend.lock:
        known = backend.token_budget
        backend.token_budget = budget if known is None else min(known, budget)
        logger.warning("out of GPU memory: going on with %d tokens per batch", backend.token_budget)
    if backend.device.type == "cuda":
        torch.cuda.empty_cache()


@torch.inference_mode()
def _all(
    backend: ScorerBackend,
    tokenizer: Tokenizer,
    sequences: Sequence[list[int]],
    run: Callable[[Pack | Batch], torch.Tensor],
    slots: int,
    groups: Sequence[int] | None,
    progress: str | None,
) -> torch.Tensor:
    """What `run` gives for every sequence, in input order; batches shrink where the GPU's memory does not suffice."""
    groups = groups if groups is not None else range(len(sequences))
    found: dict[int, torch.Tensor] = {}
    with Progress(disable=progress is None, transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task(progress or "", total=len(sequences))
        while len(found) < len(sequences):
            left = [i for i in range(len(sequences)) if i not in found]
            budget = token_budget(backend)
            for places, work in _plan(
                backend, tokenizer, [sequences[i] for i in left], [groups[i] for i in left], budget, slots
            ):
                try:
                    with backend.inference():
                        logits = run(work)
                except torch.OutOfMemoryError:
                    if len(places) == 1:
                        raise  # one sequence alone: a smaller budget cannot help
                    break
                found.update(zip((left[i] for i in places), logits))
                bar.advance(task, len(places))
            else:
                break
            _shrink(backend, max(1, min(budget, work.input_ids.numel()) // 2))
    return torch.stack([found[i] for i in range(len(sequences))])


def query_numbers(pairs: Sequence[tuple[str, str]]) -> list[int]:
    """Number of each (query, document) pair's query: pairs of one query share the reading of its prefix.

    >>> query_numbers([("a", "x"), ("b", "y"), ("a", "z")])
    [0, 1, 0]
    """
    numbers = {query: number for number, query in enumerate(dict.fromkeys(query for query, _ in pairs))}
    return [numbers[query] for query, _ in pairs]
