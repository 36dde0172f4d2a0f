"""Haystack: a ranker component for pipelines.

Annotations are objects here, not strings: Haystack 2 reads a component's types from them as they stand.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prorank.integrations.source import TIMEOUT, Ranked, Source, source
from prorank.shipped import MINI
from prorank.util.errors import InputError, needs
from prorank.util.inputs import whole_numbers

with needs("haystack"):
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.utils import Secret

if TYPE_CHECKING:
    from prorank.reranker import Reranker


@component
class ProrankRanker:
    """The `top_k` most relevant documents, best first, as copies that hold the score.

    Args:
        model: a Reranker, or a name or folder as for `Reranker`; with `base_url`, the name that is sent along.
        top_k: how many to keep.
        scale_score: scores are calibrated probabilities; otherwise the model's own.
        score_threshold: leave out documents that score less; None leaves none out.
        base_url, api_key, timeout: of a server that ranks instead, see `Remote`. Without `scale_score` it must be
            prorank's.

    Raises:
        InputTypeError, InputError: `top_k` is no whole number from 1.
    """

    def __init__(
        self,
        model: "str | Path | Reranker" = MINI,
        *,
        top_k: int = 10,
        scale_score: bool = True,
        score_threshold: float | None = None,
        base_url: str | None = None,
        api_key: Secret | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        whole_numbers(top_k=top_k)
        self.model, self.base_url, self.api_key, self.timeout = model, base_url, api_key, timeout
        self.top_k, self.scale_score, self.score_threshold = top_k, scale_score, score_threshold
        self._source: Source | None = None

    def warm_up(self) -> None:
        """Load the model, if it is not a server's and not loaded yet."""
        self._ready()

    def _ready(self) -> Source:
        if self._source is None:
            key = self.api_key.resolve_value() if self.api_key else None
            self._source = source(self.model, self.base_url, key, self.timeout)
        return self._source

    def to_dict(self) -> dict[str, Any]:
        """The arguments, for a pipeline's file.

        Raises:
            InputError: the model is an object in memory.
        """
        if not isinstance(self.model, (str, Path)):
            raise InputError("a Reranker in memory cannot be written to a file", hint="give its name or folder")
        return default_to_dict(
            self,
            model=str(self.model),
            top_k=self.top_k,
            scale_score=self.scale_score,
            score_threshold=self.score_threshold,
            base_url=self.base_url,
            api_key=self.api_key.to_dict() if self.api_key else None,
            timeout=self.timeout,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "ProrankRanker":
        """The component that `to_dict` wrote down."""
        given = data.get("init_parameters", {})
        key = given.get("api_key")
        read = given | ({"api_key": Secret.from_dict(key)} if isinstance(key, dict) else {})
        found: ProrankRanker = default_from_dict(cls, data | {"init_parameters": read})
        return found

    @component.output_types(documents=list[Document])
    def run(
        self,
        *,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        scale_score: bool | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, list[Document]]:
        """Rank documents.

        Args:
            query: a non-empty string.
            documents: to rank; one without text, such as an image, is read as an empty one.
            top_k, scale_score, score_threshold: for this call in place of the component's own; None takes those.

        Returns:
            `{"documents": [...]}`.

        Raises:
            ProrankError: an empty query, or a server that gives no ranking.
        """
        top_k, raw = self._wanted(top_k, scale_score)
        ranking = self._ready().rank(query, _texts(documents), top_k, raw=raw)
        return {"documents": self._kept(documents, ranking, score_threshold)}

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        *,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        scale_score: bool | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, list[Document]]:
        """As `run`, without holding up the event loop."""
        top_k, raw = self._wanted(top_k, scale_score)
        ranking = await self._ready().arank(query, _texts(documents), top_k, raw=raw)
        return {"documents": self._kept(documents, ranking, score_threshold)}

    def _wanted(self, top_k: int | None, scale_score: bool | None) -> tuple[int, bool]:
        """How many to keep, and whether scores are the model's own."""
        scaled = self.scale_score if scale_score is None else scale_score
        return self.top_k if top_k is None else top_k, not scaled

    def _kept(self, documents: list[Document], ranking: list[Ranked], threshold: float | None) -> list[Document]:
        least = self.score_threshold if threshold is None else threshold
        return [replace(documents[i], score=score) for i, score in ranking if least is None or score >= least]


def _texts(documents: list[Document]) -> list[str]:
    return [document.content or "" for document in documents]
