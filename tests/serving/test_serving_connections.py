"""Connections: a client that lets the server wait is cut, whatever it waits for."""

import socket
import time
from contextlib import suppress
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI, Response
from served import running

SIZE = 2**26  # bytes of an answer: more than the system's buffers hold
ASKED = b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n"
BEGUN = b"GET /small HTTP/1.1\r\nHost: "
UNREAD = b"POST /small HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\n"


@pytest.fixture(scope="module")
def address():
    """Of a server that waits two seconds for each step."""
    app = FastAPI()
    app.add_api_route("/small", lambda: {}, methods=["GET", "POST"])
    app.add_api_route("/large", lambda: Response(b"a" * SIZE))
    with running(app, 2.0) as url:
        yield urlsplit(url).hostname, urlsplit(url).port


def received(client):
    """Bytes that came until the connection ended."""
    count = 0
    with suppress(ConnectionError):
        while part := client.recv(2**20):
            count += len(part)
    return count


@pytest.mark.parametrize(
    ("first", "then"),
    [(b"", b""), (BEGUN, b"a"), (ASKED + BEGUN, b"a"), (UNREAD, b"a")],
    ids=["silence", "headers", "the next headers", "a body that was answered before its end"],
)
def test_a_client_that_does_not_go_on_is_cut(address, first, then):
    with socket.create_connection(address) as client:
        client.sendall(first)
        client.settimeout(0.2)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with suppress(TimeoutError):
                try:
                    if not client.recv(2**16):
                        break
                except ConnectionError:
                    break
            with suppress(ConnectionError):
                client.sendall(then)
        assert time.monotonic() < end


def test_a_client_that_does_not_take_its_answer_is_cut(address):
    with socket.create_connection(address) as client:
        client.sendall(ASKED.replace(b"small", b"large"))
        time.sleep(5)  # longer than the steps
        assert 0 < received(client) < SIZE


def test_a_client_that_goes_on_is_answered_for_longer_than_a_step_takes(address):
    client = HTTPConnection(*address)
    sockets = set()
    for _ in range(6):
        client.request("GET", "/small")
        assert client.getresponse().read() == b"{}"
        sockets.add(client.sock)
        time.sleep(0.5)
    assert len(sockets) == 1
    client.close()
