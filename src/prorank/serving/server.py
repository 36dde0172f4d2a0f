"""Run the application: sockets, log lines, signals. uvicorn does the HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from prorank.util.errors import InputError
from prorank.util.terminal import visible

GRACE = 5  # seconds beyond a request's time that a shutdown waits
BACKLOG = 2_048


class Lines(logging.Formatter):
    """Log records as one line each: words, or JSON objects with a request's facts as fields."""

    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self.as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z"
        facts = getattr(record, "facts", None)
        if not self.as_json:
            return visible(f"{when} {record.levelname} {record.getMessage()}")
        told = facts if facts is not None else {"message": record.getMessage()}
        return json.dumps({"time": when, "level": record.levelname, "logger": record.name} | told)


def log_lines(as_json: bool) -> None:
    """Send all log lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(as_json))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("prorank").setLevel(logging.INFO)


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections.

    Raises:
        InputError: the address is in use, not this machine's, or not allowed.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}", hint="choose another --host or --port"
        ) from error


class Connection(HttpToolsProtocol):
    """uvicorn's connection, which is cut if its next step does not come in time; uvicorn waits for ever.

    The steps are a request's headers, then its answer, which the application gives in time, and the client's taking
    it. What comes of a body after the answer is no step.

    Args:
        timeout: seconds for each step.
        options: of uvicorn's.
    """

    def __init__(self, timeout: float, **options: Any) -> None:
        super().__init__(**options)
        self.timeout = timeout
        self.cut: asyncio.TimerHandle | None = None

    def allow(self, steps: int) -> None:
        """Give the client and the application time for so many steps from now on."""
        if self.cut is not None:
            self.cut.cancel()
        self.cut = self.loop.call_later(steps * self.timeout, self.transport.abort)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first headers."""
        super().connection_made(transport)
        self.allow(1)

    def on_headers_complete(self) -> None:
        """Wait for the answer and for its being taken."""
        super().on_headers_complete()
        self.allow(2)

    def on_response_complete(self) -> None:
        """Wait for the last bytes of the answer to go, and for the next headers."""
        super().on_response_complete()
        self.allow(1 if self.cycle.response_complete else 2)  # or another request's answer, whose headers came early

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing."""
        if self.cut is not None:
            self.cut.cancel()
        super().connection_lost(exc)


class Server(uvicorn.Server):
    """uvicorn, which says when it takes requests on, and on SIGTERM or SIGINT answers what it accepted and ends.

    Args:
        app: of `create_app`.
        timeout: seconds that a request may take once its headers are there, and they themselves.
        started: called when requests are taken on.
    """

    def __init__(self, app: FastAPI, timeout: float, started: Callable[[], None] = lambda: None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=partial(Connection, timeout),  # type: ignore[arg-type]  # called as the class would be
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=int(timeout) + GRACE,
            )
        )
        self.on_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        if self.started:
            self.on_started()
