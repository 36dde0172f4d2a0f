"""Other people's cross-encoders (a classification head over the first token) as pairs -> token ids.

Such a model reads `[CLS] query [SEP] document [SEP]` and gives one logit. It is here to be compared with; nothing
of prorank trains one. This module knows tokenizers only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from prorank.prompts.plain import PlainTokenizer
from prorank.prompts.tokenization import Batch, pad_right
from prorank.prompts.truncation import Cut, Truncation, count_cuts
from prorank.util.errors import PromptError


def longest_first(first: int, second: int, budget: int) -> tuple[int, int]:
    """Lengths left of two texts when tokens are taken from the longer one until both fit the budget.

    >>> longest_first(10, 400, 100), longest_first(300, 400, 101), longest_first(5, 6, 100)
    ((10, 90), (50, 51), (5, 6))
    """
    if first + second <= budget:
        return first, second
    shorter = min(first, second, budget // 2)
    return (shorter, budget - shorter) if first <= second else (budget - shorter, shorter)


@dataclass
class CrossEncoderTokenizer:
    """Tokenises pairs as sentence-transformers' CrossEncoder does, each text once.

    Args:
        tokenizer: a fast Hugging Face tokenizer with a template for pairs.
        max_length: tokens of a whole sequence.

    Raises:
        PromptError: a slow tokenizer, or no room for text.
    """

    tokenizer: Any
    max_length: int = 512
    answer_ids: list[int] = field(default_factory=list)  # the head has its own labels
    answer_tokens: list[list[int]] = field(default_factory=list)
    stem: int | None = None
    slot_from_end: int = 0  # the first token

    def __post_init__(self) -> None:
        self.plain = PlainTokenizer(self.tokenizer)
        a, b = self.plain.ids(["a", "b"])
        whole = self.tokenizer("a", "b")
        ids = list(whole["input_ids"])
        first = next(i for i in range(len(ids)) if ids[i : i + len(a)] == a)
        second = next(i for i in range(first + len(a), len(ids)) if ids[i : i + len(b)] == b)
        self.before, self.between, self.after = ids[:first], ids[first + len(a) : second], ids[second + len(b) :]
        self.typed = "token_type_ids" in whole and any(whole["token_type_ids"])
        self.budget = self.max_length - len(self.before) - len(self.between) - len(self.after)
        if self.budget < 2:
            raise PromptError(f"max_length {self.max_length} leaves no room for text")

    def encode(self, pairs: Sequence[tuple[str, str]]) -> tuple[list[list[int]], Truncation]:
        """Sequences of all pairs, in order; each distinct text is tokenised once."""
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        ids = dict(zip(texts, self.plain.ids(texts)))
        sequences, cuts = [], []
        for query, document in pairs:
            first, second = longest_first(len(ids[query]), len(ids[document]), self.budget)
            cuts.append(Cut(query=first < len(ids[query]), document=second < len(ids[document])))
            sequences.append(self.before + ids[query][:first] + self.between + ids[document][:second] + self.after)
        return sequences, count_cuts(cuts, max(map(len, ids.values()), default=0))

    def room_beside(self, query: str) -> Callable[[str], int]:
        """A function: document -> tokens left free by this query and it; below 0 where some of it are cut."""
        taken, half = len(self.plain.ids([query])[0]), self.budget // 2
        left = self.budget - taken if taken <= half else half
        return lambda text: left - len(self.plain.ids([text])[0])

    def document_room(self, query: str) -> int:
        """Tokens that are left for a document beside this query."""
        return self.room_beside(query)("")

    def type_ids(self, sequences: Sequence[list[int]]) -> list[list[int]] | None:
        """0 up to the end of what stands between the texts, then 1; None for tokenizers without types."""
        if not self.typed:
            return None
        separator = self.between[-1]
        return [[0] * (end := ids.index(separator) + 1) + [1] * (len(ids) - end) for ids in sequences]

    def collate(self, sequences: Sequence[list[int]]) -> Batch:
        """Pad sequences on the right to the longest one."""
        input_ids, lengths = pad_right(sequences, self.tokenizer.pad_token_id or 0)  # (B, T), (B,)
        attention_mask = (torch.arange(input_ids.shape[1])[None, :] < lengths[:, None]).long()  # (B, T)
        types = self.type_ids(sequences)
        typed = None if types is None else pad_right(types, 0)[0]
        return Batch(input_ids, attention_mask, torch.zeros_like(lengths), typed)
