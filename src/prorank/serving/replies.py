"""Scores -> the answer that each API gives. Pure functions; knows nothing of how the scores came about."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from prorank.prompts.truncation import Truncation
from prorank.serving.schemas import (
    Call,
    Meta,
    Rank,
    ReplyScore,
    ReplyV1,
    ReplyV2,
    ReplyVllm,
    Result,
    Usage,
)

SEARCH_UNIT = 100  # documents, as Cohere counts


@dataclass(frozen=True)
class Scored:
    """A call's outcome.

    Attributes:
        id: of the request.
        model: that is served.
        ranking: scores that decide the order, one per pair.
        scores: what is told, one per pair: probabilities, or the same as `ranking`.
        tokens: that the model read.
        truncation: what was cut to fit.
        seconds: from the request's first byte to its scores.
    """

    id: str
    model: str
    ranking: Sequence[float]
    scores: Sequence[float]
    tokens: int
    truncation: Truncation
    seconds: float = 0.0

    def order(self, top_n: int | None) -> list[int]:
        """Places of the best documents; ties keep the request's order."""
        return sorted(range(len(self.ranking)), key=lambda place: -self.ranking[place])[:top_n]

    @property
    def usage(self) -> Usage:
        """As Jina and vLLM tell it."""
        return {"prompt_tokens": self.tokens, "total_tokens": self.tokens}


Reply = Callable[[Call, Scored], Any]


def results(call: Call, scored: Scored) -> list[Result]:
    """The best documents of a call, best first."""
    found: list[Result] = []
    for place in scored.order(call.top_n):
        result: Result = {"index": place, "relevance_score": scored.scores[place]}
        if call.echo:
            result["document"] = {"text": call.pairs[place][1]}
        found.append(result)
    return found


def meta(call: Call, scored: Scored, version: str) -> Meta:
    """Cohere's frame around results."""
    frame: Meta = {
        "api_version": {"version": version, "is_experimental": False},
        "billed_units": {"search_units": -(-len(call.pairs) // SEARCH_UNIT)},
    }
    if scored.truncation.pairs:
        frame["warnings"] = [
            f"{scored.truncation.pairs} of {len(call.pairs)} documents were cut; not read: {scored.truncation.not_read}"
        ]
    return frame


def cohere_v2(call: Call, scored: Scored) -> ReplyV2:
    """Cohere v2."""
    return {"id": scored.id, "results": results(call, scored), "meta": meta(call, scored, "2")}


def union_v1(call: Call, scored: Scored) -> ReplyV1:
    """Cohere v1, Jina and vLLM in one."""
    return {
        "id": scored.id,
        "model": scored.model,
        "usage": scored.usage,
        "results": results(call, scored),
        "meta": meta(call, scored, "1"),
    }


def vllm_rerank(call: Call, scored: Scored) -> ReplyVllm:
    """vLLM's ranking."""
    return {"id": scored.id, "model": scored.model, "usage": scored.usage, "results": results(call, scored)}


def tei_rerank(call: Call, scored: Scored) -> list[Rank]:
    """text-embeddings-inference: a bare array."""
    ranks: list[Rank] = []
    for place in scored.order(call.top_n):
        rank: Rank = {"index": place, "score": scored.scores[place]}
        if call.echo:
            rank["text"] = call.pairs[place][1]
        ranks.append(rank)
    return ranks


def vllm_score(call: Call, scored: Scored) -> ReplyScore:
    """vLLM's scores of pairs, in the order of the request."""
    return {
        "id": scored.id,
        "object": "list",
        "created": int(time.time()),
        "model": scored.model,
        "data": [{"index": i, "object": "score", "score": score} for i, score in enumerate(scored.scores)],
        "usage": scored.usage,
    }
