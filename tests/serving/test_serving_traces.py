"""Requests as OpenTelemetry spans: part of the caller's trace, told how they ended, without a text."""

import pytest
from served import DOCUMENTS, QUERY, tiny_service
from starlette.testclient import TestClient

from prorank.serving import edge
from prorank.serving.app import create_app

sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk is not installed")
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def spans(monkeypatch):
    """What was traced, the newest last; of a provider of our own, since a process takes one provider only."""
    exporter, provider = InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(edge.trace, "get_tracer", provider.get_tracer)
    return exporter.get_finished_spans


@pytest.fixture
def service(bert_folder):
    return tiny_service(bert_folder)


def test_a_request_is_a_span_of_the_callers_trace(service, spans):
    with TestClient(create_app(service)) as client:
        body = {"query": QUERY, "documents": DOCUMENTS}
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "abc-1"}
        answer = client.post("/v2/rerank", json=body, headers=headers)
        client.post("/v2/rerank", json=body)
    span, alone = spans()
    assert answer.status_code == 200 and span.name == "POST /v2/rerank" and span.kind.name == "SERVER"
    assert f"{span.context.trace_id:032x}" == TRACE and f"{span.parent.span_id:016x}" == PARENT
    assert alone.parent is None and alone.context.trace_id != span.context.trace_id
    told = dict(span.attributes)
    assert told.pop("prorank.tokens") > 0 and span.status.is_unset
    assert told == {
        "http.request.method": "POST",
        "http.route": "/v2/rerank",
        "http.response.status_code": 200,
        "prorank.request_id": "abc-1",
        "prorank.pairs": len(DOCUMENTS),
    }


def test_refusals_and_failures_are_told_apart(service, spans):
    service.batcher.score = lambda sequences, groups: 1 / 0
    with TestClient(create_app(service, key="s3cret")) as client:
        known = {"Authorization": "Bearer s3cret"}
        client.post("/v2/rerank", json={"query": QUERY, "documents": DOCUMENTS})
        client.post("/v2/rerank", json={"query": QUERY}, headers=known)
        client.post("/v2/rerank", json={"query": QUERY, "documents": DOCUMENTS}, headers=known)
        client.get("/nowhere/%2e%2e/etc")
    told = [(span.attributes["http.response.status_code"], span.attributes["prorank.reason"]) for span in spans()]
    assert told == [(401, "unauthorized"), (400, "invalid"), (500, "backend"), (404, "not_found")]
    assert [span.status.is_ok or span.status.is_unset for span in spans()] == [True, True, False, True]
    assert spans()[3].name == "GET other"  # a stranger's path is no name


def test_no_text_is_traced_even_if_the_application_breaks(service, spans, monkeypatch):
    def breaks(self, request, api):
        raise RuntimeError("the query was quarzite")

    monkeypatch.setattr("prorank.serving.app.Answering.__call__", breaks)
    with TestClient(create_app(service, log_texts=True), raise_server_exceptions=False) as client:
        client.post("/v2/rerank", json={"query": "quarzite", "documents": DOCUMENTS})
    (span,) = spans()
    assert not span.status.is_ok and not span.status.is_unset and "quarzite" not in span.to_json()


def test_without_the_package_requests_are_answered_all_the_same(service, spans, monkeypatch):
    monkeypatch.setattr(edge, "trace", None)
    with TestClient(create_app(service)) as client:
        assert client.post("/v2/rerank", json={"query": QUERY, "documents": DOCUMENTS}).status_code == 200
    assert not spans()
