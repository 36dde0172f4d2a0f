"""Asking a server for a ranking: what it answers, refuses and leaves open, told with its address."""

import asyncio
import gzip
import json
import logging
import pickle
import socket
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from served import DOCUMENTS, QUERY, serving, tiny_service

from prorank import Reranker
from prorank.integrations import remote
from prorank.integrations.remote import (
    Remote,
    RemoteAnswerError,
    RemoteBusy,
    RemoteRefused,
    RemoteUnreachable,
)
from prorank.integrations.source import Local, source
from prorank.util.errors import InputError, InputTypeError

CALIBRATION = {"slope": 0.5, "intercept": -0.25}


@contextmanager
def scripted(*answers):
    """The address of a server that gives these (status, headers, body), the last for ever; and what it was asked."""
    asked, left = [], list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, dict(self.headers), body))
            status, headers, answer = left.pop(0) if len(left) > 1 else left[0]
            answer = answer(body) if callable(answer) else answer
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def by_length(body):
    """A ranking by the documents' lengths, as a server of Cohere's API gives it."""
    lengths = [(len(text) / 1e4, i) for i, text in enumerate(body["documents"])]
    best = sorted(lengths, reverse=True)[: body["top_n"]]
    return {"id": "x", "results": [{"index": i, "relevance_score": score} for score, i in best]}


BOTH = [Remote.rank, lambda *a, **k: asyncio.run(Remote.arank(*a, **k))]
both = pytest.mark.parametrize("rank", BOTH, ids=["sync", "async"])


@pytest.fixture(scope="module")
def reranker(bert_folder):
    found = Reranker(bert_folder, max_length=96, device="cpu", precision="fp32")
    found.settings = found.settings.model_copy(update={"calibration": CALIBRATION})
    return found


@pytest.fixture(scope="module")
def address(bert_folder):
    with serving(tiny_service(bert_folder, calibration=CALIBRATION), key="s3cret") as address:
        yield address


@both
@pytest.mark.parametrize("raw", [False, True])
def test_a_server_ranks_as_the_model_here(address, reranker, rank, raw):
    here = Local(reranker).rank(QUERY, DOCUMENTS, 3, raw=raw)
    there = rank(Remote(address, api_key="s3cret"), QUERY, DOCUMENTS, 3, raw=raw)
    assert [ranked.place for ranked in here] == [r["corpus_id"] for r in reranker.rank(QUERY, DOCUMENTS)][:3]
    assert [ranked.place for ranked in there] == [ranked.place for ranked in here]
    assert [ranked.score for ranked in there] == pytest.approx([ranked.score for ranked in here], abs=1e-5)
    assert raw or all(0 < ranked.score < 1 for ranked in here)


def test_a_wrong_key_is_a_refusal_with_status_and_address(address):
    with pytest.raises(RemoteRefused, match=rf"{address}/v2/rerank: status 401") as refused:
        Remote(address, api_key="wrong").rank(QUERY, DOCUMENTS)
    assert refused.value.status == 401 and refused.value.url.startswith(address) and "wrong" not in str(refused.value)


@both
def test_what_is_sent(rank):
    with scripted((200, {}, by_length)) as (address, asked):
        rank(Remote(f"{address}/base/", "their-model", "k3y"), "owls", ["a", "bb"], 1)
    ((path, headers, body),) = asked
    assert (
        path == "/base/v2/rerank"
        and headers["authorization" if "authorization" in headers else "Authorization"] == "Bearer k3y"
    )
    assert body == {"model": "their-model", "query": "owls", "documents": ["a", "bb"], "top_n": 1}


@pytest.mark.parametrize(("rank", "status"), zip(BOTH, remote.BUSY), ids=["sync", "async"])
def test_a_busy_server_is_asked_again_after_the_time_it_names(rank, status):
    with scripted((status, {"Retry-After": "1"}, {"message": "full"}), (200, {}, by_length)) as (address, asked):
        start = time.monotonic()
        found = rank(Remote(address), QUERY, ["a", "bb"])
        assert time.monotonic() - start >= 1 and len(asked) == 2
    assert [ranked.place for ranked in found] == [1, 0]


@both
def test_a_server_that_stays_busy_is_given_up(rank, monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.001)
    answers = scripted((429, {}, {"message": "full"}))
    with answers as (address, asked), pytest.raises(RemoteBusy, match="full") as busy:
        rank(Remote(address), QUERY, ["a"])
    assert len(asked) == remote.TRIES and busy.value.retry_after is None


def test_a_wait_longer_than_the_timeout_is_not_begun():
    answers = scripted((503, {"Retry-After": "3600"}, b"<html>maintenance"))
    with answers as (address, asked), pytest.raises(RemoteBusy, match="maintenance; it asks to wait 3600 s") as busy:
        Remote(address, timeout=5).rank(QUERY, ["a"])
    assert len(asked) == 1 and busy.value.retry_after == 3600 and busy.value.status == 503


def test_retry_after_may_be_a_date_and_one_that_is_past_hurries_nobody(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.7)
    start = time.monotonic()
    with scripted((503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, b""), (200, {}, by_length)) as (
        address,
        asked,
    ):
        assert Remote(address).rank(QUERY, ["a"]) and len(asked) == 2
    assert time.monotonic() - start >= 0.7


@pytest.mark.parametrize("named", ["soon", "-1", "", "Wed, 99 Oct 2015", "9" * 400])
def test_waits_that_cannot_be_read_or_waited_for_end_in_a_busy_server(named, monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.001)
    with scripted((429, {"Retry-After": named}, {})) as (address, asked), pytest.raises(RemoteBusy):
        Remote(address).rank(QUERY, ["a"])
    assert len(asked) == (1 if named.isdecimal() else remote.TRIES)


@pytest.mark.parametrize("status", [400, 404, 500, 302])
def test_other_refusals_are_not_repeated(status):
    answers = scripted((status, {"Location": "http://127.0.0.1:9/"}, {"message": "no\n such"}))
    with answers as (address, asked), pytest.raises(RemoteRefused, match=f"status {status}: no such"):
        Remote(address).rank(QUERY, ["a"])
    assert len(asked) == 1


@both
def test_no_server_and_no_answer_name_the_address(rank):
    with pytest.raises(RemoteUnreachable, match=r"http://127.0.0.1:9/v2/rerank: .*is the server running"):
        rank(Remote("http://127.0.0.1:9"), QUERY, ["a"])
    late = scripted((200, {}, lambda body: time.sleep(0.5) or by_length(body)))
    with late as (address, _), pytest.raises(RemoteUnreachable, match=r"/v2/rerank: no answer within 0\.1 s"):
        rank(Remote(address, timeout=0.1), QUERY, ["a"])


@contextmanager
def dripping(head, part):
    """The address of a server that sends a part of its answer every 50 ms, for ever."""
    listener, ended = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def serve():
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.recv(65_536)
            connection.sendall(head)
            while not ended.wait(0.05):
                connection.sendall(part)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        ended.set()
        thread.join(10)
        listener.close()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"


@both
def test_an_answer_that_trickles_in_is_given_up_in_time(rank):
    with dripping(HEAD, b"{") as address:
        start = time.monotonic()
        with pytest.raises(RemoteUnreachable, match=r"no answer within 0\.3 s"):
            rank(Remote(address, timeout=0.3), QUERY, ["a"])
        assert time.monotonic() - start < 5


@both
def test_an_answer_without_end_is_not_kept(rank, monkeypatch):
    monkeypatch.setattr(remote, "MAX_ANSWER", 5_000)
    with dripping(HEAD, b" " * 2_000) as address, pytest.raises(RemoteAnswerError, match="more than 5000 bytes"):
        rank(Remote(address), QUERY, ["a"])


@both
def test_a_small_answer_that_unpacks_to_a_huge_one_is_not_kept(rank, monkeypatch):
    monkeypatch.setattr(remote, "MAX_ANSWER", 5_000)
    bomb = gzip.compress(b" " * 10**6)
    answers = scripted((200, {"Content-Encoding": "gzip"}, bomb))
    with answers as (address, _), pytest.raises(RemoteAnswerError, match="more than 5000 bytes"):
        rank(Remote(address), QUERY, ["a"])


@pytest.mark.parametrize(
    ("answer", "said"),
    [(b"\x1b[2J<b>down</b>\xff", r"\x1b[2J<b>down</b>"), (b"", "Bad Gateway"), ({"message": ""}, "Bad Gateway")],
)
def test_a_servers_reason_is_one_line_of_plain_text(answer, said):
    with scripted((502, {}, answer)) as (address, _), pytest.raises(RemoteRefused) as refused:
        Remote(address).rank(QUERY, ["a"])
    assert said in str(refused.value) and "\x1b" not in str(refused.value)


@pytest.mark.parametrize("key", ["s3cret\n", "s3 cret", "s3crét"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(key):
    with pytest.raises(InputError, match="api_key") as refused:
        Remote("http://127.0.0.1:9", api_key=key)
    assert "cret" not in str(refused.value)


@pytest.mark.parametrize("error", [RemoteBusy("u", 429, "full", 2.0), RemoteRefused("u", 500, "m", "h")])
def test_errors_cross_processes(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error) and vars(again) == vars(error)


WRONG = {
    "not JSON": b"<html>",
    "no results": {"message": "fine"},
    "nested": b"[" * 100_000,
    "no object": [1],
    "NaN": b'{"results": [{"index": 0, "relevance_score": NaN}, {"index": 1, "relevance_score": 0}]}',
    "a place that was not sent": {"results": [{"index": i, "relevance_score": 0.5} for i in (0, 2)]},
    "a negative place": {"results": [{"index": i, "relevance_score": 0.5} for i in (0, -1)]},
    "a place twice": {"results": [{"index": 0, "relevance_score": 0.5}] * 2},
    "too few": {"results": [{"index": 0, "relevance_score": 0.5}]},
}


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG)
def test_an_answer_that_is_no_ranking_is_refused(answer):
    with scripted((200, {}, answer)) as (address, _), pytest.raises(RemoteAnswerError, match=address):
        Remote(address).rank(QUERY, ["a", "b"])


def test_more_documents_than_a_request_takes_go_in_several(monkeypatch):
    monkeypatch.setattr(remote, "MAX_DOCUMENTS", 3)
    texts = ["x" * length for length in (5, 1, 9, 2, 8, 4, 7)]
    with scripted((200, {}, by_length)) as (address, asked):
        found = Remote(address).rank(QUERY, texts, 4)
        assert [len(body["documents"]) for _, _, body in asked] == [3, 3, 1]
        assert [ranked.place for ranked in found] == [2, 4, 6, 0]
        assert len(Remote(address).rank(QUERY, texts)) == 7


def test_no_documents_ask_nobody():
    assert Remote("http://127.0.0.1:9").rank(QUERY, []) == []


def test_what_the_server_cut_is_warned_of(caplog):
    with scripted((200, {"X-Truncated-Pairs": "1"}, by_length)) as (address, _), caplog.at_level(logging.WARNING):
        Remote(address).rank(QUERY, ["a", "b"])
    assert f"{address}/v2/rerank: 1 of 2 pairs were cut" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"base_url": "127.0.0.1:8000"}, "no address"),
        ({"base_url": "ftp://127.0.0.1"}, "no address"),
        ({"base_url": "http://127.0.0.1:8000/v2/rerank"}, "more than an address"),
        ({"base_url": "https://user:pass@example.org"}, "more than an address"),
        ({"base_url": "http://example.org", "api_key": "k"}, "others could read the key"),
        ({"base_url": "http://127.0.0.1", "timeout": 0}, "timeout"),
        ({"base_url": "http://127.0.0.1", "timeout": float("nan")}, "timeout"),
        ({"api_key": "k"}, "no base_url"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(arguments, said):
    with pytest.raises(InputError, match=said) as refused:
        source(**arguments)
    assert "user:pass" not in str(refused.value)


def test_a_source_is_a_name_a_folder_or_a_reranker(bert_folder, reranker):
    assert source(reranker).reranker is reranker
    assert source(bert_folder).rank("red", ["red", "blue"], 1) == source(str(bert_folder)).rank(
        "red", ["red", "blue"], 1
    )
    with pytest.raises(InputTypeError, match="not a int"):
        source(3)
    with pytest.raises(InputTypeError, match="not a Reranker"):
        source(reranker, "http://127.0.0.1:8000")


@pytest.mark.parametrize("found", [source(base_url="http://127.0.0.1:9"), None], ids=["remote", "local"])
@pytest.mark.parametrize("arguments", [("", ["a"]), ("q", ["a", "\ud83d"]), ("q", ["a"], 0)])
def test_mistaken_calls_are_refused_before_anything_is_asked(found, arguments, reranker):
    with pytest.raises(InputError):
        (found or source(reranker)).rank(*arguments)


def test_a_model_without_probabilities_gives_its_own_scores_and_says_so(bert_folder, caplog):
    grades = Reranker(bert_folder, max_length=96, device="cpu", precision="fp32")
    grades.settings = grades.settings.model_copy(update={"score": "expected_grade", "calibration": None})
    with caplog.at_level(logging.WARNING):
        found = Local(grades).rank(QUERY, DOCUMENTS)
    assert "no probabilities" in caplog.text
    assert found == Local(grades).rank(QUERY, DOCUMENTS, raw=True)


def test_the_key_is_not_shown():
    assert "s3cret" not in repr(Remote("http://127.0.0.1:8000", api_key="s3cret"))
