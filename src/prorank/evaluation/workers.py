"""Blocks of pairs scored by many workers: who gets which, in what order scores are told, what happens when one dies.

A block is at one worker at a time, and its scores are told once and in the blocks' order, so that what is written does
not depend on how many workers there are, which is fastest, or which of them die. Knows a crew by its face and nothing
of how its workers are reached: every failure can be played through in one process.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any, NamedTuple, Protocol

from prorank.engine.scorer import ScoredPairs, log_flaws
from prorank.evaluation.streaming import Pairs
from prorank.util.errors import ProrankError

logger = logging.getLogger(__name__)
AHEAD = 2  # blocks per worker that are read before the first of them is told: the bound on memory
LOSSES = 3  # workers that a block may cost, and deaths in a row at a place


class WorkerLost(ProrankError):
    """A worker ended without an answer: killed, out of memory, or its machine is gone."""


class Ready(NamedTuple):
    """What a worker says when its model is loaded.

    Attributes:
        facts: what its scores depend on, by names that a reader knows; all workers must agree.
        hardware: what it runs on.
        max_length: tokens of a pair.
        passages: whether long documents are read by passages.
        warnings: of loading.
    """

    facts: Mapping[str, Any]
    hardware: Mapping[str, Any]
    max_length: int
    passages: bool
    warnings: Sequence[str] = ()


class Crew(Protocol):
    """Workers elsewhere, each known by its place. What they are asked, they answer later: a ticket stands for it."""

    def places(self) -> Collection[str]:
        """Where a worker may be, as things stand."""
        ...

    def hire(self, place: str) -> Any:
        """Start a worker there, in place of any other; it answers with `Ready`."""
        ...

    def ask(self, place: str, pairs: Pairs) -> Any:
        """Let the worker there score pairs; it answers with `ScoredPairs`."""
        ...

    def finished(self, tickets: Sequence[Any]) -> Any:
        """One of the tickets that has its answer; waits for it."""
        ...

    def answer(self, ticket: Any) -> Any:
        """A finished ticket's answer.

        Raises:
            WorkerLost: there will be none.
            Exception: what the worker raised.
        """
        ...


class Task(NamedTuple):
    """A block that is to be scored."""

    number: int
    pairs: Pairs
    losses: int = 0


class Workers:
    """A crew at work; one worker is ready when this is made.

    Args:
        crew: reaches the workers.

    Attributes:
        ready: what the first worker said.

    Raises:
        ProrankError: no worker could start, or what the first one raised.
    """

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self._asked: dict[Any, tuple[str, Task | None]] = {}  # ticket -> place, and its block unless it is starting
        self._idle: deque[str] = deque()  # places whose workers wait
        self._again: list[Task] = []  # a heap of blocks whose worker died
        self._deaths: Counter[str] = Counter()  # in a row, by place
        self._last_death = ""
        started = None
        while started is None:
            self._hire()
            started = self._hear({})
        place, self.ready = started
        for line in self.ready.warnings:
            logger.warning("%s: %s", place, line)

    def score_blocks(self, blocks: Iterable[Pairs]) -> Iterator[ScoredPairs]:
        """Scores of each block, in the blocks' order.

        Args:
            blocks: read a few ahead of what is told, as many as keep all workers busy.

        Raises:
            ProrankError: no worker is left, workers are not alike, or a block ends every worker that it meets.
            Exception: what a worker raised of a block, when it is that block's turn.
        """
        coming = (Task(number, pairs) for number, pairs in enumerate(blocks))
        done: dict[int, ScoredPairs | Exception] = {}
        told, drawn, ended = 0, 0, False
        while True:
            self._hire()
            while self._idle and (self._again or (not ended and drawn < told + AHEAD * self.count)):
                task = heappop(self._again) if self._again else next(coming, None)
                if task is None:
                    ended = True
                    break
                drawn = max(drawn, task.number + 1)
                place = self._idle.popleft()
                self._asked[self.crew.ask(place, task.pairs)] = place, task
            if ended and told == drawn:
                return
            if started := self._hear(done):
                self._agree(*started)
            while told in done:
                scored = done.pop(told)
                if isinstance(scored, Exception):
                    raise scored
                told += 1
                yield scored

    def warn(self, found: ScoredPairs) -> None:
        """Log what was cut, and answers without a grade."""
        log_flaws(found, self.ready.max_length, self.ready.passages)

    @property
    def count(self) -> int:
        """Workers that wait, work or are starting."""
        return len(self._idle) + len(self._asked)

    def _hire(self) -> None:
        """Start a worker wherever one may be and none is."""
        taken = {*self._idle, *(place for place, _ in self._asked.values())}
        for place in self.crew.places():
            if place not in taken and self._deaths[place] < LOSSES:
                self._asked[self.crew.hire(place)] = place, None
        if not self.count:
            raise ProrankError(
                f"no worker is left: {self._last_death or 'no machine of the cluster offers a CPU'}",
                hint="what was scored is kept: mend the cluster and give the same command again",
            )

    def _hear(self, done: dict[int, ScoredPairs | Exception]) -> tuple[str, Ready] | None:
        """Wait for one answer: scores go to `done`, by their block's number; of a worker that is ready, it is returned.

        Raises:
            ProrankError: a worker cannot load the model.
        """
        ticket = self.crew.finished(list(self._asked))
        place, task = self._asked.pop(ticket)
        answer: Any
        try:
            answer = self.crew.answer(ticket)
        except WorkerLost as error:
            self._bury(place, task, error)
            return None
        except Exception as error:
            if task is None and isinstance(error, ProrankError):
                raise ProrankError(f"the worker at {place}: {error.message}", hint=error.hint) from error
            if task is None:
                raise
            answer = error
        self._idle.append(place)
        if task is None:
            return place, answer
        self._deaths[place] = 0
        done[task.number] = answer
        return None

    def _bury(self, place: str, task: Task | None, error: WorkerLost) -> None:
        """Note a death; the block goes to another worker, unless it has cost too many."""
        self._deaths[place] += 1
        self._last_death = f"{place}: {error.message}"
        logger.warning("a worker died (%s)%s", self._last_death, "" if task is None else "; its block goes to another")
        if task is None:
            return
        if task.losses + 1 == LOSSES:
            raise ProrankError(
                f"block {task.number + 1} of this call has ended {LOSSES} workers, at last {self._last_death}",
                hint="is there enough memory? what was scored before is kept",
            )
        heappush(self._again, task._replace(losses=task.losses + 1))

    def _agree(self, place: str, ready: Ready) -> None:
        """Refuse a worker whose scores would depend on something else than the first one's."""
        first = self.ready.facts
        differing = [name for name in {**first, **ready.facts} if first.get(name) != ready.facts.get(name)]
        if differing:
            told = "; ".join(
                f"{name}: {ready.facts.get(name)} there, {first.get(name)} elsewhere" for name in differing
            )
            raise ProrankError(
                f"the worker at {place} is not like the others: {told}",
                hint="install the same versions and copy the same model to every machine, or name a --precision",
            )
