"""Train, dev and test: the splits that a collection brings, and reproducible ones where it lacks them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace

from prorank.data.collection import EMPTY, SECOND, UNKNOWN, Collection, load_collection
from prorank.data.runs import Qrels
from prorank.util.errors import DataError

logger = logging.getLogger(__name__)
MADE = ("train", "dev", "test")  # the splits that are made where a collection lacks them
DEV_SHARE, TEST_SHARE = 0.1, 0.4  # of the queries that are split


def load_with_split(path: str, split: str, *, seed: int = 13, strict: bool = False) -> Collection:
    """`load_collection`, with reproducibly made splits where the collection lacks this one.

    Raises:
        DataError: as `load_collection` and `with_splits`; or a split that neither is there nor is ever made.
    """
    loaded = _loaded(path, strict)
    require_split(loaded, split)
    return loaded if split in loaded.qrels else with_splits(loaded, seed=seed)


def load_with_splits(path: str, seed: int = 13) -> Collection:
    """`load_collection` with train, dev and test, reproducibly made where they are missing."""
    return with_splits(_loaded(path), seed=seed)


def _loaded(path: str, strict: bool = False) -> Collection:
    """`load_collection`; logs how many judgments are left out, since metrics of the others are higher."""
    loaded = load_collection(path, strict=strict)
    lost = [problem for problem in loaded.problems if problem.kind in (UNKNOWN, EMPTY, SECOND)]
    if lost:
        logger.warning(
            "%s: %d judgments are left out (%s); `prorank data check` lists all", loaded.name, len(lost), lost[0]
        )
    return loaded


def require_split(collection: Collection, split: str) -> None:
    """Refuse a split that a collection lacks and that is never made.

    Raises:
        DataError: the message names those that there are.
    """
    if split not in (*collection.qrels, *MADE):
        there = ", ".join(sorted(collection.qrels)) or "none"
        raise DataError(
            f"{collection.name} has no split '{split}'",
            hint=f"it has {there}; of {', '.join(MADE)} what is missing is made",
        )


def require_relevant(qrels: Qrels, name: str, relevant_from: int = 1) -> None:
    """Refuse judgments by which nothing can be measured or learned; `name` says in the error whose they are.

    Raises:
        DataError: no document of a grade of at least `relevant_from`.

    >>> require_relevant({"q": {"d": 0}}, "split 'test' of owls")
    Traceback (most recent call last):
    prorank.util.errors.DataError: split 'test' of owls has no relevant document (judge one with a grade of at least 1)
    """
    if not any(grade >= relevant_from for judged in qrels.values() for grade in judged.values()):
        raise DataError(f"{name} has no relevant document", hint=f"judge one with a grade of at least {relevant_from}")


def with_splits(collection: Collection, seed: int = 13) -> Collection:
    """The collection with train, dev and test; what is missing is carved out of what is there.

    Queries are ordered by SHA-1 of `seed:query id`, so the split depends on the ids alone, not on file order.
    A query that is added later may push another over the boundary.
    Test only (or no known split): test keeps `TEST_SHARE` of the queries, dev gets `DEV_SHARE`, train the rest.
    Test but no dev: dev is `DEV_SHARE` of train. Train but no test: test is `TEST_SHARE` of train. A carved part
    has at least one query. Splits that exist and need not give are left alone.

    Args:
        collection: any collection with at least one split.
        seed: another seed gives another split.

    Raises:
        DataError: fewer than three judged queries.
    """
    qrels = dict(collection.qrels)
    if qrels.keys() >= set(MADE):
        return collection
    if "train" not in qrels:
        source = "test" if "test" in qrels else next(iter(qrels), "")
        whole = qrels.pop(source, {})
        needed = [part for part in ("test", "dev") if part not in qrels]
        shares = {"test": TEST_SHARE, "dev": DEV_SHARE}
        for part in needed:
            qrels[part], whole = _carve(whole, shares[part] * len(collection.judgments(source)), seed)
        qrels["train"] = whole
    if "test" not in qrels:
        qrels["test"], qrels["train"] = _carve(qrels["train"], TEST_SHARE * len(qrels["train"]), seed)
    if "dev" not in qrels:
        qrels["dev"], qrels["train"] = _carve(qrels["train"], DEV_SHARE * len(qrels["train"]), seed)
    if not all(qrels[part] for part in MADE):
        raise DataError(f"{collection.name}: too few judged queries to make train, dev and test")
    return replace(collection, qrels=qrels, carved=collection.carved | _carved(collection.qrels, qrels, seed))


def _carved(given: Mapping[str, Qrels], made: Mapping[str, Qrels], seed: int) -> dict[str, str]:
    """What each split that is not as it was given consists of."""
    found = {}
    for split, qrels in made.items():
        if given.get(split, {}).keys() != qrels.keys():
            sources = [split, *given] if split in given else [*given]
            source = next(name for name in sources if given[name].keys() >= qrels.keys())
            found[split] = f"{len(qrels)} of the {len(given[source])} queries of {source}, seed {seed}"
    return found


def _carve(qrels: Qrels, count: float, seed: int) -> tuple[Qrels, Qrels]:
    """(taken, left): about `count` queries, at least one, by the hash of their ids; file order kept."""
    order = sorted(qrels, key=lambda query: hashlib.sha1(f"{seed}:{query}".encode()).hexdigest())
    taken = set(order[: max(1, round(count))])
    return {q: j for q, j in qrels.items() if q in taken}, {q: j for q, j in qrels.items() if q not in taken}
