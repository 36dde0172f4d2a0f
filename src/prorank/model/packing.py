"""Many sequences in one row without padding: the plan of a pack.

A pack is one long row of tokens, cut into spans. A span attends to itself and, where it continues a shared prefix, to
that prefix; positions go on from the prefix. So the query that all its documents share is computed once, and a long
document costs its neighbours nothing. This module knows token ids and positions; `prorank.model.attention` runs packs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch

MIN_SHARED = 8  # a shorter common prefix is not worth a mask
MAX_MASK = 4_096  # spans longer than this do not use a shared prefix: its mask would grow with the square


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
    prefixes = shared_prefixes(sequences, groups, causal=causal, own=slots)
    builder = _Builder(sequences, type_ids, causal, slot_from_end, slots, position_offset)
    for indices in members.values():
        for i in indices:
            if builder.length and builder.length + builder.cost(i, prefixes[i]) > token_budget:
                yield builder.finish()
            builder.add(i, prefixes[i])
    if builder.length:
        yield builder.finish()


def shared_prefixes(sequences: Sequence[list[int]], groups: Sequence[int], *, causal: bool, own: int = 1) -> list[int]:
    """How many tokens each sequence shares with all others of its group; 0 where sharing saves nothing.

    Args:
        sequences: token ids.
        groups: a number for each sequence.
        causal: whether the model is causal; others share nothing.
        own: tokens that every sequence keeps to itself.

    >>> query = list(range(10, 18))
    >>> shared_prefixes([[*query, 3], [*query, 4], [9]], [0, 0, 1], causal=True)
    [8, 8, 0]
    """
    found = [0] * len(sequences)
    members: dict[int, list[int]] = {}
    for i, ids in enumerate(sequences):
        if causal and len(ids) <= MAX_MASK:
            members.setdefault(groups[i], []).append(i)
    for indices in members.values():
        shared = shared_length([sequences[i] for i in indices], own) if len(indices) > 1 else 0
        for i in indices:
            found[i] = shared if shared >= MIN_SHARED else 0
    return found


def one_pack(
    sequences: Sequence[list[int]],
    groups: Sequence[int] | None = None,
    *,
    causal: bool,
    slot_from_end: int = 1,
    position_offset: int = 0,
) -> Pack:
    """All sequences in one pack in their order: what a training step reads.

    Args:
        sequences: token ids.
        groups: a number for each sequence; those of equal number share what they begin with. None: nothing is shared.
        causal, slot_from_end, position_offset: see `plan_packs`.

    >>> pack = one_pack([[5, 6], [7]], causal=True)
    >>> pack.input_ids.tolist(), pack.slots.tolist()
    ([[5, 6, 7]], [1, 2])
    """
    prefixes = [0] * len(sequences) if groups is None else shared_prefixes(sequences, groups, causal=causal)
    builder = _Builder(sequences, None, causal, slot_from_end, 1, position_offset)
    for i, prefix in enumerate(prefixes):
        builder.add(i, prefix)
    return builder.finish()


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
