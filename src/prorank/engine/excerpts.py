"""Excerpts: a document's beginning and the stretch of it where a query's rarest tokens stand, found without a model.

Knows tokenizers and texts, so any language that a tokenizer reads; nothing of scores.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from prorank.prompts.plain import PlainTokenizer

BEGINNING = 4  # one in so many tokens of an excerpt is of the document's beginning: a title, a signature
AGAIN = 0.1  # of its weight that a token adds each time it stands in a stretch, beside the weight for being there


class Hit(NamedTuple):
    """A place in a document (in tokens) where a token of the query stands."""

    place: int
    token: int


def rarity(query: set[int], documents: Sequence[Sequence[int]]) -> dict[int, float]:
    """Weight of each token of a query: log(1 + N / (1 + documents that hold it)), so that common words say little.

    >>> {token: round(weight, 2) for token, weight in rarity({7, 8}, [[7, 8], [7], [7]]).items()}
    {7: 0.56, 8: 0.92}
    """
    holding = Counter(token for ids in documents for token in query.intersection(ids))
    return {token: math.log(1 + len(documents) / (1 + holding[token])) for token in sorted(query)}


def richest(hits: Sequence[Hit], weights: Mapping[int, float], first: int, width: int, length: int) -> int:
    """Where the stretch of a document begins that holds most of a query's weight, the hits in its middle.

    Each token counts once, and a tenth for every time it stands there. Of equal stretches the first is taken.

    Args:
        hits: rising places of the query's tokens.
        weights: of those tokens.
        first: place from which on a stretch may begin.
        width: tokens of a stretch.
        length: tokens of the document, at least `first + width`.

    >>> richest([Hit(3, 7), Hit(40, 7), Hit(43, 8)], {7: 1.0, 8: 1.0}, 0, 10, 60)
    37
    """
    own = hits[bisect_left(hits, first, key=lambda hit: hit.place) :]
    best, found = 0.0, first
    for number, hit in enumerate(own):
        inside = own[number : bisect_left(own, hit.place + width, key=lambda one: one.place)]
        once = sum(weights[token] for token in sorted({one.token for one in inside}))
        value = once + AGAIN * sum(weights[one.token] for one in inside)
        if value > best:
            best, found = value, hit.place - (width - (inside[-1].place - hit.place + 1)) // 2
    return min(max(found, first), length - width)


class Excerpts:
    """What may be read of the documents of pairs in place of all; the pairs of equal queries make a list.

    Args:
        plain: what counts the tokens.
        texts: (query, document) pairs.

    Attributes:
        lengths: (N,) tokens of each document.
    """

    def __init__(self, plain: PlainTokenizer, texts: Sequence[tuple[str, str]]) -> None:
        self.plain, self.texts = plain, texts
        documents = plain.ids([document for _, document in texts])
        self.lengths = [len(ids) for ids in documents]
        lists: dict[str, list[int]] = {}
        for place, (query, _) in enumerate(texts):
            lists.setdefault(query, []).append(place)
        self._weights: dict[str, dict[int, float]] = {}
        self._hits: list[list[Hit]] = [[] for _ in texts]
        for (query, places), asked in zip(lists.items(), map(set, plain.ids(list(lists)))):
            self._weights[query] = rarity(asked, [documents[place] for place in places])
            for place in places:
                self._hits[place] = [Hit(at, token) for at, token in enumerate(documents[place]) if token in asked]

    def pairs(self, places: Sequence[int], tokens: int | None) -> list[tuple[str, str]]:
        """Some of the pairs, so many tokens of each document; None leaves them whole."""
        found = [self.texts[place] for place in places]
        if tokens is None:
            return found
        cut = [number for number, place in enumerate(places) if self.lengths[place] > tokens]
        for number, encoding in zip(cut, self.plain.encodings([found[number][1] for number in cut])):
            query, document = found[number]
            found[number] = query, self._excerpt(places[number], document, encoding.offsets, tokens)
        return found

    def _excerpt(self, place: int, document: str, offsets: Sequence[tuple[int, int]], tokens: int) -> str:
        beginning = tokens // BEGINNING
        width, weights = tokens - beginning, self._weights[self.texts[place][0]]
        start = richest(self._hits[place], weights, beginning, width, len(offsets))
        stretch = document[offsets[start][0] : offsets[start + width - 1][1]]
        if start == beginning:  # nothing lies between
            return document[: offsets[start + width - 1][1]]
        return f"{document[: offsets[beginning - 1][1]]} {stretch}" if beginning else stretch
