"""Excerpts: a document's beginning and the stretch of it where a query's rarer tokens stand, found without a model.

Knows tokenizers and texts, so any language that a tokenizer reads; nothing of scores. An excerpt depends on its query
and document alone: on no other document of a list.
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


def rarity(hits: Sequence[Hit], length: int) -> dict[int, float]:
    """Weight of each token that is hit: log(1 + length / (1 + times it stands there)); common words say little.

    >>> {token: round(weight, 2) for token, weight in rarity([Hit(0, 7), Hit(4, 7), Hit(5, 8)], 9).items()}
    {7: 1.39, 8: 1.7}
    """
    counts = Counter(hit.token for hit in hits)
    return {token: math.log(1 + length / (1 + count)) for token, count in counts.items()}


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
    inside: Counter[int] = Counter()
    once = each = 0.0  # weight of the tokens inside, each token once and each of its places
    end = 0
    for hit in own:
        while end < len(own) and own[end].place < hit.place + width:
            token = own[end].token
            once += 0.0 if inside[token] else weights[token]
            each += weights[token]
            inside[token] += 1
            end += 1
        value = once + AGAIN * each
        if value > best + 1e-9:  # not by rounding
            best, found = value, hit.place - (width - (own[end - 1].place - hit.place + 1)) // 2
        inside[hit.token] -= 1
        each -= weights[hit.token]
        once -= 0.0 if inside[hit.token] else weights[hit.token]
    return min(max(found, first), length - width)


def excerpts(
    plain: PlainTokenizer, texts: Sequence[tuple[str, str]], tokens: int | Sequence[int] | None
) -> list[tuple[str, str]]:
    """(query, document) pairs with so many tokens of each document; a shorter one stays as it is.

    Args:
        plain: what counts the tokens.
        texts: the pairs.
        tokens: of each document, at least 1: one number for all, or one for each; None leaves all whole.
    """
    found = list(texts)
    if tokens is None:
        return found
    sizes = [tokens] * len(found) if isinstance(tokens, int) else tokens
    queries = list(dict.fromkeys(query for query, _ in texts))
    inside = plain.ids([f" {query}" for query in queries])  # many tokenizers have other tokens behind a space
    asked = {query: {*ids, *others} for query, ids, others in zip(queries, plain.ids(queries), inside)}
    encodings = plain.encodings([document for _, document in texts])
    for place, ((query, document), encoding, size) in enumerate(zip(texts, encodings, sizes)):
        if len(encoding.ids) > size:
            hits = [Hit(at, token) for at, token in enumerate(encoding.ids) if token in asked[query]]
            found[place] = query, _excerpt(document, encoding.offsets, hits, size)
    return found


def _excerpt(document: str, offsets: Sequence[tuple[int, int]], hits: Sequence[Hit], size: int) -> str:
    """The text of the beginning and of the richest stretch behind it."""
    beginning = size // BEGINNING
    width = size - beginning
    start = richest(hits, rarity(hits, len(offsets)), beginning, width, len(offsets))
    end = offsets[start + width - 1][1]
    if start == beginning:  # nothing lies between
        return document[:end]
    stretch = document[offsets[start][0] : end].lstrip()  # some tokenizers' words begin with their space
    return f"{document[: offsets[beginning - 1][1]]} {stretch}" if beginning else stretch
