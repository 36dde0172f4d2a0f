"""Many sequences in one row without padding, and what they share computed once.

A pack is one long row of tokens, cut into spans. A span attends to itself and, where it continues a shared prefix,
to that prefix; positions go on from the prefix. So the query that all its documents share is computed once, and a
long document costs its neighbours nothing. This works through the attention interface of transformers: the model's
own layers run unchanged, only the attention function between them knows the spans.

This module knows tokens, positions and attention. It knows nothing of prompts, queries, answers or scores.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

logger = logging.getLogger(__name__)
ATTENTION = "prorank_packed"  # our name among transformers' attention functions
MIN_SHARED = 8  # a shorter common prefix is not worth a mask
QUERY_BLOCK = 512  # queries that share a mask
MAX_MASK = 4_096  # spans longer than this do not use a shared prefix: its mask would grow with the square
WRITTEN_OUT = 256  # tokens of a span whose attention may be kept whole for the gradient
VARLEN_ARGUMENTS = {"scale", "window_size", "enable_gqa", "num_splits"}
TokenWise = Callable[[torch.Tensor], torch.Tensor]


class Span(NamedTuple):
    """Tokens `start:stop` of a pack, which also attend to the tokens `prefix_start:prefix_stop` before them."""

    start: int
    stop: int
    prefix_start: int = 0
    prefix_stop: int = 0


@dataclass
class Pack:
    """One row of tokens and how it is cut.

    Attributes:
        input_ids, position_ids: (1, N).
        spans: cover all N tokens, shared prefixes included.
        slots: (B,) where each sequence's answer slot lies; (B * S,) where S places of each are read.
        sequences: (B,) which of the planned sequences these are.
        causal: whether tokens attend to earlier tokens only.
        type_ids: (1, N) token types for models that have them, or None.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    spans: list[Span]
    slots: torch.Tensor
    sequences: list[int]
    causal: bool
    type_ids: torch.Tensor | None = None

    def to(self, device: torch.device) -> Pack:
        """The same pack on another device."""
        types = None if self.type_ids is None else self.type_ids.to(device)
        return Pack(
            self.input_ids.to(device),
            self.position_ids.to(device),
            self.spans,
            self.slots.to(device),
            self.sequences,
            self.causal,
            types,
        )

    @cached_property
    def longest_spans(self) -> dict[int, int]:
        """Longest span after a prefix of each length: its mask serves the shorter ones."""
        longest: dict[int, int] = {}
        for start, stop, prefix_start, prefix_stop in self.spans:
            prefix = prefix_stop - prefix_start
            longest[prefix] = max(longest.get(prefix, 0), stop - start)
        return longest

    @cached_property
    def key_index(self) -> torch.Tensor | None:
        """Where the keys of all spans lie, prefix first, span after span; None when they lie so already."""
        if all(span.prefix_start == span.prefix_stop for span in self.spans):
            return None
        pieces = [r for s in self.spans for r in (range(s.prefix_start, s.prefix_stop), range(s.start, s.stop))]
        index = [i for piece in pieces for i in piece]
        return torch.tensor(index, device=self.input_ids.device)

    @cached_property
    def bounds(self) -> tuple[torch.Tensor, torch.Tensor, int, int]:
        """Cumulative lengths (S+1,) of queries and keys, int32, and the longest of each."""
        queries = torch.tensor([0] + [s.stop - s.start for s in self.spans])
        keys = torch.tensor([0] + [s.stop - s.start + s.prefix_stop - s.prefix_start for s in self.spans])
        device = self.input_ids.device
        return (
            queries.cumsum(0).to(device, torch.int32),
            keys.cumsum(0).to(device, torch.int32),
            int(queries.max()),
            int(keys.max()),
        )


def shared_length(sequences: Sequence[list[int]], own: int = 1) -> int:
    """Length of the longest common prefix, at least `own` tokens short of the shortest sequence.

    The least and the greatest sequence in lexicographic order differ first where any two do.

    >>> shared_length([[1, 2, 3, 4], [1, 2, 5], [1, 2, 3]])
    2
    >>> shared_length([[1, 2], [1, 2]])
    1
    """
    low, high = min(sequences), max(sequences)
    limit = max(0, min(map(len, sequences)) - own)
    return next((i for i in range(limit) if low[i] != high[i]), limit)


def plan_packs(
    sequences: Sequence[list[int]],
    groups: Sequence[int],
    token_budget: int,
    *,
    causal: bool,
    slot_from_end: int = 1,
    slots: int = 1,
    type_ids: Sequence[list[int]] | None = None,
    position_offset: int = 0,
) -> Iterator[Pack]:
    """Cut sequences into packs of at most `token_budget` tokens.

    Causal sequences of one group share their common prefix where that saves tokens. A sequence longer than the
    budget makes a pack of its own.

    Args:
        sequences: token ids, each at least one token.
        groups: a number for each sequence; equal numbers may share a prefix (the query's, say).
        token_budget: tokens a pack may hold.
        causal: whether the model is causal; others share nothing.
        slot_from_end: the answer slot, counted from a sequence's end; 0 means its first token.
        slots: places read in each sequence, the slot and those right before it.
        type_ids: token types of each sequence, for models that have them.
        position_offset: what the model adds to positions (RoBERTa).

    Yields:
        Packs that together hold every sequence once.

    >>> query = list(range(10, 18))
    >>> pack, = plan_packs([[*query, 3], [*query, 4], [9]], [0, 0, 1], 64, causal=True)
    >>> pack.input_ids.tolist(), pack.position_ids.tolist()
    ([[10, 11, 12, 13, 14, 15, 16, 17, 3, 4, 9]], [[0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 0]])
    >>> pack.spans[2], pack.slots.tolist()
    (Span(start=9, stop=10, prefix_start=0, prefix_stop=8), [8, 9, 10])
    """
    members: dict[int, list[int]] = {}
    for i in sorted(range(len(sequences)), key=lambda i: -len(sequences[i])):  # longest first: memory peaks early
        members.setdefault(groups[i], []).append(i)
    builder = _Builder(sequences, type_ids, causal, slot_from_end, slots, position_offset)
    for indices in members.values():
        sharing = [i for i in indices if len(sequences[i]) <= MAX_MASK] if causal else []
        shared = shared_length([sequences[i] for i in sharing], slots) if len(sharing) > 1 else 0
        for i in indices:
            prefix = shared if shared >= MIN_SHARED and len(sequences[i]) <= MAX_MASK else 0
            if builder.length and builder.length + builder.cost(i, prefix) > token_budget:
                yield builder.finish()
            builder.add(i, prefix)
    if builder.length:
        yield builder.finish()


def unpadded(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> list[list[int]]:
    """Token ids of each row of a batch padded on the right, (B, T) and (B, T), without the padding.

    >>> unpadded(torch.tensor([[5, 6], [7, 0]]), torch.tensor([[1, 1], [1, 0]]))
    [[5, 6], [7]]
    """
    return [row[:length] for row, length in zip(input_ids.tolist(), attention_mask.sum(-1).tolist())]


def whole_pack(sequences: Sequence[list[int]], slots: Sequence[int], *, causal: bool, offset: int = 0) -> Pack:
    """All sequences in one pack in their order, nothing shared: what a training step computes.

    Args:
        sequences: token ids.
        slots: each sequence's answer slot, counted from its first token.
        causal: whether the model is causal.
        offset: what the model adds to positions (RoBERTa).

    >>> pack = whole_pack([[5, 6], [7]], [1, 0], causal=True)
    >>> pack.input_ids.tolist(), pack.slots.tolist()
    ([[5, 6, 7]], [1, 2])
    """
    spans, at = [], 0
    for ids in sequences:
        spans.append(Span(at, at + len(ids)))
        at += len(ids)
    return Pack(
        torch.tensor([[token for ids in sequences for token in ids]]),
        torch.tensor([[i + offset for ids in sequences for i in range(len(ids))]]),
        spans,
        torch.tensor([span.start + slot for span, slot in zip(spans, slots)]),
        list(range(len(sequences))),
        causal,
    )


class _Builder:
    """A pack in the making."""

    def __init__(
        self,
        sequences: Sequence[list[int]],
        type_ids: Sequence[list[int]] | None,
        causal: bool,
        slot_from_end: int,
        slots: int,
        position_offset: int,
    ) -> None:
        self.source, self.types, self.count = sequences, type_ids, slots
        self.causal, self.slot_from_end, self.offset = causal, slot_from_end, position_offset
        self._clear()

    def _clear(self) -> None:
        self.ids: list[int] = []
        self.type_ids: list[int] = []
        self.positions: list[int] = []
        self.spans: list[Span] = []
        self.slots: list[int] = []
        self.members: list[int] = []
        self.prefixes: dict[tuple[int, ...], tuple[int, int]] = {}

    @property
    def length(self) -> int:
        return len(self.ids)

    def _prefix(self, index: int, length: int) -> tuple[int, ...]:
        return tuple(self.source[index][:length])

    def cost(self, index: int, prefix: int) -> int:
        """Tokens that adding this sequence takes."""
        known = prefix and self._prefix(index, prefix) in self.prefixes
        return len(self.source[index]) - (prefix if known else 0)

    def _append(self, index: int, start: int, stop: int, prefix: tuple[int, int]) -> tuple[int, int]:
        at = self.length
        self.ids += self.source[index][start:stop]
        if self.types is not None:
            self.type_ids += self.types[index][start:stop]
        self.positions += range(start + self.offset, stop + self.offset)
        self.spans.append(Span(at, self.length, *prefix))
        return at, self.length

    def add(self, index: int, prefix: int) -> None:
        bounds = (0, 0)
        if prefix:
            key = self._prefix(index, prefix)
            if key not in self.prefixes:
                self.prefixes[key] = self._append(index, 0, prefix, (0, 0))
            bounds = self.prefixes[key]
        start, stop = self._append(index, prefix, len(self.source[index]), bounds)
        slot = stop - self.slot_from_end if self.slot_from_end else start
        self.slots += range(slot - self.count + 1, slot + 1)
        self.members.append(index)

    def finish(self) -> Pack:
        pack = Pack(
            torch.tensor([self.ids]),
            torch.tensor([self.positions]),
            self.spans,
            torch.tensor(self.slots),
            self.members,
            self.causal,
            torch.tensor([self.type_ids]) if self.types is not None else None,
        )
        self._clear()
        return pack


@lru_cache(maxsize=8)
def _mask(tokens: int, prefix: int, causal: bool, window: int | None, device: torch.device) -> torch.Tensor:
    """(tokens, prefix + tokens), True where a token may look; the last tokens of a row are the span itself."""
    query = torch.arange(tokens, device=device)[:, None] + prefix
    key = torch.arange(prefix + tokens, device=device)[None, :]
    allowed = key <= query if causal else torch.ones(tokens, prefix + tokens, dtype=torch.bool, device=device)
    if window is None:
        return allowed
    return allowed & ((query - key).abs() < window)  # the window counts the token itself


@torch.compiler.disable
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
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention inside the spans of a pack; the signature is transformers' attention interface.

    Args:
        query: (1, Hq, N, D).
        key, value: (1, Hkv, N, D).
        pack: the row's spans.

    Returns:
        ((1, N, Hq, D), None).

    Raises:
        NotImplementedError: soft-capped scores or attention sinks, which torch's kernels do not offer.
    """
    if softcap is not None or s_aux is not None:
        raise NotImplementedError("packed attention has no soft cap and no sinks")
    if value.is_cuda and value.dtype in (torch.bfloat16, torch.float16) and not dropout and varlen_kernel() is not None:
        return _varlen_attention(query.to(value), key.to(value), value, pack, scaling, sliding_window), None
    lengths = [span.stop - span.start for span in pack.spans]
    own = zip(*(states.split(lengths, 2) for states in (query, key, value)))  # one cut: slices cost N each backward
    pieces = []
    for (start, stop, prefix_start, prefix_stop), (queries, keys, values) in zip(pack.spans, own):
        tokens, prefix = stop - start, prefix_stop - prefix_start
        if prefix:
            keys = torch.cat([key[:, :, prefix_start:prefix_stop], keys], 2)
            values = torch.cat([value[:, :, prefix_start:prefix_stop], values], 2)
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
                    pack.causal and mask is None and not prefix,
                    scaling,
                )
            )
    return torch.cat(pieces, 2).transpose(1, 2).contiguous(), None


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    causal: bool,
    scaling: float | None,
) -> torch.Tensor:
    """Attention of one span, (1, H, T, D).

    On CPUs the gradient of torch's bf16 kernel takes several times as long as that of the formula written out.
    """
    tokens, seen = query.shape[2], key.shape[2]
    slow = query.requires_grad and query.device.type == "cpu" and query.dtype == torch.bfloat16
    if not slow or dropout or tokens * seen > WRITTEN_OUT**2:
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=causal,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
    group = query.shape[1] // key.shape[1]
    if group > 1:
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    logits = (query * (scaling or query.shape[-1] ** -0.5)) @ key.transpose(-1, -2)  # (1, H, T, S)
    if causal:
        mask = _mask(tokens, 0, True, None, query.device)
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return logits.softmax(-1, dtype=torch.float32).to(value.dtype) @ value


@cache
def varlen_kernel() -> Callable[..., Any] | None:
    """torch's variable-length attention, where it takes all that a pack needs; said once where it does not.

    torch has it since 2.10, sliding windows since 2.11, grouped queries and fixed sums (`num_splits`) since 2.12.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        known = set()
    else:
        known = set(inspect.signature(varlen_attn).parameters)
        if known >= VARLEN_ARGUMENTS:
            return varlen_attn
    logger.warning(
        "torch %s lacks what packed attention on a GPU needs (%s): texts attend one by one, which is slower; "
        "install torch 2.12 or newer",
        torch.__version__,
        ", ".join(sorted(VARLEN_ARGUMENTS - known)),
    )
    return None


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
        keys, values = keys[pack.key_index], values[pack.key_index]
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
        num_splits=1,  # the same sums whatever the neighbours
    )
    return output[None]  # (1, N, H, D)


@contextmanager
def packed_layers(model: Any, slots: torch.Tensor | None) -> Iterator[None]:
    """Let `model` (a transformers base model) attend by packs, for as long as the context is open.

    This switches the model itself over: the caller keeps other threads from it meanwhile.

    Args:
        model: the layers, without a head.
        slots: (B,) positions whose last hidden state is wanted; the last layer's feed-forward part then runs there
            only and the other positions' states are meaningless. None keeps them all.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, packed_attention)
    before = model.config._attn_implementation
    model.config._attn_implementation = ATTENTION
    try:
        with nullcontext() if slots is None else narrowed_feed_forward(model, partial(_only_at, slots)):
            yield
    finally:
        model.config._attn_implementation = before


@contextmanager
def narrowed_feed_forward(model: Any, narrow: Callable[[TokenWise], TokenWise]) -> Iterator[None]:
    """Put `narrow` of it in the place of the last layer's feed-forward function, for as long as the context is open.

    Args:
        model: a transformers base model; one whose feed-forward part has no known place stays as it is.
        narrow: gives a function that computes less.
    """
    place = _last_feed_forward(model)
    if place is None:
        yield
        return
    setattr(*place, narrow(getattr(*place)))
    try:
        yield
    finally:
        delattr(*place)  # the class's own method shows again


def _only_at(slots: torch.Tensor, function: TokenWise) -> TokenWise:
    """A token-wise function that runs at the slots and gives zeros elsewhere; (1, N, H) -> (1, N, H)."""

    def at_slots(hidden: torch.Tensor) -> torch.Tensor:
        kept = torch.zeros_like(hidden)
        kept[:, slots] = function(hidden[:, slots]).to(kept.dtype)
        return kept

    return at_slots


def layers_of(model: Any) -> Any:
    """The layers of a transformers base model, or an empty list where their place is not known."""
    for path in ("layers", "encoder.layer", "h"):
        layers: Any = model
        for name in path.split("."):
            layers = getattr(layers, name, None)
        if layers is not None:
            return layers
    return []


def _last_feed_forward(model: Any) -> tuple[Any, str] | None:
    """Owner and name of the token-wise feed-forward function of the last layer, where its place is known."""
    layers = layers_of(model)
    if len(layers) and hasattr(layers[-1], "feed_forward_chunk"):
        return layers[-1], "feed_forward_chunk"
    if len(layers) and hasattr(layers[-1], "mlp"):
        return layers[-1].mlp, "forward"
    return None
