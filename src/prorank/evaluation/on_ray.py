"""Workers on a Ray cluster: one per GPU, or one per machine with all its cores, each an actor that holds the model.

Plain actors, not Ray Data: what is written must be the same bytes in the same order as one process writes, and resume
from a journal after a kill. Ray Data cuts its input into batches of its own, which pack other pairs together and move
scores in their last digits; it gives blocks back as they finish unless told to preserve order, and then holds what is
early in its object store; and a retried batch is no business of the caller's. Here the blocks are those of one process,
an actor has one at a time, and a block whose actor died is sent again.

Texts go to the actors and scores come back; the collection stays in this process. Knows Ray and a reranker; nothing of
runs.
"""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

from prorank.engine.scorer import ScoredPairs
from prorank.evaluation.rerank_file import ready
from prorank.evaluation.streaming import Pairs, score_block
from prorank.evaluation.workers import Ready, WorkerLost, Workers
from prorank.reranker import Reranker
from prorank.util.errors import ProrankError, needs

with needs("ray"):
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

SHOWN = 300  # characters of Ray's reason for a death
REACHED = 5  # seconds in which the cluster's head must take a connection


class Seat(NamedTuple):
    """What a worker gets.

    Attributes:
        node: Ray's id of the machine.
        cpus: cores; below 1 where GPUs share one.
        gpus: 0 or 1.
    """

    node: str
    cpus: float
    gpus: int


def seats(nodes: Sequence[Mapping[str, Any]], device: str) -> dict[str, Seat]:
    """Where workers may be, by a name to read: one for each GPU, on machines without (or for `cpu`) one for all cores.

    Args:
        nodes: of `ray.nodes()`; those that are gone, or offer no CPU, get none.
        device: of the reranker.

    >>> node = {"Alive": True, "NodeID": "abcdef0123", "NodeManagerAddress": "10.0.0.2"}
    >>> seats([node | {"Resources": {"CPU": 8.0, "GPU": 2.0}}], "auto")["10.0.0.2/abcdef01/1"]
    Seat(node='abcdef0123', cpus=4.0, gpus=1)
    >>> list(seats([node | {"Resources": {"CPU": 8.0, "GPU": 2.0}}], "cpu").values())
    [Seat(node='abcdef0123', cpus=8.0, gpus=0)]
    """
    found = {}
    for node in nodes:
        cpus, gpus = (float(node["Resources"].get(kind, 0.0)) for kind in ("CPU", "GPU"))
        if not node["Alive"] or not cpus:
            continue
        count = int(gpus) if device != "cpu" else 0
        for number in range(count or 1):
            name = f"{node['NodeManagerAddress']}/{node['NodeID'][:8]}/{number}"
            found[name] = Seat(node["NodeID"], (cpus // count or cpus / count) if count else cpus, min(count, 1))
    return found


class Heard(logging.Handler):
    """Keeps warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.lines.append(record.getMessage())


class ModelWorker:
    """A reranker in a process of its own, somewhere in the cluster."""

    def load(self, model: str, options: dict[str, Any]) -> Ready:
        """Load the model; what is warned of meanwhile is sent along, since this process's log stays on its machine."""
        heard = Heard()
        logging.getLogger("prorank").addHandler(heard)
        try:
            self.reranker = Reranker.from_pretrained(model, **options)
        finally:
            logging.getLogger("prorank").removeHandler(heard)
        return ready(self.reranker, model, heard.lines)

    def score(self, pairs: Pairs) -> ScoredPairs:
        """Score a block."""
        return score_block(self.reranker, pairs)


class RayCrew:
    """Workers on the cluster that this process is connected to.

    Args:
        model: name, or a path that every machine has.
        options: of `Reranker`.
    """

    def __init__(self, model: str, options: dict[str, Any]) -> None:
        self.model, self.options = model, options
        self._actors: dict[str, Any] = {}
        self._seats: dict[str, Seat] = {}

    def places(self) -> Collection[str]:
        """Names of the seats, as things stand."""
        self._seats = seats(ray.nodes(), str(self.options.get("device", "auto")))
        return self._seats

    def hire(self, place: str) -> Any:
        """Start an actor there, in place of any other."""
        seat = self._seats[place]
        if place in self._actors:
            ray.kill(self._actors[place])  # one that cannot be reached may live on
        self._actors[place] = (
            ray.remote(ModelWorker)
            .options(
                num_cpus=seat.cpus,
                num_gpus=seat.gpus,
                scheduling_strategy=NodeAffinitySchedulingStrategy(seat.node, soft=False),
            )
            .remote()
        )
        return self._actors[place].load.remote(self.model, self.options)

    def ask(self, place: str, pairs: Pairs) -> Any:
        """Send a block."""
        return self._actors[place].score.remote(pairs)

    def finished(self, tickets: Sequence[Any]) -> Any:
        """Wait for one of the answers."""
        (ready, *_), _ = ray.wait(list(tickets), num_returns=1)
        return ready

    def answer(self, ticket: Any) -> Any:
        """The answer.

        Raises:
            WorkerLost: the actor is gone.
            Exception: what it raised.
        """
        try:
            return ray.get(ticket)
        except RayTaskError as error:
            raise error.cause if isinstance(error.cause, ProrankError) else error from None
        except RayError as error:
            raise WorkerLost(" ".join(str(error).split())[:SHOWN]) from None


@contextmanager
def ray_workers(address: str, model: str, options: dict[str, Any]) -> Iterator[Workers]:
    """Workers of a Ray cluster, as long as the context is open; what is printed meanwhile goes to standard error.

    Args:
        address: `HOST:PORT` of the cluster's head, or `auto` for the cluster that this machine is part of.
        model: name, or a path that every machine has.
        options: of `Reranker`.

    Raises:
        ProrankError: no cluster there, or no worker could start.
    """
    path = Path(model)
    model = str(path.resolve()) if path.exists() else model
    connected = ray.is_initialized()
    with redirect_stdout(sys.stderr):  # Ray prints what happens to its processes
        if not connected:
            _connect(address)
        try:
            yield Workers(RayCrew(model, options))
        finally:
            if not connected:
                ray.shutdown()


def _connect(address: str) -> None:
    """Join the cluster at an address.

    Raises:
        ProrankError: there is none.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdecimal():  # Ray itself tries for minutes
            socket.create_connection((host.strip("[]"), int(port)), REACHED).close()
        ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
    except (OSError, ValueError, RuntimeError, OverflowError) as error:
        told = " ".join(str(error).split())[:SHOWN]
        raise ProrankError(
            f"no Ray cluster at {address}: {told}",
            hint="run this on one of its machines; `ray status` there tells whether it is up",
        ) from error
