"""Long documents by passages: windows of the text, scored one by one, and one score out of them; or by an excerpt.

Knows texts, tokenizers and numbers; nothing of models or prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from prorank.engine.excerpts import excerpts
from prorank.prompts.cross_encoder import CrossEncoderTokenizer
from prorank.prompts.plain import PlainTokenizer
from prorank.prompts.tokenization import PairTokenizer
from prorank.types import Aggregation


def split_passages(
    tokenizer: PlainTokenizer,
    text: str,
    size: int,
    overlap: int = 0,
    room: Callable[[str], int] | None = None,
    count: int | None = None,
) -> list[str]:
    """Consecutive windows of a text of at most `size` tokens each.

    A window that is read apart may have other tokens than inside the text, a word cut in two for instance. One that
    has too many of them ends earlier, and the next begins there.

    Args:
        tokenizer: what counts the tokens.
        text: any text.
        size: tokens of a window, at least 1.
        overlap: tokens that a window repeats of the one before, less than `size`.
        room: window -> tokens left free where it is read, below 0 if it is cut there; None counts up to `size`.
        count: windows wanted, from the first; None takes all.

    Returns:
        Pieces of the text, in order; `[text]` if it fits.

    Raises:
        ValueError: size or overlap out of range.
    """
    if size < 1 or not 0 <= overlap < size:
        raise ValueError(f"passages need size >= 1 and 0 <= overlap < size, got size {size}, overlap {overlap}")
    free = room or (lambda window: size - len(tokenizer.ids([window])[0]))
    offsets = tokenizer.offsets(text)
    if not offsets or (len(offsets) <= size and free(text) >= 0):
        return [text]
    windows: list[str] = []
    start = stop = 0
    while stop < len(offsets) and len(windows) != count:
        stop = min(start + size, len(offsets))
        while (lacking := -free(text[offsets[start][0] : offsets[stop - 1][1]])) > 0 and stop > start + 1:
            stop = max(start + 1, stop - lacking)
        windows.append(text[offsets[start][0] : offsets[stop - 1][1]])
        start = max(stop - overlap, start + 1)
    return windows


def passages_beside(
    tokenizer: PairTokenizer | CrossEncoderTokenizer, query: str, document: str, count: int | None = None
) -> list[str]:
    """A document in windows that fit beside a query, an eighth of each repeated in the next; the first ones only."""
    size = tokenizer.document_room(query)
    if size == 0:
        return [document]  # nothing of it can be read, which is reported
    return split_passages(tokenizer.plain, document, size, size // 8, tokenizer.room_beside(query), count)


def excerpts_beside(
    tokenizer: PairTokenizer | CrossEncoderTokenizer, texts: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    """(query, document) pairs with an excerpt in the place of each document that does not fit beside its query.

    An excerpt may have more tokens when it is read than inside its document; it is then cut out anew, shorter.
    """
    queries = dict.fromkeys(query for query, _ in texts)
    rooms = {query: (tokenizer.document_room(query), tokenizer.room_beside(query)) for query in queries}
    found, sizes = list(texts), {}
    for place, (query, document) in enumerate(texts):
        room, free = rooms[query]
        if room and free(document) < 0:
            sizes[place] = room
    while sizes:
        shortened = excerpts(tokenizer.plain, [texts[place] for place in sizes], list(sizes.values()))
        shorter = {}
        for (place, size), pair in zip(sizes.items(), shortened):
            found[place] = pair
            lacking = -rooms[pair[0]][1](pair[1])
            if lacking > 0 and size > 1:
                shorter[place] = max(1, size - lacking)
        sizes = shorter
    return found


def aggregate(scores: np.ndarray, owners: Sequence[int], count: int, how: Aggregation) -> np.ndarray:
    """One score per document from the scores of its passages.

    Args:
        scores: (P,) passage scores.
        owners: (P,) which document each passage is of, 0..count-1, each at least once.
        count: documents.
        how: `max` (MaxP), `mean`, or `first` (FirstP); Dai and Callan, SIGIR 2019.

    Returns:
        (count,) scores.

    >>> aggregate(np.array([1.0, 3.0, 2.0]), [0, 0, 1], 2, "max").tolist()
    [3.0, 2.0]
    >>> aggregate(np.array([1.0, 3.0, 2.0]), [0, 0, 1], 2, "mean").tolist()
    [2.0, 2.0]
    """
    owner = np.asarray(owners, dtype=np.intp)
    if how == "first":
        return scores[np.unique(owner, return_index=True)[1]]
    if how == "mean":
        sums = np.bincount(owner, weights=scores, minlength=count)
        return (sums / np.bincount(owner, minlength=count)).astype(scores.dtype)
    result = np.full(count, -np.inf, dtype=scores.dtype)
    np.maximum.at(result, owner, scores)
    return result
