"""The Model Context Protocol: a server with one tool, `rerank`, for agents and chat programs."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from prorank.integrations.source import Source
from prorank.util.errors import ProrankError, needs
from prorank.util.version import VERSION

with needs("mcp"):
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError

MAX_DOCUMENTS = 1_000
MAX_CHARACTERS = 100_000
Text = Annotated[str, Field(max_length=MAX_CHARACTERS)]


class Result(BaseModel):
    """A document of the call."""

    index: int = Field(description="Position among the documents of the call, counted from 0.")
    relevance_score: float = Field(description="Probability that the document is relevant.")


class Ranking(BaseModel):
    """What the tool answers."""

    results: list[Result] = Field(description="The most relevant first.")


def mcp_server(source: Source) -> MCPServer:
    """A server whose tool ranks by a source; `run("stdio")` speaks to the client that started the process.

    Args:
        source: a model here, or another server.
    """
    server = MCPServer("prorank", version=VERSION, log_level="WARNING")

    @server.tool()
    async def rerank(
        query: Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS, description="What is looked for.")],
        documents: Annotated[list[Text], Field(max_length=MAX_DOCUMENTS, description="The texts to put in order.")],
        top_n: Annotated[int | None, Field(ge=1, description="How many to return; by default all.")] = None,
    ) -> Ranking:
        """Order documents by their relevance to a query, the most relevant first, each with a probability.

        Use it to choose what to read or cite among passages, search results or files. Documents keep their numbers:
        `index` counts from 0 in the order given.
        """
        try:
            ranking = await source.arank(query, documents, top_n)
        except ProrankError as error:
            raise ToolError(str(error)) from error
        return Ranking(results=[Result(index=place, relevance_score=score) for place, score in ranking])

    return server
