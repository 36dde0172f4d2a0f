"""`prorank mcp`: a reranker as a tool of agents and chat programs, by the Model Context Protocol over stdio."""

from __future__ import annotations

from typing import Annotated

import typer

from prorank.cli.serve import api_key
from prorank.cli.shared import MODEL_HELP, Device, MaxLength, PrecisionOption, refuse
from prorank.shipped import MINI
from prorank.util.errors import require


def mcp(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help=MODEL_HELP)] = MINI,
    base_url: Annotated[
        str | None, typer.Option(help="Ask this server, e.g. http://127.0.0.1:8000; MODEL is the name it is sent.")
    ] = None,
    api_key_env: Annotated[str | None, typer.Option(help="Environment variable that holds the server's key.")] = None,
    device: Device = "auto",
    precision: PrecisionOption = "auto",
    max_length: MaxLength = None,
) -> None:
    """Offer the tool `rerank` to an MCP client, which starts this command and speaks to it."""
    require("mcp", "mcp")
    from prorank.integrations.mcp import mcp_server
    from prorank.integrations.source import source

    if base_url is None:
        refuse(context, "only with --base-url", "api_key_env")
        from prorank.reranker import Reranker

        reranker = Reranker(model, device=device, precision=precision, max_length=max_length)
        reranker.score([("warm", "up")])
        found = source(reranker)
    else:
        refuse(context, "the server has its own", "device", "precision", "max_length")
        found = source(model, base_url, api_key(api_key_env))
    mcp_server(found).run("stdio")
