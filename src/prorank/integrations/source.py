"""Where an integration's scores come from: a reranker in this process, or a server.

Both rank by one call, `rank(query, texts, top_n)`, and its awaitable twin. Knows nothing of frameworks. The model is
imported when it is needed, and so is HTTP: who asks a server loads no torch.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from prorank.shipped import MINI
from prorank.util.errors import CheckpointError, InputError, InputTypeError
from prorank.util.inputs import whole_numbers

if TYPE_CHECKING:
    from prorank.reranker import Reranker

logger = logging.getLogger(__name__)
TIMEOUT = 60.0


class Ranked(NamedTuple):
    """A document's place among those given, counted from 0, and its score."""

    place: int
    score: float


class Source(Protocol):
    """Ranks texts."""

    def rank(self, query: str, texts: Sequence[str], top_n: int | None = None, *, raw: bool = False) -> list[Ranked]:
        """The best `top_n` first, None for all; scores are calibrated probabilities, or the model's own (`raw`)."""

    async def arank(
        self, query: str, texts: Sequence[str], top_n: int | None = None, *, raw: bool = False
    ) -> list[Ranked]:
        """As `rank`, without holding up the event loop."""


class Local:
    """A reranker's ranking.

    A model whose scores have no probability (integer grades without calibration) gives its own; a warning says so.

    Args:
        reranker: may be in use elsewhere.
    """

    def __init__(self, reranker: Reranker) -> None:
        self.reranker = reranker
        try:
            reranker.probability([0.0])
            self.calibrated = True
        except CheckpointError as error:
            logger.warning("relevance scores are the model's own and no probabilities: %s", error)
            self.calibrated = False

    def rank(self, query: str, texts: Sequence[str], top_n: int | None = None, *, raw: bool = False) -> list[Ranked]:
        """See `Source`."""
        whole_numbers(top_n=top_n)
        found = self.reranker.rank(query, texts, top_n)
        scores = [result["score"] for result in found]
        told = scores if raw or not self.calibrated or not scores else self.reranker.probability(scores)
        return [Ranked(result["corpus_id"], score) for result, score in zip(found, told)]

    async def arank(
        self, query: str, texts: Sequence[str], top_n: int | None = None, *, raw: bool = False
    ) -> list[Ranked]:
        """See `Source`; the model runs in a thread."""
        return await asyncio.to_thread(self.rank, query, texts, top_n, raw=raw)


def source(
    model: str | Path | Reranker = MINI,
    base_url: str | None = None,
    api_key: str | None = None,
    timeout: float = TIMEOUT,
) -> Source:
    """A model in this process, or the server at `base_url`.

    Args:
        model: a reranker, or a name or folder as for `Reranker`; with `base_url`, the name that is sent along.
        base_url: address of a server that speaks Cohere's `/v2/rerank`, such as `http://127.0.0.1:8000`.
        api_key: of the server.
        timeout: seconds to wait for the server, see `Remote`.

    Raises:
        CheckpointError, PromptError: the model cannot be loaded.
        InputTypeError, InputError: arguments that do not go together.
        MissingExtraError: a server, and what calls it is not installed.
    """
    if base_url is not None:
        from prorank.integrations.remote import Remote

        if not isinstance(model, str):
            raise InputTypeError(
                f"with base_url, model is the name that the server is sent, not a {type(model).__name__}",
                hint="leave out one of them",
            )
        return Remote(base_url, model, api_key, timeout)
    if api_key is not None:
        raise InputError("an api_key goes to a server, and there is no base_url", hint="give base_url too")
    from prorank.reranker import Reranker

    if isinstance(model, Reranker):
        return Local(model)
    if not isinstance(model, (str, Path)):
        raise InputTypeError(f"model must be a name, a folder or a Reranker, not a {type(model).__name__}")
    return Local(Reranker(model))
