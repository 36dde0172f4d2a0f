"""Bodies that mean harm, or nothing at all: they are refused, and the server lives on."""

import asyncio
import random

import httpx
import hypothesis
import pytest
import schemathesis
from served import DOCUMENTS, QUERY, serving, tiny_service
from starlette.requests import Request
from starlette.testclient import TestClient

from prorank.bench.hostile import hostile_body
from prorank.serving.app import Bodies, create_app
from prorank.serving.edge import STYLES
from prorank.serving.errors import Refusal

PATHS = [path for path in STYLES if path != "/v1/models"]


@pytest.fixture(scope="module")
def client(bert_folder):
    service = tiny_service(bert_folder, max_documents=64, max_text=4_000, max_body=2**18)
    with TestClient(create_app(service), raise_server_exceptions=False) as client:
        yield client


def well(client):
    answer = client.post("/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS})
    return answer.status_code == 200 and len(answer.json()["results"]) == len(DOCUMENTS)


def test_hostile_bodies_are_never_the_servers_fault(client):
    generator = random.Random(5)
    seen = set()
    for number in range(300):
        body = hostile_body(generator, 2**18)
        answer = client.post(PATHS[number % len(PATHS)], content=body)
        assert answer.status_code < 500 and answer.status_code != 424, (answer.status_code, body[:200])
        answer.json()
        seen.add(answer.status_code)
    assert seen >= {200, 400, 413, 422} and well(client)


def test_a_body_of_fifty_megabytes_is_refused_unread(bert_folder):
    service = tiny_service(bert_folder, max_body=2**20)
    with serving(service) as address:
        large = b'{"query": "' + b"a" * 50_000_000 + b'"}'
        for content in (large, (large[i : i + 2**16] for i in range(0, len(large), 2**16))):  # announced; in chunks
            answer = httpx.post(f"{address}/v2/rerank", content=content, timeout=60)
            assert answer.status_code == 413 and "1048576" in answer.json()["message"]
        assert httpx.post(f"{address}/rerank", json={"query": "a", "texts": ["b"]}).status_code == 200


def test_bodies_together_are_limited_and_what_is_answered_makes_room():
    bodies = Bodies(each=100, together=150)

    def request(size):
        async def receive():
            return {"type": "http.request", "body": b"a" * size}

        return Request({"type": "http", "method": "POST", "headers": []}, receive)

    async def read():
        async with bodies.read(request(100)) as body:
            with pytest.raises(Refusal) as refused:
                async with bodies.read(request(60)):
                    pass
        async with bodies.read(request(60)) as second:
            return len(body), refused.value.reason, len(second)

    assert asyncio.run(read()) == (100, "overloaded", 60) and bodies.held == 0


def test_schemathesis_finds_no_server_error(bert_folder):
    settings = hypothesis.settings(
        max_examples=15, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    with serving(tiny_service(bert_folder, max_documents=64, max_text=4_000)) as address:
        schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
        operations = [found.ok() for found in schema.get_all_operations()]
        assert len(operations) == 10
        for operation in operations:

            @settings
            @hypothesis.given(case=operation.as_strategy())
            def check(case):
                assert case.call(timeout=30).status_code not in {424, *range(500, 600)}

            check()
