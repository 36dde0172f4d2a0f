"""Long documents by passages: windows of the text, scored one by one, and one score out of them.

Knows texts, tokenizers and numbers; nothing of models or prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from prorank.plain import PlainTokenizer

Aggregation = Literal["max", "mean", "first"]


def split_passages(tokenizer: PlainTokenizer, text: str, size: int, overlap: int = 0) -> list[str]:
    """Consecutive windows of a text of at most `size` tokens each.

    Args:
        tokenizer: what counts the tokens.
        text: any text.
        size: tokens of a window, at least 1.
        overlap: tokens that a window repeats of the one before, less than `size`.

    Returns:
        Pieces of the text, in order; `[text]` if it fits.

    Raises:
        ValueError: size or overlap out of range.
    """
    if size < 1 or not 0 <= overlap < size:
        raise ValueError(f"passages need size >= 1 and 0 <= overlap < size, got size {size}, overlap {overlap}")
    offsets = tokenizer.offsets(text)
    if len(offsets) <= size:
        return [text]
    starts = range(0, max(1, len(offsets) - overlap), size - overlap)
    return [text[offsets[start][0] : offsets[min(start + size, len(offsets)) - 1][1]] for start in starts]


def aggregate(scores: np.ndarray, owners: Sequence[int], count: int, how: Aggregation) -> np.ndarray:
    """One score a document from the scores of its passages.

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
    result = np.empty(count, dtype=scores.dtype)
    owner = np.asarray(owners)
    for document in range(count):
        own = scores[owner == document]
        result[document] = {"max": own.max, "mean": own.mean, "first": lambda own=own: own[0]}[how]()
    return result
