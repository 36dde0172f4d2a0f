"""Servers in processes of their own, and clients that ask them: many at once, each in turn, answers checked.

Knows HTTP and the scores that are expected; nothing of models.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from prorank.util.errors import ProrankError, require

START_SECONDS = 120
ANY_MODEL = "default/not-specified"  # what infinity takes for its only model; prorank passes it over
OFFLINE = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}


class Ask(NamedTuple):
    """A request: a query, documents, and the score that each is expected to have (None: any)."""

    query: str
    documents: list[str]
    scores: Sequence[float] | None = None


@dataclass
class Tally:
    """What clients got.

    Attributes:
        seconds: of each answered request.
        pairs: in answered requests.
        wrong: answers with a score that is not as expected, or not one score per document.
        lost: why requests were not answered -> how many.
    """

    seconds: list[float] = field(default_factory=list)
    pairs: int = 0
    wrong: int = 0
    lost: Counter[str] = field(default_factory=Counter)

    def summary(self, wall: float) -> dict[str, Any]:
        """For results; times in milliseconds."""
        found: dict[str, Any] = {"requests": len(self.seconds), "wrong": self.wrong, "lost": dict(self.lost)}
        found["pairs_per_second"] = self.pairs / wall
        if self.seconds:
            p50, p99 = 1e3 * np.percentile(self.seconds, [50, 99])
            found |= {"p50_ms": float(p50), "p99_ms": float(p99)}
        return found


@dataclass
class Running:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    address: str
    ready_seconds: float
    lines: list[str]
    reader: threading.Thread

    def ended(self) -> list[str]:
        """Its log lines, once it has ended."""
        self.process.wait(START_SECONDS)
        self.reader.join(10)
        return self.lines


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def running(command: Sequence[str], port: int) -> Iterator[Running]:
    """A server that answers at /health, as long as the context is open.

    Args:
        command: starts it.
        port: on which it will listen.

    Raises:
        ProrankError: it ended, or did not answer in time; the message has its last line.
    """
    httpx = require("httpx", "bench")
    begin = time.perf_counter()
    process = subprocess.Popen(
        list(command), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ | OFFLINE
    )
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True)
    reader.start()
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            if process.poll() is not None or time.perf_counter() - begin > START_SECONDS:
                raise ProrankError(f"{' '.join(command[:4])} did not start: {(lines or ['no output'])[-1].strip()}")
            try:
                if httpx.get(f"{address}/health", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.02)
        yield Running(process, address, time.perf_counter() - begin, lines, reader)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)
        reader.join(10)


def serve_command(model: str, port: int, *options: str) -> list[str]:
    """Start prorank's own server."""
    return [sys.executable, "-m", "prorank.cli", "serve", model, "--port", str(port), "--log-json", *options]


def infinity_command(python: str, model: str, port: int) -> list[str]:
    """Start infinity's server on the CPU, as its documentation does."""
    options = ["--engine", "torch", "--device", "cpu", "--no-bettertransformer", "--no-model-warmup"]
    start = "from infinity_emb.cli import cli; cli()"
    return [python, "-c", start, "v2", "--model-id", model, "--host", "127.0.0.1", "--port", str(port), *options]


async def ask(client: Any, path: str, wanted: Ask, tally: Tally, tolerance: float, name: str) -> None:
    """Send one request, `name` as its X-Request-ID, and check the scores of the answer."""
    body = {"model": ANY_MODEL, "query": wanted.query, "documents": wanted.documents, "raw_scores": True}
    begin = time.perf_counter()
    try:
        answer = await client.post(path, json=body, headers={"X-Request-ID": name})
    except Exception as error:
        tally.lost[type(error).__name__] += 1
        return
    seconds = time.perf_counter() - begin
    if answer.status_code != 200:
        tally.lost[str(answer.status_code)] += 1
        return
    tally.seconds.append(seconds)
    tally.pairs += len(wanted.documents)
    scores = {result["index"]: result["relevance_score"] for result in answer.json()["results"]}
    found = [scores.get(place, float("nan")) for place in range(len(wanted.documents))]
    expected = found if wanted.scores is None else wanted.scores
    if len(scores) != len(found) or not np.allclose(found, expected, rtol=0, atol=tolerance):
        tally.wrong += 1


class Clients(NamedTuple):
    """Clients of one kind: so many, each with its asks in turn, and a mean pause between two of them in seconds."""

    number: int
    asks: Sequence[Ask]
    pause: float = 0.0


async def _load(
    address: str,
    path: str,
    kinds: Sequence[Clients],
    seconds: float,
    tolerance: float,
    stop: Callable[[], None] | None,
    name: str,
) -> list[Tally]:
    httpx = require("httpx", "bench")
    tallies, unlimited = [Tally() for _ in kinds], httpx.Limits(max_connections=None)

    async def one(client: Any, number: int, kind: Clients, tally: Tally) -> None:
        generator, asked = random.Random(number), number * len(kind.asks) // kind.number
        while True:
            if kind.pause:
                await asyncio.sleep(generator.expovariate(1 / kind.pause))
            wanted = kind.asks[asked % len(kind.asks)]
            await ask(client, path, wanted, tally, tolerance, f"{name}-{number}-{asked}")
            asked += 1
            if time.perf_counter() > until or (stop is not None and tally.lost):
                return

    async def ending() -> None:
        if stop is not None:
            await asyncio.sleep(seconds / 2)
            stop()

    async with httpx.AsyncClient(base_url=address, timeout=START_SECONDS, limits=unlimited) as client:
        until = time.perf_counter() + seconds
        asking = (one(client, n, kind, tally) for kind, tally in zip(kinds, tallies) for n in range(kind.number))
        await asyncio.gather(ending(), *asking)
    return tallies


def load(
    address: str,
    path: str,
    kinds: Sequence[Clients],
    seconds: float,
    tolerance: float,
    stop: Callable[[], None] | None = None,
    name: str = "load",
) -> tuple[list[Tally], float]:
    """Let clients ask for some time.

    Args:
        address: of the server.
        path: of its rerank API.
        kinds: who asks what.
        seconds: after them no client asks again; each asks once at least.
        tolerance: by which a score may differ from the expected one.
        stop: called after half of the time; clients whose request is lost then go home.
        name: with which the ids of the requests begin.

    Returns:
        A tally a group, and the seconds until the last answer.
    """
    begin = time.perf_counter()
    tallies = asyncio.run(_load(address, path, kinds, seconds, tolerance, stop, name))
    return tallies, time.perf_counter() - begin


def resident_bytes(pid: int) -> int:
    """Memory that a process holds (Linux).

    Raises:
        ProrankError: the system does not tell.
    """
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8") as file:
            found = re.search(r"^VmRSS:\s+(\d+) kB", file.read(), re.MULTILINE)
    except OSError:
        found = None
    if found is None:
        raise ProrankError("a process's memory is read from /proc, which is not here", hint="run this on Linux")
    return 1024 * int(found[1])
