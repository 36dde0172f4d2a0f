"""LlamaIndex: a node postprocessor, as query engines take them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import ConfigDict, Field, PrivateAttr, SecretStr

from prorank.integrations.source import TIMEOUT, Ranked, Source, source
from prorank.shipped import MINI
from prorank.util.errors import InputError, needs

with needs("llamaindex"):
    from llama_index.core.callbacks import CBEventType, EventPayload
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle


class ProrankRerank(BaseNodePostprocessor):
    """The `top_n` most relevant nodes, best first, with calibrated probabilities as scores.

    The model reads what LlamaIndex would embed: the text with the metadata that is not excluded. The retriever's nodes
    stay as they are; the callback manager sees a `RERANKING` event.

    Args:
        model: a Reranker, or a name or folder as for `Reranker`; with `base_url`, the name that is sent along.
        top_n: how many to keep; None keeps all.
        base_url, api_key, timeout: of a server that ranks instead, see `Remote`.

    Raises:
        pydantic.ValidationError: the model cannot be loaded, or arguments that do not go together; it says which.
    """

    model_config = ConfigDict(hide_input_in_errors=True)  # the input holds the key

    model: Any = MINI
    top_n: int | None = Field(default=3, ge=1)
    base_url: str | None = None
    api_key: SecretStr | None = Field(default=None, exclude=True)
    timeout: float = TIMEOUT
    _source: Source = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        """Load the model, if it is not a server's."""
        super().model_post_init(context)
        key = self.api_key.get_secret_value() if self.api_key else None
        self._source = source(self.model, self.base_url, key, self.timeout)

    @classmethod
    def class_name(cls) -> str:
        """Name in serialised form."""
        return "ProrankRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query, texts = _query(query_bundle), _texts(nodes)
        with self._reported(query, nodes) as found:
            found += _kept(nodes, self._source.rank(query, texts, self.top_n))
        return found

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query, texts = _query(query_bundle), _texts(nodes)
        with self._reported(query, nodes) as found:
            found += _kept(nodes, await self._source.arank(query, texts, self.top_n))
        return found

    @contextmanager
    def _reported(self, query: str, nodes: list[NodeWithScore]) -> Iterator[list[NodeWithScore]]:
        """A list for what is kept, which the event's end tells."""
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: str(self.model),
            EventPayload.QUERY_STR: query,
            EventPayload.TOP_K: self.top_n,
        }
        found: list[NodeWithScore] = []
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            yield found
            event.on_end(payload={EventPayload.NODES: found})


def _query(bundle: QueryBundle | None) -> str:
    if bundle is None:
        raise InputError("there is no query to rank by", hint="give query_bundle or query_str")
    return str(bundle.query_str)


def _texts(nodes: list[NodeWithScore]) -> list[str]:
    return [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]


def _kept(nodes: list[NodeWithScore], ranking: list[Ranked]) -> list[NodeWithScore]:
    """New results over the same nodes, in order of the ranking."""
    return [NodeWithScore(node=nodes[place].node, score=score) for place, score in ranking]
