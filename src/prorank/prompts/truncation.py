"""What of a pair the model does not read, counted. Knows numbers only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Truncation(NamedTuple):
    """What was cut.

    Attributes:
        pairs: in which anything was cut.
        longest: tokens of the longest text met, query or document.
        queries, instructions, documents: pairs in which this part is not read to its end.
        unread: pairs in which nothing of the document is read.

    >>> Truncation(3, 700, queries=2, documents=2, unread=1).not_read
    'the end of the query in 2, the end of the document in 1, the whole document in 1'
    """

    pairs: int
    longest: int
    queries: int = 0
    instructions: int = 0
    documents: int = 0
    unread: int = 0

    @property
    def not_read(self) -> str:
        """Which parts the model does not see, and in how many pairs, in words."""
        counts = {
            "the end of the query": self.queries,
            "the end of the instruction": self.instructions,
            "the end of the document": self.documents - self.unread,
            "the whole document": self.unread,
        }
        return ", ".join(f"{part} in {count}" for part, count in counts.items() if count)


class Cut(NamedTuple):
    """Which parts of a pair are not read to their end; `unread`: nothing of the document is."""

    query: bool = False
    instruction: bool = False
    document: bool = False
    unread: bool = False


def all_cuts(parts: Sequence[Truncation]) -> Truncation:
    """What was cut in several lots of pairs together.

    >>> all_cuts([Truncation(1, 700, documents=1), Truncation(2, 600, queries=2)])
    Truncation(pairs=3, longest=700, queries=2, instructions=0, documents=1, unread=0)
    """
    pairs, longest, *others = zip(*parts)
    return Truncation(sum(pairs), max(longest), *map(sum, others))


def count_cuts(cuts: Sequence[Cut], longest: int) -> Truncation:
    """What was cut in all pairs.

    >>> count_cuts([Cut(), Cut(query=True), Cut(document=True, unread=True)], 99)
    Truncation(pairs=2, longest=99, queries=1, instructions=0, documents=1, unread=1)
    """
    return Truncation(sum(map(any, cuts)), longest, *map(sum, zip(*cuts)))
