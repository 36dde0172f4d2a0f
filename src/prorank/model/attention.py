"""Attention inside the spans of a pack, through the attention interface of transformers.

The model's own layers run unchanged; only the attention function between them knows the spans. This module knows
tensors and packs, nothing of prompts, queries, answers or scores.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache, lru_cache, partial
from typing import Any

import torch
from torch.nn import functional as F

from prorank.model.last_layer import last_layer_at
from prorank.model.packing import Pack

logger = logging.getLogger(__name__)
ATTENTION = "prorank_packed"  # our name among transformers' attention functions
QUERY_BLOCK = 512  # queries that share a mask
WRITTEN_OUT = 128  # queries whose attention weights exist at once where attention is written out
VARLEN_ARGUMENTS = {"scale", "window_size"}  # what packed attention on a GPU needs of torch


@lru_cache(maxsize=8)
def _mask(tokens: int, prefix: int, causal: bool, window: int | None, device: torch.device) -> torch.Tensor:
    """(tokens, prefix + tokens), True where a token may look; the last tokens of a row are the span itself."""
    query = torch.arange(tokens, device=device)[:, None] + prefix
    key = torch.arange(prefix + tokens, device=device)[None, :]
    allowed = key <= query if causal else torch.ones(tokens, prefix + tokens, dtype=torch.bool, device=device)
    if window is None:
        return allowed
    return allowed & ((query - key).abs() < window)  # the window counts the token itself


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    pack: Pack,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    slots: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention inside the spans of a pack; the signature is transformers' attention interface.

    Args:
        query: (1, Hq, N, D).
        key, value: (1, Hkv, N, D).
        pack: the row's spans.
        slots: (B,) positions whose result is wanted; None wants all.

    Returns:
        ((1, N, Hq, D), None).

    Raises:
        NotImplementedError: soft-capped scores or attention sinks, which torch's kernels do not offer.
    """
    if softcap is not None or s_aux is not None:
        raise NotImplementedError("packed attention has no soft cap and no sinks")
    query, key = query.to(value), key.to(value)  # rotary embeddings leave them in float32 under autocast
    if value.is_cuda and value.dtype in (torch.bfloat16, torch.float16) and not dropout and varlen_kernel() is not None:
        return _varlen_attention(query, key, value, pack, scaling, sliding_window), None
    lengths = [span.stop - span.start for span in pack.spans]
    own = zip(*(states.split(lengths, 2) for states in (query, key, value)))  # one cut: slices cost N each backward
    reach = max(prefix + longest for prefix, longest in pack.longest_spans.items())
    few = slots is not None and len(slots) <= 2 * len(pack.spans)  # else, as in training of reasoning, one call is less
    if slots is not None and few and (sliding_window is None or reach <= sliding_window):
        return _attention_at(slots, own, key, value, pack, dropout, scaling), None
    pieces = []
    for (start, stop, prefix_start, prefix_stop), (queries, keys, values) in zip(pack.spans, own):
        tokens, prefix = stop - start, prefix_stop - prefix_start
        keys, values = _behind(prefix_start, prefix_stop, (key, keys), (value, values))
        windowed = sliding_window is not None and prefix + tokens > sliding_window
        masked = (prefix and pack.causal and tokens > 1) or windowed
        block = QUERY_BLOCK if masked and pack.causal else tokens  # what lies behind a block is not even looked at
        for first in range(0, tokens, block):
            last = min(first + block, tokens)
            seen = prefix + (last if masked and pack.causal else tokens)
            mask = None
            if masked:
                window = sliding_window if windowed else None
                mask = _mask(pack.longest_spans[prefix], prefix, pack.causal, window, query.device)[first:last, :seen]
            whole = first == 0 and last == tokens and seen == prefix + tokens
            pieces.append(
                _attention(
                    *(
                        (queries, keys, values)
                        if whole
                        else (queries[:, :, first:last], keys[:, :, :seen], values[:, :, :seen])
                    ),
                    mask,
                    dropout,
                    pack.causal,
                    scaling,
                )
            )
    return torch.cat(pieces, 2).transpose(1, 2).contiguous(), None


def _behind(start: int, stop: int, *states: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """A span's own states behind those of its prefix, for each (of the whole row, of the span)."""
    if start == stop:
        return tuple(own for _, own in states)
    return tuple(torch.cat([whole[:, :, start:stop], own], 2) for whole, own in states)


def _attention_at(
    slots: torch.Tensor,
    own: Iterable[tuple[torch.Tensor, ...]],
    key: torch.Tensor,
    value: torch.Tensor,
    pack: Pack,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    """Attention of the slots alone, zeros elsewhere: (1, N, Hq, D); `own` holds queries, keys, values by span."""
    rising = slots.unique()
    places: list[int] = rising.tolist()
    pieces: list[torch.Tensor] = []
    for (start, stop, prefix_start, prefix_stop), (queries, keys, values) in zip(pack.spans, own):
        keys, values = _behind(prefix_start, prefix_stop, (key, keys), (value, values))
        while len(pieces) < len(places) and places[len(pieces)] < stop:
            place = places[len(pieces)] - start
            seen = prefix_stop - prefix_start + place + 1 if pack.causal else keys.shape[2]
            one = queries[:, :, place : place + 1], keys[:, :, :seen], values[:, :, :seen]
            pieces.append(_attention(*one, None, dropout, False, scaling))
    found = torch.cat(pieces, 2).transpose(1, 2)  # (1, B, Hq, D)
    whole = found.new_zeros(1, key.shape[2], *found.shape[2:])
    whole[:, rising] = found
    return whole


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    causal: bool,
    scaling: float | None,
) -> torch.Tensor:
    """Attention of one span, (1, H, T, D); the T queries are the last of the S keys.

    On CPUs the gradient of torch's bf16 kernel takes twice as long as that of the formula written out, and more.
    """
    slow = query.requires_grad and query.device.type == "cpu" and query.dtype == torch.bfloat16
    if slow and not dropout:
        if causal and mask is None and query.shape[2] > 1:
            mask = _mask(query.shape[2], key.shape[2] - query.shape[2], True, None, query.device)
        found: torch.Tensor = WrittenOut.apply(query, key, value, mask, causal, scaling or query.shape[-1] ** -0.5)
        return found
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=causal and mask is None and query.shape[2] == key.shape[2],
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


class WrittenOut(torch.autograd.Function):
    """softmax(q k' scale) v for (1, H, T, D) with its gradient, some queries at a time.

    The weights are computed again for the gradient, not kept; keys that no query of a block sees are passed over.
    """

    @staticmethod
    def blocks(tokens: int, keys: int, causal: bool) -> Iterator[tuple[int, int, int]]:
        """First and last query of each block, of nearly equal sizes, and how many keys it sees.

        >>> list(WrittenOut.blocks(200, 210, causal=True))
        [(0, 100, 110), (100, 200, 210)]
        """
        size = -(-tokens // -(-tokens // WRITTEN_OUT))
        for first in range(0, tokens, size):
            last = min(first + size, tokens)
            yield first, last, keys - tokens + last if causal else keys

    @staticmethod
    def rows(states: torch.Tensor, first: int, last: int, groups: int) -> torch.Tensor:
        """(Hkv, group x block, D): the block's queries of (1, Hq, T, D) beside the keys that they share."""
        return states[0, :, first:last].reshape(groups, -1, states.shape[-1])

    @staticmethod
    def weighed(
        query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, scale: float, block: tuple[int, int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A block's scaled queries (Hkv, group x block, D) and its attention weights (Hkv, group x block, seen)."""
        first, last, seen = block
        rows = WrittenOut.rows(query, first, last, key.shape[1]) * scale
        logits = rows @ key[0, :, :seen].transpose(-1, -2)
        if mask is not None:
            logits.unflatten(1, (-1, last - first)).masked_fill_(~mask[first:last, :seen], -torch.inf)
        return rows, logits.softmax(-1)

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        causal: bool,
        scale: float,
    ) -> torch.Tensor:
        """(1, Hq, T, D)."""
        ctx.save_for_backward(query, key, value)
        ctx.mask, ctx.causal, ctx.scale = mask, causal, scale
        found = query.new_empty(*query.shape[:3], value.shape[-1])
        for first, last, seen in WrittenOut.blocks(query.shape[2], key.shape[2], causal):
            _, weights = WrittenOut.weighed(query, key, mask, scale, (first, last, seen))
            out = weights @ value[0, :, :seen]
            found[0, :, first:last] = out.view(-1, last - first, out.shape[-1])
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of queries, keys and values."""
        query, key, value = ctx.saved_tensors
        total = torch.promote_types(query.dtype, torch.float32)
        of_query = torch.empty_like(query)
        of_key, of_value = (torch.zeros_like(states[0], dtype=total) for states in (key, value))
        for first, last, seen in WrittenOut.blocks(query.shape[2], key.shape[2], ctx.causal):
            rows, weights = WrittenOut.weighed(query, key, ctx.mask, ctx.scale, (first, last, seen))
            gradient = WrittenOut.rows(gradients[0], first, last, key.shape[1])
            of_weights = gradient @ value[0, :, :seen].transpose(-1, -2)
            of_logits = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            of_key[:, :seen] += of_logits.transpose(-1, -2) @ rows
            of_value[:, :seen] += weights.transpose(-1, -2) @ gradient
            out = of_logits @ key[0, :, :seen] * ctx.scale
            of_query[0, :, first:last] = out.view(-1, last - first, out.shape[-1])
        return of_query, of_key.to(key.dtype)[None], of_value.to(value.dtype)[None], None, None, None


@cache
def varlen_kernel() -> Callable[..., Any] | None:
    """torch's variable-length attention, where it takes all that a pack needs; said once where it does not.

    torch has it since 2.10 and sliding windows since 2.11. Grouped queries and fixed sums (`num_splits`: the same
    whatever the neighbours) came with 2.12; 2.11 gets each key and value once for every query head of its group.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        known = set()
    else:
        known = set(inspect.signature(varlen_attn).parameters)
        if known >= VARLEN_ARGUMENTS | {"enable_gqa", "num_splits"}:
            return partial(varlen_attn, num_splits=1)
        if known >= VARLEN_ARGUMENTS:
            return partial(_ungrouped, varlen_attn)
    logger.warning(
        "torch %s lacks what packed attention on a GPU needs (%s): texts attend one by one, which is slower; "
        "install torch 2.11 or newer",
        torch.__version__,
        ", ".join(sorted(VARLEN_ARGUMENTS - known)),
    )
    return None


def _ungrouped(
    kernel: Callable[..., Any],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *lengths: Any,
    enable_gqa: bool,
    **others: Any,
) -> Any:
    """Call a kernel that has no grouped queries, with (N, Hkv, D) keys and values repeated to (N, Hq, D)."""
    if enable_gqa:
        group = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    return kernel(query, key, value, *lengths, **others)


def _varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    pack: Pack,
    scaling: float | None,
    sliding_window: int | None,
) -> torch.Tensor:
    """All spans in one call of torch's variable-length flash attention (CUDA)."""
    kernel = varlen_kernel()
    assert kernel is not None
    queries, keys, values = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # (N, H, D)
    if pack.key_index is not None:
        keys, values = keys.index_select(0, pack.key_index), values.index_select(0, pack.key_index)
    cumulative_queries, cumulative_keys, longest_query, longest_key = pack.bounds
    reach = -1 if sliding_window is None else sliding_window - 1  # -1: no limit
    window = (reach, 0 if pack.causal else reach)
    output: Any = kernel(
        queries.contiguous(),
        keys.contiguous(),
        values.contiguous(),
        cumulative_queries,
        cumulative_keys,
        longest_query,
        longest_key,
        scale=scaling,
        window_size=window,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output[None]  # (1, N, H, D)


def stay_uncompiled() -> None:
    """Keep attention over spans out of `torch.compile`, whose import takes a second: only who compiles calls this."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, torch.compiler.disable(packed_attention))


@contextmanager
def packed_layers(model: Any, slots: torch.Tensor | None) -> Iterator[None]:
    """Let `model` (a transformers base model) attend by packs, for as long as the context is open.

    This switches the model itself over: the caller keeps other threads from it meanwhile.

    Args:
        model: the layers, without a head.
        slots: (B,) positions whose last hidden state is wanted; the last layer then computes little elsewhere and the
            other positions' states are meaningless. None keeps them all.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if ATTENTION not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(ATTENTION, packed_attention)
    before = model.config._attn_implementation
    model.config._attn_implementation = ATTENTION
    try:
        with nullcontext() if slots is None else last_layer_at(model, slots):
            yield
    finally:
        model.config._attn_implementation = before
