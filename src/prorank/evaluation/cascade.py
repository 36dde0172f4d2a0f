"""Choosing a cascade on dev lists, and what it loses and saves on test lists.

A document is read once for each length of excerpt; cascades are played back from those scores.
Knows collections, first stages and the reranker's face.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from prorank.data.collection import Collection
from prorank.data.runs import Qrels, Run, ranked, rerank_run, scored_lists
from prorank.data.splits import load_with_splits
from prorank.engine.cascade import cascade_scores, lengths_of
from prorank.engine.excerpts import excerpts
from prorank.engine.scorer import query_numbers
from prorank.evaluation.metrics import Evaluation, evaluate_run
from prorank.evaluation.rerank import PRIMARY, carved_sentence, sampled_lists
from prorank.evaluation.significance import compare, mean_of_means_interval
from prorank.evaluation.tables import markdown_lines
from prorank.model.cascade import Cascade
from prorank.reranker import Reranker
from prorank.util.errors import DataError, InputError

TOKENS = (32, 48, 64)  # of a document, that a pass may read
SHARES = (0.6, 0.5, 0.4, 0.33, 0.25, 0.2, 0.15, 0.12, 0.1)  # of a list, that may go on
WHOLE, LONG, REPEATS = 100, (200, 400), 3  # of what is timed: documents, their tokens, and how often


class Readings:
    """First-stage lists as a model scores them by so many tokens of each document; nothing is read twice.

    Args:
        reranker: the model, without a cascade.
        collection: texts.
        lists: cut to the depth.
        qrels: judgments of the lists' queries.
        what: name in the progress bar.

    Attributes:
        ids: (N,) query and document of each pair.
        texts: (N,) of each pair.
        groups: (N,) number of each pair's list.
        lengths: (N,) tokens of each document.
        exact: metrics of the lists read in full.
        tokens: of all pairs read in full.
    """

    def __init__(self, reranker: Reranker, collection: Collection, lists: Run, qrels: Qrels, what: str) -> None:
        self.reranker, self.lists, self.qrels, self.what = reranker, lists, qrels, what
        numbers = {query: number for number, query in enumerate(lists)}
        self.ids = [(query, document) for query, listed in lists.items() for document, _ in ranked(listed)]
        self.groups = [numbers[query] for query, _ in self.ids]
        self.texts = [(collection.queries[q], collection.documents[d].content) for q, d in self.ids]
        self.lengths = lengths_of(reranker.tokenizer.plain, self.texts)
        self._scores: dict[int | None, np.ndarray] = {}  # NaN: not read yet
        self._sizes: dict[int | None, np.ndarray] = {}
        scores, sizes = self.read(list(range(len(self.ids))), None)
        self.tokens = int(sizes.sum())
        self.exact = self.metrics(scores)

    def read(self, places: list[int], tokens: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Scores of pairs by so many tokens of their documents, and the tokens of each pair as it is read."""
        scores = self._scores.setdefault(tokens, np.full(len(self.ids), np.nan, dtype=np.float32))
        sizes = self._sizes.setdefault(tokens, np.zeros(len(self.ids), dtype=np.int64))
        due = [place for place in places if np.isnan(scores[place])]
        if due:
            tokenizer = self.reranker.tokenizer
            pairs = excerpts(tokenizer.plain, [self.texts[place] for place in due], tokens)
            sequences, _ = tokenizer.encode(pairs)
            title = f"{self.what}, {'all' if tokens is None else tokens} tokens of {len(due)} documents"
            found, _ = self.reranker.score_sequences(sequences, groups=query_numbers(pairs), progress=title)
            scores[due], sizes[due] = found.numpy(), [len(sequence) for sequence in sequences]
        return scores[places], sizes[places]

    def metrics(self, scores: np.ndarray) -> Evaluation:
        """Metrics of the lists in the order of scores (N,)."""
        return evaluate_run(run_of(self.lists, self.ids, scores), self.qrels, ("nDCG@10",))

    def played(self, cascade: Cascade) -> tuple[np.ndarray, int]:
        """Scores (N,) by a cascade, and the tokens that it reads."""
        read = 0

        def count(places: list[int], tokens: int | None) -> np.ndarray:
            nonlocal read
            scores, sizes = self.read(places, tokens)
            read += int(sizes.sum())
            return scores

        return cascade_scores(cascade, self.groups, self.lengths, count), read


def run_of(lists: Run, ids: Sequence[tuple[str, str]], scores: np.ndarray) -> Run:
    """Whole lists in the order of their scores."""
    depth = max((len(listed) for listed in lists.values()), default=0)
    return rerank_run(lists, scored_lists(lists, zip(ids, scores.tolist())), depth)


def candidates() -> Iterator[Cascade]:
    """Every cascade of one or two passes that is tried."""
    for passes in (1, 2):
        for tokens in combinations(TOKENS, passes):
            for shares in combinations(SHARES, passes):
                yield Cascade(tokens=tokens, shares=shares)


class Tradeoff(NamedTuple):
    """What a cascade reads of all tokens, and by how much it changes NDCG@10, the mean over collections."""

    cascade: Cascade
    tokens_read: float
    change: float


def tradeoffs(dev: Sequence[Readings]) -> list[Tradeoff]:
    """The cascades that read less than all, each better than every one that reads less; the cheapest first.

    Args:
        dev: lists of each collection's dev queries.
    """
    whole, found = sum(readings.tokens for readings in dev), []
    for cascade in candidates():
        played = [readings.played(cascade) for readings in dev]
        changes = [np.mean(_changes(own, own.metrics(scores))) for own, (scores, _) in zip(dev, played)]
        found.append(Tradeoff(cascade, sum(read for _, read in played) / whole, float(np.mean(changes))))
    front: list[Tradeoff] = []
    for one in sorted(found, key=lambda one: (one.tokens_read, -one.change)):
        if one.tokens_read < 1 and (not front or one.change > front[-1].change):
            front.append(one)
    return front


def choose(front: Sequence[Tradeoff], loss: float) -> Cascade:
    """The cascade that reads least among those that lose at most so much of NDCG@10.

    Args:
        front: of `tradeoffs`.
        loss: that is allowed.

    Raises:
        DataError: no cascade loses so little and reads less than all; the nearest is told.

    >>> front = [Tradeoff(Cascade(tokens=(8,), shares=(share,)), share, -0.01 / share) for share in (0.1, 0.5)]
    >>> choose(front, 0.02).shares
    (0.5,)
    """
    for one in front:
        if -one.change <= loss:
            return one.cascade
    last = front[-1] if front else None
    nearest = f"; the nearest reads {last.tokens_read:.2f} of them and loses {-last.change:.4f}" if last else ""
    raise DataError(
        f"no cascade that was tried reads fewer tokens and loses at most {loss} of NDCG@10 on dev{nearest}",
        hint="allow a greater loss, or rerank deeper lists or longer documents",
    )


def _changes(readings: Readings, found: Evaluation) -> list[float]:
    """NDCG@10 of each query minus that of reading in full."""
    exact = readings.exact.values(PRIMARY)
    return [value - exact[query] for query, value in found.values(PRIMARY).items()]


def measure_cascade(
    reranker: Reranker,
    collections: Sequence[str],
    *,
    loss: float = 0.002,
    depth: int = 100,
    max_queries: int | None = None,
    seed: int = 13,
) -> dict[str, Any]:
    """Choose a cascade on the dev lists of collections and measure it on their test lists.

    Args:
        reranker: the model, without a cascade.
        collections: folders, bundled names or hub data sets; missing splits are made.
        loss: of NDCG@10, the mean over the collections, that may be lost on dev.
        depth: first-stage documents that are reranked.
        max_queries: a seeded sample of dev's and of test's queries.
        seed: of samples and made splits.

    Returns:
        `cascade`, a row for each collection, `dev` (what every cascade worth a thought reads and loses there), and
        `change`: of NDCG@10 on test, the mean over collections with its interval.

    Raises:
        DataError: no cascade loses so little.
        InputError: the reranker reads by passages or by a cascade already.
    """
    if reranker.passages is not None or reranker.cascade is not None:
        raise InputError("a cascade is chosen for a reranker that reads documents in full", hint="load it anew")
    loaded = [load_with_splits(name, seed) for name in collections]

    def readings(one: Collection, split: str) -> Readings:
        qrels, lists = sampled_lists(one, split, depth, max_queries, seed)
        return Readings(reranker, one, lists, qrels, f"{one.name}, {split}")

    front = tradeoffs([readings(one, "dev") for one in loaded])
    cascade = choose(front, loss)
    rows, changes = [], []
    for one in loaded:
        own = readings(one, "test")
        scores, read = own.played(cascade)
        found = own.metrics(scores)
        changes.append(_changes(own, found))
        rows.append(_row(one, own, found, read) | timed(reranker, cascade, one, own))
    low, high = mean_of_means_interval(changes)
    return {
        "cascade": cascade.model_dump(mode="json"),
        "loss": loss,
        "depth": depth,
        "dev": [one._asdict() | {"cascade": one.cascade.model_dump(mode="json")} for one in front],
        "change": {"value": float(np.mean([np.mean(own) for own in changes])), "low": low, "high": high},
        "collections": rows,
    }


def _row(collection: Collection, readings: Readings, found: Evaluation, read: int) -> dict[str, Any]:
    return {
        "collection": collection.name,
        "queries": len(found.values(PRIMARY)),
        "tokens_a_document": float(np.mean(readings.lengths)),
        "exact": readings.exact.mean(PRIMARY),
        "cascade": found.mean(PRIMARY),
        "change": compare(found, readings.exact, PRIMARY)._asdict(),
        "tokens_read": read / readings.tokens,
        "carved": carved_sentence(collection.carved),
    }


def timed(reranker: Reranker, cascade: Cascade, collection: Collection, readings: Readings) -> dict[str, Any]:
    """Least seconds that ranking a list takes, in full and by the cascade, in turns.

    The list is one of 100 of the collection's documents of 200 to 400 tokens where it has so many, else its longest.
    """
    query = max(readings.lists, key=lambda one: len(readings.lists[one]))
    known = dict(zip((document for _, document in readings.ids), readings.lengths))
    long = [document for document, tokens in known.items() if LONG[0] <= tokens <= LONG[1]][:WHOLE]
    listed = long if len(long) == WHOLE else list(readings.lists[query])
    documents = [collection.documents[document].content for document in listed]
    both = {"exact": reranker, "cascade": reranker.reading(cascade)}
    taken: dict[str, list[float]] = {"exact": [], "cascade": []}
    for _ in range(REPEATS):
        for name, one in both.items():
            begin = time.perf_counter()
            one.rank(collection.queries[query], documents)
            taken[name].append(time.perf_counter() - begin)
    seconds = {name: min(times) for name, times in taken.items()}
    return {
        "timed_documents": len(documents),
        "timed_tokens": float(np.mean([known[document] for document in listed])),
        "seconds": seconds,
        "times_as_fast": seconds["exact"] / seconds["cascade"],
    }


def _told(one: dict[str, Any]) -> list[str]:
    passes = zip(one["cascade"]["tokens"], one["cascade"]["shares"])
    words = ", ".join(f"{tokens} tokens then {share:.0%}" for tokens, share in passes)
    return [words, f"{one['tokens_read']:.2f}", f"{one['change']:+.4f}"]


def cascade_markdown(found: dict[str, Any]) -> str:
    """The chosen cascade in words, and a table over collections."""
    cascade = Cascade(**found["cascade"])
    passes = "; ".join(
        f"{tokens} tokens of each, then the best {share:.0%}" for tokens, share in zip(cascade.tokens, cascade.shares)
    )
    total = found["change"]
    lines = [
        [
            row["collection"],
            str(row["queries"]),
            f"{row['tokens_a_document']:.0f}",
            f"{row['exact']:.3f}",
            f"{row['cascade']:.3f}",
            f"{row['change']['difference']:+.4f} [{row['change']['low']:+.4f}, {row['change']['high']:+.4f}]",
            f"{row['tokens_read']:.2f}",
            f"{row['times_as_fast']:.2f}",
        ]
        for row in found["collections"]
    ]
    names = ["collection", "queries", "tokens per document", "in full", "cascade", "change", "tokens read", "speed"]
    notes = [f"{row['collection']}: {row['carved']}." for row in found["collections"] if row["carved"]]
    return "\n\n".join(
        [
            f"Cascade: {passes} in full (at least {cascade.at_least} of a list).",
            markdown_lines(names, lines, left=1),
            f"Mean change of NDCG@10 on test {total['value']:+.4f} [{total['low']:+.4f}, {total['high']:+.4f}].",
            "On dev:",
            markdown_lines(["cascade", "tokens read", "change"], [_told(one) for one in found["dev"]], left=1),
            *notes,
        ]
    )
