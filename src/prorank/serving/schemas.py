"""What each API takes and gives: one class per request, one per reply.

A request turns itself into a `Call`, the one form in which the rest of the server knows it; `replies` writes the
answers. Types are taken strictly, fields that are not known are passed over, as the APIs' own servers do. The `model`
of a request is passed over too: it never loads anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import NotRequired, TypedDict

from prorank.serving.errors import Refusal, Style

MODEL = "Accepted and passed over; the answer names the model that is served."
INSTRUCTION = "What relevance means here; for models whose prompt has a place for it."
RAW_SCORES = "Give the model's raw scores (logits) in place of calibrated probabilities."


@dataclass(frozen=True)
class Call:
    """What a request asks for, whichever API it came by.

    Attributes:
        pairs: (query, document) texts.
        style: how its errors look.
        top_n: how many results are wanted; None for all.
        echo: give the documents back.
        raw_scores: scores as the model gives them, not probabilities.
        instruction: in place of the model's own; None keeps that.
        max_document_tokens: cut documents to so many tokens first.
        max_tokens: tokens of a pair, if fewer than the model's.
        refuse_cut: refuse the request if a pair does not fit.
    """

    pairs: list[tuple[str, str]]
    style: Style
    top_n: int | None = None
    echo: bool = False
    raw_scores: bool = False
    instruction: str | None = None
    max_document_tokens: int | None = None
    max_tokens: int | None = None
    refuse_cut: bool = False


class Request(BaseModel):
    """Fields that all APIs have."""

    model_config = ConfigDict(strict=True, extra="ignore")
    style: ClassVar[Style]

    model: str | None = Field(None, description=MODEL)
    instruction: str | None = Field(None, description=INSTRUCTION)
    raw_scores: bool = Field(False, description=RAW_SCORES)

    def call(self) -> Call:
        """The request in the server's own form.

        Raises:
            Refusal: fields that do not go together.
        """
        raise NotImplementedError


def texts_of(documents: list[str | dict[str, Any]], rank_fields: list[str] | None = None) -> list[str]:
    """The text that is ranked of each document: a string, an object's `text`, or its `rank_fields` one after the other.

    Raises:
        Refusal: an object without such a field, or a field that is no string.

    >>> texts_of(["a", {"text": "b"}]), texts_of([{"name": "c", "body": "d", "x": 1}], ["name", "body"])
    (['a', 'b'], ['c d'])
    """
    texts = []
    for place, document in enumerate(documents):
        if isinstance(document, str):
            texts.append(document)
            continue
        values = [document[name] for name in rank_fields or ["text"] if name in document]
        if not values or not all(isinstance(value, str) for value in values):
            wanted = ", ".join(rank_fields) if rank_fields else "text"
            raise Refusal("invalid", f"documents.{place}: an object needs a string under {wanted[:200]}")
        texts.append(" ".join(values))
    return texts


class RerankV1(Request):
    """`/v1/rerank`: what Cohere's v1, Jina's and vLLM's clients send."""

    style: ClassVar[Style] = "union"

    query: str
    documents: list[str | dict[str, Any]] = Field(description="Strings, or objects with a `text` (see `rank_fields`).")
    top_n: int | None = Field(None, ge=0, description="Results wanted, the best first; all if 0 or absent.")
    return_documents: bool | None = Field(None, description="Give each document's ranked text back.")
    rank_fields: list[str] | None = Field(None, description="Fields of object documents that are ranked, in order.")
    max_tokens_per_doc: int | None = Field(None, ge=0, description="Cut documents to so many tokens; 0 cuts none.")
    max_chunks_per_doc: int | None = Field(None, description="Accepted and passed over: documents are not chunked.")
    truncate_prompt_tokens: int | None = Field(
        None, ge=-1, description="Tokens of a pair, if fewer than the model's; -1 takes the model's."
    )

    def call(self) -> Call:
        """The request in the server's own form."""
        texts = texts_of(self.documents, self.rank_fields)
        return Call(
            [(self.query, text) for text in texts],
            self.style,
            top_n=self.top_n or None,
            echo=bool(self.return_documents),
            raw_scores=self.raw_scores,
            instruction=self.instruction,
            max_document_tokens=self.max_tokens_per_doc or None,
            max_tokens=_positive(self.truncate_prompt_tokens),
        )


class RerankV2(Request):
    """`/v2/rerank`: Cohere's v2."""

    style: ClassVar[Style] = "cohere"

    query: str
    documents: list[str]
    top_n: int | None = Field(None, ge=0, description="Results wanted, the best first; all if 0 or absent.")
    max_tokens_per_doc: int | None = Field(None, ge=0, description="Cut documents to so many tokens; 0 cuts none.")
    priority: int | None = Field(None, description="Accepted and passed over.")

    def call(self) -> Call:
        """The request in the server's own form."""
        return Call(
            [(self.query, text) for text in self.documents],
            self.style,
            top_n=self.top_n or None,
            raw_scores=self.raw_scores,
            instruction=self.instruction,
            max_document_tokens=self.max_tokens_per_doc or None,
        )


class RerankTei(Request):
    """`/rerank` with `texts`: text-embeddings-inference."""

    style: ClassVar[Style] = "tei"

    query: str
    texts: list[str]
    truncate: bool | None = Field(None, description="`false` refuses what does not fit; else its end is cut.")
    truncation_direction: str | None = Field(None, description="`right`; no other is offered.")
    return_text: bool = False

    def call(self) -> Call:
        """The request in the server's own form."""
        if self.truncation_direction is not None and self.truncation_direction.lower() != "right":
            raise Refusal("invalid", "truncation_direction: the end of a text is cut", hint="use 'right'")
        return Call(
            [(self.query, text) for text in self.texts],
            self.style,
            echo=self.return_text,
            raw_scores=self.raw_scores,
            instruction=self.instruction,
            refuse_cut=self.truncate is False,
        )


class RerankVllm(RerankV1):
    """`/rerank` with `documents`: vLLM."""

    style: ClassVar[Style] = "openai"

    def call(self) -> Call:
        """The request in the server's own form; documents are given back unless that is declined."""
        call = super().call()
        return call if self.return_documents is not None else replace(call, echo=True)


class ScoreVllm(Request):
    """`/score` and `/v1/score`: vLLM. One against many, or pairs; `queries`, `documents` are other names for them."""

    style: ClassVar[Style] = "openai"

    text_1: str | list[str] | None = None
    text_2: str | list[str] | None = None
    queries: str | list[str] | None = None
    documents: str | list[str] | None = None
    truncate_prompt_tokens: int | None = Field(
        None, ge=-1, description="Tokens of a pair, if fewer than the model's; -1 takes the model's."
    )

    def call(self) -> Call:
        """The request in the server's own form."""
        first = self.text_1 if self.text_1 is not None else self.queries
        second = self.text_2 if self.text_2 is not None else self.documents
        if first is None or second is None:
            raise Refusal("invalid", "two sides are needed", hint="give text_1 and text_2, or queries and documents")
        one, two = (side if isinstance(side, list) else [side] for side in (first, second))
        if len(one) == 1:
            one = one * len(two)
        if len(one) != len(two):
            raise Refusal(
                "invalid", f"{len(one)} texts against {len(two)}", hint="give one, or as many as on the other side"
            )
        return Call(
            list(zip(one, two)),
            self.style,
            raw_scores=self.raw_scores,
            instruction=self.instruction,
            max_tokens=_positive(self.truncate_prompt_tokens),
        )


class RankPage(Request):
    """`/page/rank`: what the page at / sends. No API of others; it may change with the page."""

    style: ClassVar[Style] = "union"

    query: str
    documents: list[str]

    def call(self) -> Call:
        """The request in the server's own form."""
        return Call([(self.query, text) for text in self.documents], self.style, instruction=self.instruction)


def _positive(value: int | None) -> int | None:
    return None if value is None or value < 0 else value


class Text(TypedDict):
    """A document given back."""

    text: str


class Result(TypedDict):
    """One document of a ranking."""

    index: int
    relevance_score: float
    document: NotRequired[Text]


class Usage(TypedDict):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class ApiVersion(TypedDict):
    """Which of Cohere's APIs answered."""

    version: str
    is_experimental: bool


class BilledUnits(TypedDict):
    """Cohere's count: one search unit for every hundred documents begun."""

    search_units: int


class Meta(TypedDict):
    """Cohere's frame; `warnings` says what was cut."""

    api_version: ApiVersion
    billed_units: BilledUnits
    warnings: NotRequired[list[str]]


class ReplyV2(TypedDict):
    """Cohere v2."""

    id: str
    results: list[Result]
    meta: Meta


class ReplyV1(ReplyV2):
    """Cohere v1, Jina and vLLM together."""

    model: str
    usage: Usage


class ReplyVllm(TypedDict):
    """vLLM's ranking."""

    id: str
    model: str
    usage: Usage
    results: list[Result]


class Rank(TypedDict):
    """One text of text-embeddings-inference's ranking."""

    index: int
    score: float
    text: NotRequired[str]


class ScoreItem(TypedDict):
    """One pair of vLLM's scores, in the order of the request."""

    index: int
    object: str
    score: float


class ReplyScore(TypedDict):
    """vLLM's scores."""

    id: str
    object: str
    created: int
    model: str
    data: list[ScoreItem]
    usage: Usage


class FirstResult(TypedDict):
    """One document of BM25's order; its score is 0 if no word is shared."""

    index: int
    score: float


class FirstStage(TypedDict):
    """BM25's order, best first, and its time; `missing` says why there is none."""

    missing: str | None
    milliseconds: float
    results: list[FirstResult]


class PageResult(Result):
    """One document of the model's order: raw score, and tokens that it was cut by."""

    score: float
    tokens_cut: int


class ReplyPage(TypedDict):
    """Both orders, for the page; `not_read` says in words what was cut."""

    id: str
    model: str
    milliseconds: float
    tokens: int
    not_read: str
    results: list[PageResult]
    first_stage: FirstStage


class ModelCard(TypedDict):
    """The model that is served, and what a call may have."""

    id: str
    object: str
    created: int
    owned_by: str
    max_model_len: int
    max_documents: int
    max_text_characters: int
    max_body_bytes: int
    scores: str
    takes_instruction: bool


class ReplyModels(TypedDict):
    """OpenAI's list of models: there is one."""

    object: str
    data: list[ModelCard]
