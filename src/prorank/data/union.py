"""Several collections trained on as one: ids get their collection's name in front, each keeps its own lists.

Negatives of a query come from its own collection only: those of another would be told apart by subject alone. Knows
collections and weights; nothing of models.
"""

from __future__ import annotations

import random
from collections.abc import Sequence, Set
from dataclasses import replace
from typing import NamedTuple

from prorank.data.collection import Collection, Document
from prorank.data.runs import Qrels, Run
from prorank.util.errors import DataError
from prorank.util.provenance import fingerprint


class Subset(NamedTuple):
    """One collection of a run: its first-stage run and its weight among the training items."""

    collection: Collection
    run: Run
    weight: float


def with_prefixed_ids(collection: Collection) -> Collection:
    """The collection with `name/` in front of every id."""

    def long(identifier: str) -> str:
        return f"{collection.name}/{identifier}"

    def renamed(qrels: Qrels) -> Qrels:
        return {long(query): {long(d): grade for d, grade in judged.items()} for query, judged in qrels.items()}

    return replace(
        collection,
        documents={long(i): Document(long(i), d.title, d.text) for i, d in collection.documents.items()},
        queries={long(query): text for query, text in collection.queries.items()},
        qrels={split: renamed(qrels) for split, qrels in collection.qrels.items()},
        candidates={
            split: {long(query): [long(d) for d in ids] for query, ids in lists.items()}
            for split, lists in collection.candidates.items()
        },
        excluded={long(query): [long(d) for d in ids] for query, ids in collection.excluded.items()},
    )


def merge(collections: Sequence[Collection]) -> Collection:
    """All documents, queries and judgments together; ids must differ, see `with_prefixed_ids`.

    Raises:
        DataError: two collections of one name.
    """
    names = [collection.name for collection in collections]
    if len(set(names)) < len(names):
        raise DataError(f"two collections of a union have one name: {', '.join(sorted(names))}")
    splits = sorted({split for collection in collections for split in collection.qrels})
    return Collection(
        name="+".join(names),
        documents={i: d for collection in collections for i, d in collection.documents.items()},
        queries={i: q for collection in collections for i, q in collection.queries.items()},
        qrels={
            split: {q: j for collection in collections for q, j in collection.qrels.get(split, {}).items()}
            for split in splits
        },
        candidates={
            split: {q: ids for collection in collections for q, ids in collection.candidates.get(split, {}).items()}
            for split in splits
        },
        problems=tuple(problem for collection in collections for problem in collection.problems),
        fingerprint=fingerprint(" ".join(collection.fingerprint for collection in collections)),
        excluded={q: ids for collection in collections for q, ids in collection.excluded.items()},
        carved={f"{c.name}/{split}": text for c in collections for split, text in c.carved.items()},
    )


def without(subset: Subset, documents: Set[str], queries: Set[str], split: str) -> Subset:
    """The subset as if it had never had some documents, and its `split` without some queries."""
    collection = subset.collection
    kept = {
        query: {d: grade for d, grade in judged.items() if d not in documents}
        for query, judged in collection.qrels[split].items()
        if query not in queries
    }
    return Subset(
        replace(
            collection,
            documents={d: document for d, document in collection.documents.items() if d not in documents},
            qrels=collection.qrels | {split: {query: judged for query, judged in kept.items() if judged}},
        ),
        {q: {d: score for d, score in listed.items() if d not in documents} for q, listed in subset.run.items()},
        subset.weight,
    )


def turns(weights: Sequence[float], count: int, seed: int) -> list[int]:
    """Which subset each of `count` training items comes from, drawn in proportion to the weights.

    >>> sorted(set(turns([1.0, 3.0], 100, seed=0)))
    [0, 1]
    >>> turns([2.0], 3, seed=0)
    [0, 0, 0]
    """
    return random.Random(f"{seed}:turns").choices(range(len(weights)), weights, k=count)
