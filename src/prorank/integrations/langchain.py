"""LangChain: a document compressor, as `ContextualCompressionRetriever` takes one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ConfigDict, Field, PrivateAttr, SecretStr

from prorank.integrations.source import TIMEOUT, Ranked, Source, source
from prorank.shipped import MINI
from prorank.util.errors import needs

with needs("langchain"):
    from langchain_core.callbacks import Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.runnables import Runnable, RunnableLambda


class ProrankRerank(BaseDocumentCompressor):
    """The `top_n` most relevant documents, best first.

    Each is a deep copy with the score under `metadata["relevance_score"]`: a calibrated probability. Callbacks see a
    step named `prorank`.

    Args:
        model: a Reranker, or a name or folder as for `Reranker`; with `base_url`, the name that is sent along.
        top_n: how many to keep; None keeps all.
        base_url, api_key, timeout: of a server that ranks instead, see `Remote`.

    Raises:
        pydantic.ValidationError: the model cannot be loaded, or arguments that do not go together; it says which.

    >>> compressor = ProrankRerank(top_n=1)
    >>> documents = [Document("The moon is far."), Document("Owls hunt mice at night.")]
    >>> [document.page_content for document in compressor.compress_documents(documents, "when do owls hunt")]
    ['Owls hunt mice at night.']
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)  # the input holds the key

    model: Any = MINI
    top_n: int | None = Field(default=3, ge=1)
    base_url: str | None = None
    api_key: SecretStr | None = None
    timeout: float = TIMEOUT
    _source: Source = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        """Load the model, if it is not a server's."""
        key = self.api_key.get_secret_value() if self.api_key else None
        self._source = source(self.model, self.base_url, key, self.timeout)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """The most relevant documents.

        Raises:
            ProrankError: an empty query, or a server that gives no ranking.
        """
        return self._step(documents).invoke(query, {"callbacks": callbacks})

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """As `compress_documents`, without holding up the event loop."""
        return await self._step(documents).ainvoke(query, {"callbacks": callbacks})

    def _step(self, documents: Sequence[Document]) -> Runnable[str, list[Document]]:
        """The work as a step that callbacks can follow."""
        texts = [document.page_content for document in documents]

        def now(query: str) -> list[Document]:
            return _kept(documents, self._source.rank(query, texts, self.top_n))

        async def later(query: str) -> list[Document]:
            return _kept(documents, await self._source.arank(query, texts, self.top_n))

        return RunnableLambda(now, afunc=later, name="prorank")


def _kept(documents: Sequence[Document], ranking: Sequence[Ranked]) -> list[Document]:
    """Copies in order of the ranking."""
    found = []
    for place, score in ranking:
        copy = documents[place].model_copy(deep=True)
        copy.metadata["relevance_score"] = score
        found.append(copy)
    return found
