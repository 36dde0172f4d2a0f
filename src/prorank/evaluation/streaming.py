"""Reranking of long runs: blocks of whole queries, bounded memory, a journal from which a killed process resumes.

A block holds whole queries, so that a query's documents share its prefix as they would in one call. Knows runs, a
collection's texts and a scorer's face; nothing of models.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from rich.console import Console
from rich.progress import Progress

from prorank.data.collection import Collection
from prorank.data.runs import Run, pairs_within, rerank_run, scored_lists, top
from prorank.data.trec import check_ids, read_run, refuse_twice, run_lines, run_rows
from prorank.engine.scorer import ScoredPairs
from prorank.prompts.truncation import all_cuts
from prorank.util.errors import DataError, InputError, ProrankError
from prorank.util.files import read_json, write_json

logger = logging.getLogger(__name__)
BLOCK = 2_000  # pairs that are scored together: enough to fill many passes, few enough to lose little by a kill
MOST = 2 * BLOCK  # pairs of one call: a single list may be longer than a block

_START_OVER = "--force starts over"

Lists = Iterable[tuple[str, Mapping[str, float]]]  # query id, its first-stage list


class Pairs(NamedTuple):
    """Pairs that are scored together, and which of them stand in one list.

    Attributes:
        texts: of queries and documents.
        lists: number of each pair's list; two queries of one text have two.
    """

    texts: list[tuple[str, str]]
    lists: list[int]


class Scorer(Protocol):
    """Anything that scores (query, document) pairs, `Reranker` above all."""

    @property
    def whole_lists(self) -> bool:
        """Whether a document's score depends on the others of its list."""
        ...

    def score_detailed(
        self, pairs: Sequence[tuple[str, Any]], progress: str | None = None, lists: Sequence[int] | None = None
    ) -> ScoredPairs:
        """Scores in input order and what was cut; `lists` are the numbers of the pairs' lists."""
        ...

    def warn(self, found: ScoredPairs) -> None:
        """Log what was cut, and answers without a grade."""
        ...


@runtime_checkable
class BlockScorer(Protocol):
    """Anything that scores blocks of pairs, several at once (`workers.Workers`)."""

    def score_blocks(self, blocks: Iterable[Pairs]) -> Iterator[ScoredPairs]:
        """Scores of each block and what was cut, in the blocks' order."""
        ...

    def warn(self, found: ScoredPairs) -> None:
        """Log what was cut, and answers without a grade."""
        ...


class RunShape(NamedTuple):
    """How much a run holds: its queries, its pairs within a depth, and whether each query's rows stand together."""

    queries: int
    pairs: int
    together: bool


def survey(path: str | Path, collection: Collection, depth: int) -> RunShape:
    """Read a run once, keeping nothing but query ids, and check that the collection has all its texts.

    Raises:
        DataError: a malformed row, an id that the collection lacks, or a document twice in the rows of a query that
            stand together; with the line.
    """
    sizes: dict[str, int] = {}
    last, together, listed = "", True, set[str]()
    for place, query, document, _ in run_rows(path):
        check_ids((query, document), place)
        if query not in collection.queries:
            raise DataError(f"{place}: query '{query}' is not in {collection.name}")
        if document not in collection.documents:
            raise DataError(f"{place}: document '{document}' is not in {collection.name}")
        if query != last:
            together = together and query not in sizes
            last, listed = query, set()
        refuse_twice(listed, query, document, place)
        listed.add(document)
        sizes[query] = sizes.get(query, 0) + 1
    if not sizes:
        raise DataError(f"{path}: the run is empty")
    return RunShape(len(sizes), sum(min(depth, size) for size in sizes.values()), together)


def lists_of_file(path: str | Path, together: bool) -> Lists:
    """A run's lists; one in memory at a time where each query's rows stand together, else all of them (a warning)."""
    if together:
        return lists_together(path)
    logger.warning("%s: the rows of some queries are scattered: the whole run is read at once", path)
    return read_run(path).items()


def lists_together(path: str | Path) -> Iterator[tuple[str, dict[str, float]]]:
    """A run's lists in the file's order, one in memory at a time; each query's rows must stand together.

    Raises:
        DataError: a malformed row, or a document twice for a query; with the line.
    """
    current, listed = "", dict[str, float]()
    for place, query, document, score in run_rows(path):
        if query != current:
            if listed:
                yield current, listed
            current, listed = query, {}
        refuse_twice(listed, query, document, place)
        listed[document] = score
    if listed:
        yield current, listed


def blocks(lists: Lists, depth: int, size: int = BLOCK) -> Iterator[Run]:
    """Lists in blocks of whole queries, each of about `size` pairs within the depth.

    >>> [list(block) for block in blocks([("a", {"d": 1.0}), ("b", {"d": 1.0}), ("c", {"d": 1.0})], 10, size=2)]
    [['a', 'b'], ['c']]
    """
    block: Run = {}
    pairs = 0
    for query, listed in lists:
        block[query] = dict(listed)
        pairs += min(depth, len(listed))
        if pairs >= size:
            yield block
            block, pairs = {}, 0
    if block:
        yield block


def score_block(scorer: Scorer, pairs: Pairs) -> ScoredPairs:
    """Scores of a block's pairs: some thousands at a time, or whole lists where their documents need each other."""
    most = len(pairs.texts) if scorer.whole_lists else MOST
    parts = [
        scorer.score_detailed(pairs.texts[start : start + most], lists=pairs.lists[start : start + most])
        for start in range(0, max(1, len(pairs.texts)), max(1, most))
    ]
    return _joined(parts)._replace(scores=np.concatenate([part.scores for part in parts]))


def rerank_blocks(
    scorer: Scorer | BlockScorer,
    collection: Collection,
    lists: Lists,
    depth: int,
    progress: str | None = None,
    total: int = 0,
) -> Iterator[Run]:
    """First-stage lists with their first `depth` documents reordered by the scorer, block by block.

    Args:
        scorer: the reranker, or many of them.
        collection: texts of queries and documents.
        lists: true first-stage lists.
        depth: documents per query that are reranked.
        progress: text of a progress bar, or None.
        total: pairs in all, for the bar.
    """
    seen: ScoredPairs | None = None
    under_way: deque[tuple[Run, list[tuple[str, str]]]] = deque()  # blocks that are not scored yet, with their ids

    def texts() -> Iterator[Pairs]:
        for block in blocks(lists, depth):
            ids = [(query, document) for query, documents in top(block, depth).items() for document in documents]
            under_way.append((block, ids))
            numbers = {query: number for number, query in enumerate(block)}
            yield Pairs(
                [(collection.queries[query], collection.documents[document].content) for query, document in ids],
                [numbers[query] for query, _ in ids],
            )

    if isinstance(scorer, BlockScorer):
        scores = scorer.score_blocks(texts())
    else:
        scores = map(partial(score_block, scorer), texts())
    with Progress(disable=progress is None, transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task(progress or "", total=total)
        while (found := _next_scores(scores, under_way)) is not None:
            block, ids = under_way.popleft()
            seen = _joined([found] if seen is None else [seen, found])
            bar.advance(task, len(ids))
            yield rerank_run(block, scored_lists(block, zip(ids, found.scores)), depth)
    if seen is not None:
        scorer.warn(seen)


def _next_scores(scores: Iterator[ScoredPairs], under_way: Sequence[tuple[Run, Any]]) -> ScoredPairs | None:
    """The next block's scores, None behind the last.

    Raises:
        InputError: of a pair; it names the block's queries, since its own number is a place in this block.
    """
    try:
        return next(scores, None)
    except InputError as error:
        block, _ = under_way[0]
        first, last = next(iter(block)), next(reversed(block))
        raise InputError(f"queries '{first}' to '{last}': {error.message}", hint=error.hint) from error


def _joined(parts: Sequence[ScoredPairs]) -> ScoredPairs:
    """What is to be said about several blocks together; their scores are left out."""
    return ScoredPairs(
        np.empty(0, dtype=np.float32),
        all_cuts([part.truncation for part in parts]),
        sum(part.malformed for part in parts),
        sum(part.read for part in parts),
    )


class Journal:
    """A run that is written block by block beside its final place, and how far it goes.

    `FILE.part` holds the lines, `FILE.part.json` what they were made from and how many queries and bytes count, with
    the fingerprint of these bytes. A process that was killed left at most one block behind them, which is cut off.

    Args:
        output: the run's final place.
        made_from: what every line depends on, by a name that a reader knows.
        force: start over.

    Raises:
        ProrankError: a journal lies there that was made from something else (what differs is named), or a damaged one.
    """

    def __init__(self, output: str | Path, made_from: Mapping[str, Any], force: bool = False) -> None:
        self.output = Path(output)
        self.part = self.output.with_name(f"{self.output.name}.part")
        self.state = self._state_of(self.output)
        self.made_from, self.queries, self.bytes = dict(made_from), 0, 0
        self._digest = hashlib.sha256()  # of the bytes that count
        if self.state.is_file() and self.part.is_file() and not force:
            self._take_up()
        self.part.parent.mkdir(parents=True, exist_ok=True)
        with self.part.open("ab") as file:
            file.truncate(self.bytes)
        self._write_state()

    def _take_up(self) -> None:
        """Resume from what is in the file."""
        known = read_json(self.state)
        try:
            then, sha256 = dict(known["made_from"]), str(known["sha256"])
            queries, left = int(known["queries"]), int(known["bytes"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{self.state}: not the state of a reranked run", hint=_START_OVER) from error
        changed = [key for key in {**then, **self.made_from} if then.get(key) != self.made_from.get(key)]
        if changed:
            raise ProrankError(
                f"{self.part} was made from something else: {', '.join(changed)} changed", hint=_START_OVER
            )
        self.queries, self.bytes = queries, left
        with self.part.open("rb") as file:
            while left > 0 and (piece := file.read(min(left, 1 << 20))):
                self._digest.update(piece)
                left -= len(piece)
        if self._digest.hexdigest() != sha256:
            raise DataError(f"{self.part}: not what was written there", hint=_START_OVER)
        if queries:
            logger.warning("resuming %s: %d queries are done", self.part, queries)

    def _write_state(self) -> None:
        counts = {"queries": self.queries, "bytes": self.bytes, "sha256": self._digest.hexdigest()}
        write_json(self.state, {"made_from": self.made_from, **counts})

    def append(self, run: Run) -> None:
        """Write a block down; it counts when this returns."""
        lines = "".join(run_lines(query, scores, "prorank") for query, scores in run.items()).encode()
        try:
            with self.part.open("ab") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            error.filename = error.filename or str(self.part)  # a full disk does not say which file
            raise
        self._digest.update(lines)
        self.bytes += len(lines)
        self.queries += len(run)
        self._write_state()

    def finish(self) -> None:
        """Give the run its final name."""
        os.replace(self.part, self.output)
        self.state.unlink()

    def discard(self) -> None:
        """Delete what was written: its results stand elsewhere now."""
        for file in (self.part, self.state):
            file.unlink(missing_ok=True)

    @staticmethod
    def _state_of(output: Path) -> Path:
        return output.with_name(f"{output.name}.part.json")

    @classmethod
    def lies_at(cls, output: Path) -> bool:
        """Whether an unfinished journal lies there."""
        return cls._state_of(output).is_file()

    @classmethod
    def kept(cls, output: Path) -> list[str]:
        """What an interrupted process left there, in words."""
        state = cls._state_of(output)
        return [f"{read_json(state)['queries']} queries in {output}.part"] if state.is_file() else []


def rerank_lists(
    scorer: Scorer | BlockScorer,
    collection: Collection,
    lists: Lists,
    depth: int,
    journal: Journal,
    progress: str | None = None,
    total: int = 0,
) -> int:
    """Rerank lists into a journal, behind the queries that it holds already.

    Args:
        scorer, collection, lists, depth, progress, total: see `rerank_blocks`.
        journal: of these lists, in this order; it is not finished here.

    Returns:
        Pairs that were scored.
    """
    left = iter(lists)
    done = pairs_within((listed for _, listed in islice(left, journal.queries)), depth)
    scored = 0
    for block in rerank_blocks(scorer, collection, left, depth, progress, max(0, total - done)):
        journal.append(block)
        scored += pairs_within(block.values(), depth)
    return scored
