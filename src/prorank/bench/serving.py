"""The server measured: against the offline engine, beside infinity, under mixed load, when told to end, under attack.

Every server runs in a process of its own on this machine and is asked over loopback. Throughput is in pairs per second,
on the same pairs everywhere; answers are compared with the direct call's scores.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from prorank.bench.hostile import hostile_body
from prorank.bench.load import (
    Ask,
    Clients,
    Running,
    free_port,
    infinity_command,
    load,
    resident_bytes,
    running,
    serve_command,
)
from prorank.bench.models import first_stage_pairs, make_cross_encoder
from prorank.data.collection import load_collection
from prorank.engine.scorer import token_budget
from prorank.reranker import Reranker
from prorank.util.errors import require
from prorank.util.provenance import hardware, versions

DEPTH = 20  # documents of a request under load
LARGE, SMALL, SMALL_CLIENTS = 1_000, 5, 16  # the mixed load
SMALL_SHARE = 0.3  # of the offline throughput that all small clients of the mixed load together ask for
TOLERANCE = 1e-3  # raw scores in fp32 may differ by the order of sums
PATHS = ("/v1/rerank", "/v2/rerank", "/rerank", "/score", "/v1/score")
BODY = 8 * 2**20  # bytes that the server takes
PATIENCE = 600  # seconds that a request may take: a slow machine is to answer late, not never


def requests_of(pairs: Sequence[tuple[str, str]], scores: Sequence[float] | None = None) -> list[Ask]:
    """One request for each run of pairs with the same query.

    >>> requests_of([("a", "x"), ("a", "y"), ("b", "x")], [1.0, 2.0, 3.0])[1]
    Ask(query='b', documents=['x'], scores=[3.0])
    """
    found, place = [], 0
    for query, group in groupby(pairs, key=lambda pair: pair[0]):
        documents = [document for _, document in group]
        expected = None if scores is None else list(scores[place : place + len(documents)])
        found.append(Ask(query, documents, expected))
        place += len(documents)
    return found


def offline(reranker: Reranker, pairs: list[tuple[str, str]], seconds: float) -> tuple[float, list[float]]:
    """Pairs per second of direct calls with all pairs, and their scores."""
    scores = reranker.score(pairs)  # also warms up
    begin, calls = time.perf_counter(), 0
    while not calls or time.perf_counter() - begin < seconds:
        reranker.score(pairs)
        calls += 1
    return calls * len(pairs) / (time.perf_counter() - begin), scores


def lone_direct(reranker: Reranker, asks: Sequence[Ask], seconds: float) -> float:
    """Median seconds of a direct call with one request's pairs."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        wanted = asks[len(times) % len(asks)]
        begin = time.perf_counter()
        reranker.score([(wanted.query, document) for document in wanted.documents])
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def token_seconds(address: str) -> float:
    """Seconds that the server's model took for a token, over all batches so far."""
    httpx = require("httpx", "bench")
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    found = {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}
    return found["prorank_batch_seconds_sum"] / found["prorank_batch_tokens_sum"]


def under_sigterm(server: Running, asks: Sequence[Ask], clients: int, seconds: float) -> dict[str, Any]:
    """Tell a server under load to end: what it logged as accepted against what clients got."""
    kinds = [Clients(clients, asks)]
    (tally,), _ = load(server.address, "/v1/rerank", kinds, seconds, TOLERANCE, server.process.terminate, "sigterm")
    lines = [json.loads(line) for line in server.ended() if line.startswith("{")]
    asked = [line for line in lines if line.get("request_id", "").startswith("sigterm-")]
    return {
        "answered": len(tally.seconds),
        "wrong": tally.wrong,
        "not_taken_on": dict(tally.lost),  # connections that were refused, or closed before anything was read
        "logged": len(asked),
        "logged_without_answer": sum(line["status"] != 200 for line in asked),
        "exit_code": server.process.returncode,
    }


def hostile(server: Running, bodies: int, seed: int = 13) -> dict[str, Any]:
    """Send hostile bodies; statuses, and how the server's memory grew after the first tenth of them."""
    httpx = require("httpx", "bench")
    generator, statuses, start = random.Random(seed), dict[str, int](), 0
    with httpx.Client(base_url=server.address, timeout=60) as client:
        for number in range(bodies):
            if number == bodies // 10:
                start = resident_bytes(server.process.pid)
            answer = client.post(PATHS[number % len(PATHS)], content=hostile_body(generator, BODY))
            statuses[str(answer.status_code)] = statuses.get(str(answer.status_code), 0) + 1
        alive = client.get("/health").status_code == 200
    end = resident_bytes(server.process.pid)
    failures = sum(count for status, count in statuses.items() if status == "424" or status >= "500")
    return {
        "bodies": bodies,
        "statuses": statuses,
        "failures": failures,
        "alive": alive,
        "resident_bytes": [start, end],
        "growth": end / start - 1,
    }


def beside_infinity(
    python: str, work: Path, pairs: list[tuple[str, str]], clients: int, seconds: float, console: Console
) -> dict[str, Any]:
    """Pairs per second of one cross-encoder of the MiniLM shape, served by prorank and by infinity."""
    folder = work / "cross-encoder"
    if not folder.is_dir():
        make_cross_encoder(folder)
    reranker = Reranker(folder, precision="fp32", device="cpu", max_length=512)
    asks = requests_of(pairs, reranker.score(pairs))
    ours_port, theirs_port = free_port(), free_port()
    options = ("--precision", "fp32", "--device", "cpu", "--max-length", "512", "--timeout", str(PATIENCE))
    servers = {
        "prorank": (serve_command(str(folder), ours_port, *options), ours_port, "/v1/rerank"),
        "infinity": (infinity_command(python, str(folder), theirs_port), theirs_port, "/rerank"),
    }
    found: dict[str, Any] = {}
    for name, (command, port, path) in servers.items():
        with _status(console, f"{name}, {clients} clients"), running(command, port) as server:
            load(server.address, path, [Clients(clients, asks)], min(2.0, seconds), TOLERANCE)  # warms up
            (tally,), wall = load(server.address, path, [Clients(clients, asks)], seconds, TOLERANCE)
        found[name] = tally.summary(wall)
    return found | {"ratio": found["prorank"]["pairs_per_second"] / found["infinity"]["pairs_per_second"]}


def run_serving_bench(
    model: str,
    collection: str,
    work: Path,
    *,
    seconds: float,
    clients: int,
    bodies: int,
    infinity: str | None,
    console: Console,
) -> dict[str, Any]:
    """Measure everything in one run.

    Args:
        model: name or folder.
        collection: whose first-stage lists are asked.
        work: folder for the model that infinity shares.
        seconds: of the load by many clients; the other loads take a quarter of it.
        clients: of that load.
        bodies: hostile bodies; 0 sends none.
        infinity: a Python that has infinity-emb, or None.
        console: for progress.
    """
    data, brief = load_collection(collection), seconds / 4
    pairs = first_stage_pairs(data, DEPTH, clients * DEPTH)
    reranker = Reranker(model)
    budget = token_budget(reranker.backbone)
    with _status(console, "direct calls"):
        speed, scores = offline(reranker, pairs, brief)
    asks = requests_of(pairs, scores)
    few = [Ask(a.query, a.documents[:SMALL], (a.scores or [])[:SMALL]) for a in asks]
    contents = [document.content for document in data.documents.values()]
    many = [Ask(a.query, (contents * (1 + LARGE // len(contents)))[:LARGE]) for a in asks[:4]]
    results: dict[str, Any] = {
        "model": model,
        "collection": data.name,
        "hardware": hardware(),
        "versions": versions(),
        "seconds": seconds,
        "clients": clients,
        "documents": DEPTH,
        "max_batch_tokens": budget,
        "offline_pairs_per_second": speed,
    }
    direct = lone_direct(reranker, few, brief / 4)
    options = ("--max-batch-tokens", str(budget), "--max-body", str(BODY), "--timeout", str(PATIENCE))
    with running(serve_command(model, port := free_port(), *options), port) as server:
        results["ready_seconds"] = server.ready_seconds

        def asked(what: str, kinds: list[Clients], duration: float) -> list[dict[str, Any]]:
            with _status(console, what):
                tallies, wall = load(server.address, "/v1/rerank", kinds, duration, TOLERANCE)
            return [tally.summary(wall) for tally in tallies]

        asked("warming up", [Clients(4, asks)], min(2.0, brief))
        (lone,) = asked("a lone client", [Clients(1, few)], brief / 4)
        (results["load"],) = asked(f"{clients} clients", [Clients(clients, asks)], seconds)
        batch = 1e3 * budget * token_seconds(server.address)
        pause = SMALL_CLIENTS * SMALL / (SMALL_SHARE * speed)
        large, small = asked("a mixed load", [Clients(1, many), Clients(SMALL_CLIENTS, few, pause)], brief)
        if bodies:
            with _status(console, f"{bodies} hostile bodies"):
                results["hostile"] = hostile(server, bodies)
        with _status(console, "SIGTERM under load"):
            results["sigterm"] = under_sigterm(server, asks, clients, brief)
    results["throughput_ratio"] = results["load"]["pairs_per_second"] / speed
    results["lone"] = lone | {"direct_p50_ms": 1e3 * direct, "overhead_ms": lone["p50_ms"] - 1e3 * direct}
    bound = 3 * lone["p50_ms"] + batch
    results["mixed"] = {"large": large, "small": small, "pause_seconds": pause, "batch_ms": batch, "bound_ms": bound}
    results["mixed"]["p99_over_bound"] = small["p99_ms"] / bound
    results["infinity"] = (
        beside_infinity(infinity, work, pairs, clients, brief, console)
        if infinity
        else {"note": "not measured: no --infinity PYTHON was given"}
    )
    return results


def _status(console: Console, what: str) -> AbstractContextManager[Any]:
    return console.status(what) if console.is_terminal else nullcontext()
