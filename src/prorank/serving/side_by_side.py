"""A request's documents in two orders, BM25's and the model's: what the page at / draws.

Knows texts and scores; nothing of HTTP or of the page itself.
"""

from __future__ import annotations

import time
from typing import Any

from prorank.data.collection import Document
from prorank.first_stage.bm25 import BM25Index
from prorank.serving.replies import Scored
from prorank.serving.schemas import Call, FirstStage, ReplyPage
from prorank.util.errors import DataError, MissingExtraError


def bm25_scores(query: str, documents: list[str]) -> list[float]:
    """BM25 scores of documents in an index of themselves alone; 0 where no term is shared.

    Raises:
        DataError: no document has a word.
        MissingExtraError: bm25s or PyStemmer is not installed.

    >>> bm25_scores("owls", ["the moon", "owls hunt"])[0]
    0.0
    """
    ids = [str(place) for place in range(len(documents))]
    index = BM25Index.build({id_: Document(id_, "", text) for id_, text in zip(ids, documents)})
    return list(index.scores(query, ids).values())


def first_stage(query: str, documents: list[str]) -> FirstStage:
    """BM25's order of documents, ties in the request's order, or why there is none."""
    begin = time.perf_counter()
    try:
        scores = bm25_scores(query, documents)
    except (DataError, MissingExtraError) as error:
        return {"missing": str(error), "milliseconds": 0.0, "results": []}
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    return {
        "missing": None,
        "milliseconds": 1e3 * (time.perf_counter() - begin),
        "results": [{"index": place, "score": scores[place]} for place in order],
    }


def tokens_cut(tokenizer: Any, query: str, documents: list[str]) -> list[int]:
    """Tokens of each document that do not fit beside the query.

    Args:
        tokenizer: of a reranker, with the call's instruction.
        query: text.
        documents: texts.
    """
    room = tokenizer.room_beside(query)
    return [max(0, -room(document)) for document in documents]


def both_orders(tokenizer: Any, call: Call, scored: Scored) -> ReplyPage:
    """The answer for the page."""
    query, documents = call.pairs[0][0], [document for _, document in call.pairs]
    cut = tokens_cut(tokenizer, query, documents) if scored.truncation.pairs else [0] * len(documents)
    return {
        "id": scored.id,
        "model": scored.model,
        "milliseconds": 1e3 * scored.seconds,
        "tokens": scored.tokens,
        "not_read": scored.truncation.not_read,
        "results": [
            {
                "index": place,
                "score": scored.ranking[place],
                "relevance_score": scored.scores[place],
                "tokens_cut": cut[place],
            }
            for place in scored.order(call.top_n)
        ],
        "first_stage": first_stage(query, documents),
    }
