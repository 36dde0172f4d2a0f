"""The MCP server, called by the package's own client: over stdio as programs start it, and in this process."""

import asyncio
import json
import os
import sys

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from served import DOCUMENTS, QUERY, serving, tiny_service

from prorank import Reranker
from prorank.integrations import mcp as module
from prorank.integrations.mcp import mcp_server
from prorank.integrations.source import source


@pytest.fixture(scope="module")
def reranker(bert_folder):
    return Reranker(bert_folder, max_length=96, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def expected(reranker):
    found = reranker.rank(QUERY, DOCUMENTS)
    chances = reranker.probability([result["score"] for result in found])
    return [(result["corpus_id"], pytest.approx(chance, abs=1e-5)) for result, chance in zip(found, chances)]


async def asked(server, **arguments):
    """The tools' names, and the answer of `rerank`."""
    async with Client(server) as client:
        tools = (await client.list_tools()).tools
        return [tool.name for tool in tools], await client.call_tool("rerank", arguments)


def results(answer):
    assert not answer.is_error, answer.content
    assert json.loads(answer.content[0].text) == answer.structured_content
    return [(result["index"], result["relevance_score"]) for result in answer.structured_content["results"]]


def command(*arguments):
    """`prorank mcp` as a client starts it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MCP_KEY": "s3cret"}
    words = ["-m", "prorank.cli", "mcp", *map(str, arguments)]
    return stdio_client(StdioServerParameters(command=sys.executable, args=words, env=environment))


def test_the_command_speaks_over_stdio(bert_folder, expected):
    started = command(bert_folder, "--max-length", 96, "--device", "cpu", "--precision", "fp32")
    tools, answer = asyncio.run(asked(started, query=QUERY, documents=DOCUMENTS, top_n=2))
    assert tools == ["rerank"] and results(answer) == expected[:2]


def test_the_command_asks_a_server(bert_folder, expected):
    with serving(tiny_service(bert_folder), key="s3cret") as address:
        started = command("--base-url", address, "--api-key-env", "MCP_KEY")
        _, answer = asyncio.run(asked(started, query=QUERY, documents=DOCUMENTS))
    assert results(answer) == expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"query": "", "documents": ["a"]}, "query"),
        ({"query": " ", "documents": ["a"]}, "the query is empty"),
        ({"query": "q", "documents": ["a"], "top_n": 0}, "top_n"),
        ({"query": "q", "documents": ["a"] * 1_001}, "documents"),
        ({"query": "q", "documents": ["a" * 100_001]}, "documents"),
        ({"query": "q", "documents": "a"}, "documents"),
        ({"documents": ["a"]}, "query"),
    ],
)
def test_mistaken_calls_are_told_to_the_caller(reranker, arguments, said):
    _, answer = asyncio.run(asked(mcp_server(source(reranker)), **arguments))
    assert answer.is_error and said in answer.content[0].text


def test_no_server_is_told_to_the_caller():
    _, answer = asyncio.run(asked(mcp_server(source(base_url="http://127.0.0.1:9")), query="q", documents=["a"]))
    assert answer.is_error and "http://127.0.0.1:9/v2/rerank" in answer.content[0].text


def test_the_tool_says_what_it_takes_and_gives(reranker):
    async def tool():
        async with Client(mcp_server(source(reranker))) as client:
            return (await client.list_tools()).tools[0]

    told = asyncio.run(tool())
    assert "relevance" in told.description and told.input_schema["required"] == ["query", "documents"]
    assert told.input_schema["properties"]["documents"]["maxItems"] == module.MAX_DOCUMENTS
    assert "results" in told.output_schema["properties"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--api-key-env", "MCP_KEY"), "only with --base-url"),
        (("--base-url", "http://127.0.0.1:9", "--device", "cpu"), "the server has its own"),
        (("--base-url", "127.0.0.1:9"), "no address"),
        (("./no/such/folder",), "no such folder"),
    ],
)
def test_options_that_do_not_go_together_are_refused(call, arguments, said):
    code, out, err = call("mcp", *arguments)
    assert code == 2 and said in err and out == ""
