"""Query-document pairs -> token ids with an answer slot.

Each segment of a prompt is tokenised apart and the ids are joined, so a long query or document can be cut without
touching the template, and a text can never merge with or imitate a part of the template (special tokens written
inside a text stay plain text). The place where the answer is predicted is the *answer slot*: the last token of the
prompt for causal models, the mask token for masked ones.

This module knows tokenizers, but no models, no weights and no training.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from prorank.prompts.plain import PlainTokenizer
from prorank.prompts.prompt import ANSWER_TAG, Prompt
from prorank.prompts.truncation import Cut, Truncation, count_cuts
from prorank.types import Family
from prorank.util.errors import PromptError

QUERY_SHARE = 0.75  # a query may take this share of the free tokens (as the published ProRank code does)
MIN_FREE_TOKENS = 16  # a prompt that leaves less room than this for query and document is refused


@dataclass
class Batch:
    """Padded pairs. `input_ids`, `attention_mask`: (B, T) int64; `slot`: (B,) position of the answer slot;
    `type_ids`: (B, T) token types, for the models that have them."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    slot: torch.Tensor
    type_ids: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        types = None if self.type_ids is None else self.type_ids.to(device)
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.slot.to(device), types)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Name -> tensor of what there is."""
        return {name: value for name, value in vars(self).items() if value is not None}


def pad_right(sequences: Sequence[list[int]], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences padded to the longest one (B, T), and their lengths (B,).

    >>> pad_right([[5, 6], [7]], 0)
    (tensor([[5, 6],
            [7, 0]]), tensor([2, 1]))
    """
    lengths = torch.tensor([len(ids) for ids in sequences])
    longest = int(lengths.max())
    return torch.tensor([ids + [padding] * (longest - len(ids)) for ids in sequences]), lengths


@dataclass
class PairTokenizer:
    """Turns (query, document) into token ids with the answer slot.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        prompt: the template and answer set.
        family: `causal` (slot = last token) or `masked` (slot = the mask token).
        frame: (prefix, suffix) from `chat_frame`.
        max_length: tokens of a whole sequence, template included.
        instruction: optional line for the prompt's `{instruction}`.

    Raises:
        PromptError: an answer is not exactly one token after the prompt (for causal models it may also be another
            answer and one token more, as `10` after `1`), the template leaves no room under `max_length`, or a masked
            tokenizer has no mask token.
    """

    tokenizer: Any
    prompt: Prompt
    family: Family
    frame: tuple[str, str] = ("", "")
    max_length: int = 512
    instruction: str | None = None
    plain: PlainTokenizer = field(init=False, repr=False, compare=False)  # for users' texts
    fixed: list[list[int]] = field(init=False, repr=False)  # ids of each fixed segment; [] for query, document
    answer_tokens: list[list[int]] = field(init=False)
    stem: int | None = field(init=False)

    def __post_init__(self) -> None:
        self.plain = PlainTokenizer(self.tokenizer)
        self.prefix_ids = self._template_ids(self.frame[0])
        self.suffix_ids = self._template_ids(self.frame[1]) + self._template_ids(self.prompt.opening)
        start, end = self._boundary_ids()
        self.prefix_ids = start + self.prefix_ids
        if self.family == "masked":
            if self.tokenizer.mask_token_id is None:
                raise PromptError("a masked backbone needs a tokenizer with a mask token")
            self.suffix_ids = [*self.suffix_ids, self.tokenizer.mask_token_id, *end]
        self.slot_from_end = len(end) + 1 if self.family == "masked" else 1
        self.fixed = [
            [] if "{query}" in segment or "{document}" in segment else self._template_ids(segment)
            for segment in self.prompt.segments
        ]
        self.query_segment = next(s for s in self.prompt.segments if "{query}" in s)
        self.document_segment = next(s for s in self.prompt.segments if "{document}" in s)
        self.answer_tokens = [self._answer_tokens(answer) for answer in self.prompt.answers]
        if len(set(map(tuple, self.answer_tokens))) != len(self.answer_tokens):
            raise PromptError(
                f"the answers {list(self.prompt.answers)} share a token in this tokenizer",
                hint="choose answers that the tokenizer tells apart",
            )
        self.stem = self._stem()
        if self.prompt.thinks and self.family != "causal":
            raise PromptError(f"the prompt '{self.prompt.name}' asks for reasoning, which needs a causal model")
        self._check_room()

    def varied(self, *, instruction: str | None = None, max_length: int | None = None) -> PairTokenizer:
        """The same tokenizer with another instruction or length; this one stays as it is.

        Args:
            instruction: line for the prompt; None keeps this one's.
            max_length: tokens of a whole sequence; None keeps this one's.

        Raises:
            PromptError: no room for query and document is left.
        """
        found = copy.copy(self)  # nothing that is made of the prompt depends on these two
        found.instruction = self.instruction if instruction is None else instruction
        found.max_length = self.max_length if max_length is None else max_length
        found._check_room()
        return found

    @property
    def answer_ids(self) -> list[int]:
        """The one token of each answer.

        Raises:
            PromptError: an answer takes two tokens.
        """
        for answer, tokens in zip(self.prompt.answers, self.answer_tokens):
            if len(tokens) > 1:
                raise self._not_one_token(answer, tokens)
        return [tokens[0] for tokens in self.answer_tokens]

    def _stem(self) -> int | None:
        """Place of the answer that the answers of two tokens begin with, as `1` in `10`; None where all are one token.

        Raises:
            PromptError: answers that one look behind one answer cannot tell apart.
        """
        longer = [(a, t) for a, t in zip(self.prompt.answers, self.answer_tokens) if len(t) > 1]
        if not longer:
            return None
        answer, tokens = longer[0]
        fits = all(len(other) == 2 and other[0] == tokens[0] for _, other in longer)
        if self.family != "causal" or not fits or tokens[:1] not in self.answer_tokens:
            raise self._not_one_token(answer, tokens)
        return self.answer_tokens.index(tokens[:1])

    @property
    def budget(self) -> int:
        """Tokens free for query and document."""
        return self.max_length - self.template_length

    @property
    def template_length(self) -> int:
        """Tokens of the template alone."""
        return len(self.prefix_ids) + len(self.suffix_ids) + sum(map(len, self.fixed))

    @property
    def shared_start(self) -> list[int]:
        """The ids that every sequence begins with: what stands before the first segment with a query or document."""
        start = list(self.prefix_ids)
        for segment, fixed in zip(self.prompt.segments, self.fixed):
            if self.prompt.joined or segment in (self.query_segment, self.document_segment):
                break
            start += fixed
        return start

    @property
    def room(self) -> int:
        """Tokens between prefix and suffix."""
        return self.max_length - len(self.prefix_ids) - len(self.suffix_ids)

    def _check_room(self) -> None:
        labels = len(self.query_ids([""])[0]) + len(self.document_ids([""])[0])
        if self.budget < labels + MIN_FREE_TOKENS:
            raise PromptError(
                f"max_length {self.max_length} leaves no room: the prompt '{self.prompt.name}' itself takes "
                f"{self.template_length + labels} tokens",
                hint=f"use max_length >= {self.template_length + labels + MIN_FREE_TOKENS}",
            )
        before, _ = self.query_segment.split("{query}")
        lead = len(self._text_ids([self.prompt.fill(before + "{query}", "", "", self.instruction)])[0])
        if lead >= self.query_room and not self.prompt.joined:
            raise PromptError(
                f"no query would be read: max_length {self.max_length} leaves {self.query_room} tokens to instruction "
                f"and query, and what stands before the query takes {lead}",
                hint="shorten the instruction or raise max_length",
            )

    def _template_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def _boundary_ids(self) -> tuple[list[int], list[int]]:
        """Special tokens that this tokenizer puts around a plain text, e.g. [CLS] and [SEP], or <s>."""
        if self.frame != ("", ""):
            return [], []  # the chat template has written its own
        plain = self._template_ids("a")
        whole = list(self.tokenizer("a")["input_ids"])
        if len(whole) == len(plain):
            return [], []
        at = next(i for i in range(len(whole)) if whole[i : i + len(plain)] == plain)
        end = whole[at + len(plain) :]
        return whole[:at], end if self.family == "masked" else []  # a causal prompt must stay open

    def _text_ids(self, texts: Sequence[str]) -> list[list[int]]:
        return self.plain.ids(texts)

    def _answer_tokens(self, answer: str) -> list[int]:
        """The tokens that `answer` is after the prompt."""
        alone = self._text_ids([answer])[0]
        if self.family == "causal":
            opening = ANSWER_TAG if self.prompt.thinks else self.prompt.opening
            tail = opening or self.frame[1] or self.prompt.segments[-1]
            before, joined = self._template_ids(tail), self._template_ids(tail + answer)
            if joined[: len(before)] == before:  # a tokenizer that marks word starts has another token in mid-line
                alone = joined[len(before) :]
        if self.tokenizer.unk_token_id is not None and self.tokenizer.unk_token_id in alone:
            raise self._not_one_token(answer, alone)
        return alone

    def _not_one_token(self, answer: str, tokens: list[int]) -> PromptError:
        pieces = self.tokenizer.convert_ids_to_tokens(tokens)
        return PromptError(
            f"the answer '{answer}' of prompt '{self.prompt.name}' is not one token after the prompt: {pieces}",
            hint="choose answers that are single tokens of this tokenizer",
        )

    def query_ids(self, queries: Sequence[str]) -> list[list[int]]:
        """Uncut ids of each query's segment."""
        return self._text_ids([self.prompt.fill(self.query_segment, query, "", self.instruction) for query in queries])

    def document_ids(self, documents: Sequence[str]) -> list[list[int]]:
        """Uncut ids of each document's segment."""
        return self._text_ids([self.prompt.fill(self.document_segment, "", document) for document in documents])

    @property
    def query_room(self) -> int:
        """Tokens that the query's segment may take."""
        return int(self.budget * QUERY_SHARE)

    def room_beside(self, query: str) -> Callable[[str], int]:
        """A function: document -> tokens left free by this query and it; below 0 as many of it are cut."""
        if self.prompt.joined:
            return lambda text: self.room - len(self._text_ids([self.prompt.render(query, text, self.instruction)])[0])
        left = self.budget - min(len(self.query_ids([query])[0]), self.query_room)
        return lambda text: left - len(self.document_ids([text])[0])

    def document_room(self, query: str) -> int:
        """Tokens left for a document's own text beside this query; 0 where nothing of it can be read."""
        return max(0, self.room_beside(query)("") - 1)

    def _characters(self, text: str, tokens: int) -> int:
        """Characters of a text that its first tokens stand for."""
        return int(self.plain.offsets(text)[tokens - 1][1]) if tokens else 0

    def _query_cut(self, query: str, read: int) -> Cut:
        """What is cut of a query's segment of which so many characters are read, if not all are."""
        before, after = self.query_segment.split("{query}")
        follows = "{instruction}" in after and bool(self.prompt.fill("{query}{instruction}", "", "", self.instruction))
        end = len(self.prompt.fill(before + "{query}", query, "", self.instruction))
        return Cut(query=read < end or not follows, instruction=follows)

    def _document_cut(self, document: str, tokens: int) -> Cut:
        """What is cut of a document of whose segment so many tokens are read."""
        before, _ = self.document_segment.split("{document}")
        text = self.prompt.fill(self.document_segment, "", document)
        if tokens > len(before.encode()):  # no token is shorter than a byte
            return Cut(document=True)
        return Cut(document=True, unread=bool(document.strip()) and self._characters(text, tokens) <= len(before))

    def _joined_cut(self, query: str, document: str, read: int) -> Cut:
        """What is cut of a joined prompt of which so many characters are read."""
        place = self.prompt.segments.index(self.query_segment)
        start = sum(map(len, self.prompt.segments[:place]))
        segment = len(self.prompt.fill(self.query_segment, query, "", self.instruction))
        cut = self._query_cut(query, read - start) if read < start + segment else Cut()
        _, after = self.document_segment.split("{document}")
        begin = len(self.prompt.render(query, "", self.instruction)) - len(after)
        return cut._replace(document=True, unread=bool(document.strip()) and read <= begin)

    def join(self, query: list[int], document: list[int]) -> list[int]:
        """One sequence from a query's and a document's ids.

        The query keeps at most 3/4 of the budget, the document what is left; the template is never cut.
        """
        kept_query = query[: self.query_room]
        kept_document = document[: self.budget - len(kept_query)]
        ids = list(self.prefix_ids)
        for segment, fixed in zip(self.prompt.segments, self.fixed):
            ids += kept_query if "{query}" in segment else kept_document if "{document}" in segment else fixed
        return ids + self.suffix_ids

    def encode(self, pairs: Sequence[tuple[str, str]]) -> tuple[list[list[int]], Truncation]:
        """Sequences of all pairs, in order; each distinct query and document is tokenised once.

        Args:
            pairs: (query, document) texts.

        Returns:
            (sequences, truncation).
        """
        if self.prompt.joined:
            return self._encode_joined(pairs)
        queries = list(dict.fromkeys(query for query, _ in pairs))
        documents = list(dict.fromkeys(document for _, document in pairs))
        by_query = dict(zip(queries, self.query_ids(queries)))
        by_document = dict(zip(documents, self.document_ids(documents)))
        sequences = [self.join(by_query[query], by_document[document]) for query, document in pairs]
        room, whole, cuts = self.query_room, Cut(), []
        shortened = {
            query: self._query_cut(
                query, self._characters(self.prompt.fill(self.query_segment, query, "", self.instruction), room)
            )
            for query, ids in by_query.items()
            if len(ids) > room
        }
        for query, document in pairs:
            cut, left = shortened.get(query, whole), self.budget - min(len(by_query[query]), room)
            if len(by_document[document]) > left:
                _, _, *parts = self._document_cut(document, left)
                cut = Cut(cut.query, cut.instruction, *parts)
            cuts.append(cut)
        longest = max((len(ids) for ids in [*by_query.values(), *by_document.values()]), default=0)
        return sequences, count_cuts(cuts, longest)

    def _encode_joined(self, pairs: Sequence[tuple[str, str]]) -> tuple[list[list[int]], Truncation]:
        """Each pair's prompt as one text, its end cut."""
        texts = [self.prompt.render(query, document, self.instruction) for query, document in pairs]
        sequences, cuts, longest = [], [Cut()] * len(pairs), 0
        for i, encoding in enumerate(self.plain.encodings(texts)):
            sequences.append(self.prefix_ids + encoding.ids[: self.room] + self.suffix_ids)
            longest = max(longest, len(encoding.ids))
            if len(encoding.ids) > self.room:
                cuts[i] = self._joined_cut(*pairs[i], encoding.offsets[self.room - 1][1])
        return sequences, count_cuts(cuts, longest)

    def type_ids(self, sequences: Sequence[list[int]]) -> None:
        """Prompts have no token types."""
        return None

    def collate(self, sequences: Sequence[list[int]]) -> Batch:
        """Pad sequences on the right to the longest one."""
        input_ids, lengths = pad_right(sequences, self.tokenizer.pad_token_id or 0)  # (B, T), (B,)
        attention_mask = (torch.arange(input_ids.shape[1])[None, :] < lengths[:, None]).long()  # (B, T)
        return Batch(input_ids, attention_mask, lengths - self.slot_from_end)
