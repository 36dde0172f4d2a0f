"""The queue between requests and the model: whose sequences the next batch holds.

Requests put token sequences in; one thread takes batches out, runs the model, and hands a request its scores when all
are there. Long requests are split over batches. Short ones go first, in batches of their own, but only a few times in a
row while longer ones wait; then every request gets its share of a batch, the one served longest ago first.

Knows sequences and a function that scores them; nothing of HTTP, texts or models.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from prorank.util.errors import ProrankError

logger = logging.getLogger(__name__)
PATIENCE = 3  # batches of short requests in a row while longer ones wait
Score = Callable[[list[list[int]], list[int]], Sequence[float]]  # sequences, number of each one's query -> scores


class QueueFull(ProrankError):
    """Too many pairs wait.

    Attributes:
        seconds: until there may be room.
    """

    def __init__(self, waiting: int, limit: int, seconds: int) -> None:
        super().__init__(f"{waiting} pairs wait and {limit} may", hint=f"try again in {seconds} s")
        self.seconds = seconds


class QueueClosed(ProrankError):
    """The server is going down and takes nothing on."""


@dataclass(eq=False)
class Job:
    """A request's sequences and, in time, its scores.

    Args:
        sequences: token ids of each pair.
        groups: number of each pair's query; pairs of equal number may share the reading of its prefix.

    Attributes:
        future: gets the scores, in order, or what went wrong. Cancelling it takes the job out of the queue.
        taken: sequences that are in a batch, or behind it.
    """

    sequences: Sequence[list[int]]
    groups: Sequence[int]
    future: Future[list[float]] = field(default_factory=Future)
    taken: int = 0

    def __post_init__(self) -> None:
        self.left = sum(map(len, self.sequences))  # tokens that are not taken yet
        self._scores = [0.0] * len(self.sequences)
        self._missing = len(self.sequences)

    @property
    def rest(self) -> int:
        """Sequences that are not taken yet."""
        return len(self.sequences) - self.taken

    def take(self, tokens: int, at_most: int) -> int:
        """Take sequences that together have at most so many tokens, or one of up to `at_most`.

        Returns:
            Tokens taken.
        """
        start, used = self.taken, 0
        while self.rest:
            size = len(self.sequences[self.taken])
            if used + size > (tokens if self.taken > start else max(tokens, at_most)):
                break
            used += size
            self.taken += 1
        self.left -= used
        return used

    def put(self, start: int, scores: Sequence[float]) -> None:
        """Note scores of the sequences from `start` on; the last ones fulfil the future."""
        self._scores[start : start + len(scores)] = map(float, scores)
        self._missing -= len(scores)
        if not self._missing:
            with suppress(InvalidStateError):  # nobody waits any more
                self.future.set_result(self._scores)


class Share(NamedTuple):
    """Sequences `start:stop` of a job, in one batch."""

    job: Job
    start: int
    stop: int


class Ran(NamedTuple):
    """A batch that was scored."""

    requests: int
    pairs: int
    tokens: int
    seconds: float


def whole_jobs(waiting: Sequence[Job], budget: int) -> list[Job]:
    """The jobs with the least left that together fit a batch."""
    found, left = [], budget
    for job in sorted(waiting, key=lambda job: job.left):
        if job.left > left:
            break
        found.append(job)
        left -= job.left
    return found


def even_shares(waiting: Sequence[Job], budget: int) -> list[Share]:
    """A batch with a part of every job, equal parts where it can; the first job always gets one.

    What a job leaves of its part goes to those behind it, and what is left after all to the first again.
    """
    starts = {job: job.taken for job in waiting}
    left, open_jobs = budget, list(waiting)
    while open_jobs:
        still_open = []
        for place, job in enumerate(open_jobs):
            alone = left == budget  # a sequence beyond the budget makes a batch of its own
            used = job.take(left // (len(open_jobs) - place), at_most=max(map(len, job.sequences)) if alone else left)
            left = max(0, left - used)
            if used and job.rest:
                still_open.append(job)
        open_jobs = still_open
    return [Share(job, start, job.taken) for job, start in starts.items() if job.taken > start]


class Batcher:
    """One thread that owns the model, and the jobs that wait for it.

    Args:
        score: scores one batch; only the batcher's thread calls it.
        budget: tokens of a batch.
        max_pairs: pairs that may be admitted and unanswered at once.
        observe: hears of every batch that was scored.
        begin: what the thread does first, before `start` comes back.
    """

    def __init__(
        self,
        score: Score,
        budget: int,
        max_pairs: int,
        observe: Callable[[Ran], None] = lambda ran: None,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        self.score, self.budget, self.max_pairs, self.observe, self.begin = score, budget, max_pairs, observe, begin
        self.admitted_pairs = 0
        self.failures = 0  # batches in a row that could not be scored
        self._waiting: deque[Job] = deque()  # the one served longest ago first
        self._in_a_row = 0  # batches of short jobs while others waited
        self._pairs_per_second = 0.0
        self._ready = threading.Condition()
        self._closing = False
        self._begun: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, name="prorank-engine", daemon=True)

    @property
    def waiting_pairs(self) -> int:
        """Pairs that no batch has taken yet."""
        with self._ready:
            return sum(job.rest for job in self._waiting)

    @property
    def running(self) -> bool:
        """Whether jobs are taken and worked on."""
        return self._thread.is_alive() and not self._closing

    def start(self) -> None:
        """Start the thread, and wait until it is ready for work.

        Raises:
            Exception: what `begin` raised.
        """
        self._thread.start()
        self._begun.result()

    def close(self) -> None:
        """Take no more jobs, finish those that wait, end the thread."""
        with self._ready:
            self._closing = True
            self._ready.notify()
        if self._thread.is_alive():
            self._thread.join()

    @contextmanager
    def admitted(self, pairs: int) -> Iterator[None]:
        """Room for so many pairs, kept as long as the context is open.

        Raises:
            QueueFull: there is none; with the seconds after which there may be.
            QueueClosed: the server is going down.
        """
        with self._ready:
            if self._closing:
                raise QueueClosed("the server is shutting down")
            if self.admitted_pairs + pairs > self.max_pairs:
                raise QueueFull(self.admitted_pairs, self.max_pairs, self._seconds_until_room())
            self.admitted_pairs += pairs
        try:
            yield
        finally:
            with self._ready:
                self.admitted_pairs -= pairs

    def _seconds_until_room(self) -> int:
        if not self._pairs_per_second:
            return 1
        return min(60, 1 + int(self.admitted_pairs / self._pairs_per_second / 2))

    def submit(self, job: Job) -> Future[list[float]]:
        """Queue a job; its future gets the scores.

        Raises:
            QueueClosed: the server is going down.
        """
        if not job.sequences:
            job.future.set_result([])
            return job.future
        with self._ready:
            if self._closing:
                raise QueueClosed("the server is shutting down")
            self._waiting.append(job)
            self._ready.notify()
        job.future.add_done_callback(lambda _: self._forget(job))
        return job.future

    def _forget(self, job: Job) -> None:
        """Take out what is left of a job that is cancelled or has failed."""
        with self._ready, suppress(ValueError):
            self._waiting.remove(job)

    def _next(self) -> list[Share]:
        """The next batch, taken out of the queue."""
        whole = whole_jobs(self._waiting, self.budget)
        if whole and (len(whole) == len(self._waiting) or self._in_a_row < PATIENCE):
            self._in_a_row = self._in_a_row + 1 if len(whole) < len(self._waiting) else 0
            shares = [Share(job, job.taken, len(job.sequences)) for job in whole]
            for job in whole:
                job.taken, job.left = len(job.sequences), 0
        else:
            self._in_a_row = 0
            shares = even_shares(self._waiting, self.budget)
        served = {share.job for share in shares}
        unserved = [job for job in self._waiting if job not in served]
        self._waiting = deque([*unserved, *(job for job in self._waiting if job in served and job.rest)])
        return shares

    def step(self) -> bool:
        """Score one batch.

        Returns:
            Whether there was anything to do.
        """
        with self._ready:
            shares = self._next()
        if shares:
            self._run(shares)
        return bool(shares)

    def _run(self, shares: Sequence[Share]) -> None:
        """Score a batch; where that fails, each job's share alone, so that only the one at fault fails."""
        sequences = [ids for job, start, stop in shares for ids in job.sequences[start:stop]]
        numbers: dict[tuple[int, int], int] = {}
        groups = [
            numbers.setdefault((place, group), len(numbers))
            for place, (job, start, stop) in enumerate(shares)
            for group in job.groups[start:stop]
        ]
        begin = time.perf_counter()
        try:
            scores = self.score(sequences, groups)
        except Exception as error:
            if len(shares) > 1:
                for share in shares:
                    self._run([share])
                return
            self.failures += 1
            with suppress(InvalidStateError):
                shares[0].job.future.set_exception(error)
            return
        self.failures = 0
        seconds = time.perf_counter() - begin
        speed = len(sequences) / max(seconds, 1e-9)
        self._pairs_per_second = 0.8 * self._pairs_per_second + 0.2 * speed if self._pairs_per_second else speed
        self.observe(Ran(len(shares), len(sequences), sum(map(len, sequences)), seconds))
        done = 0
        for job, start, stop in shares:
            job.put(start, scores[done : done + stop - start])
            done += stop - start

    def _work(self) -> None:
        try:
            self.begin()
        except Exception as error:
            self._begun.set_exception(error)
            return
        self._begun.set_result(None)
        while True:
            with self._ready:
                while not self._waiting and not self._closing:
                    self._ready.wait()
                if not self._waiting:
                    return
            self.step()
