"""What a run's splits must be before any work is done: judged, of ids that results can hold, without leakage.

Knows collections and the recipe's data section; nothing of first stages or models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prorank.data.collection import Collection
from prorank.data.overlap import without_query_documents
from prorank.data.splits import require_relevant, require_split, with_splits
from prorank.data.trec import check_ids
from prorank.recipe.sections import DataSection, Recipe
from prorank.training.mined import read_mined
from prorank.util.errors import DataError
from prorank.util.texts import plain

_CHOICE = "data.leakage=drop leaves them out of training, data.leakage=allow trains on them; the results say which"


def run_splits(recipe: Recipe, collections: Sequence[Collection]) -> tuple[list[Collection], dict[str, Any]]:
    """The recipe's collections with their splits, as `sound` leaves them; its file of mined negatives is read as well.

    Raises:
        DataError: as `sound` and `require_candidates`, a split that neither is there nor is ever made, or the file of
            mined negatives is malformed.
    """
    for collection in collections:
        for split in (recipe.data.train, recipe.data.dev, recipe.data.test):
            require_split(collection, split)
    found, leakage = sound([with_splits(collection, seed=recipe.seed) for collection in collections], recipe.data)
    if recipe.score_learning is not None and recipe.score_learning.mined is not None:
        mined = read_mined(Path(recipe.score_learning.mined), found[0])
        if not mined.keys() & found[0].judgments(recipe.data.train).keys():
            raise DataError(
                f"{recipe.score_learning.mined}: none of its {len(mined)} queries is in split '{recipe.data.train}'"
            )
    require_candidates(recipe, found)
    if recipe.data.exclude_query_document:
        found = [without_query_documents(collection) for collection in found]
    return found, leakage


def own_candidates(recipe: Recipe, collection: Collection) -> set[str]:
    """Queries for which the collection brings a candidate list, in the recipe's splits."""
    splits = (recipe.data.train, recipe.data.dev, recipe.data.test)
    return {query for split in splits for query in collection.candidates.get(split, {})}


def require_candidates(recipe: Recipe, collections: Sequence[Collection]) -> None:
    """Refuse a recipe that takes the collections' own candidate lists where no measured query has one.

    Raises:
        DataError: no query of dev or test has one.
    """
    if recipe.first_stage.method != "candidates":
        return
    measured = (recipe.data.dev, recipe.data.test)
    for collection in collections:
        listed = own_candidates(recipe, collection)
        if any(query in listed for split in measured for query in collection.judgments(split)):
            return
    names = ", ".join(collection.name for collection in collections)
    raise DataError(
        f"first_stage.method=candidates: {names} has no candidates for a query of {' or '.join(measured)}",
        hint=f"write candidates/{recipe.data.test}.tsv, or first_stage.method=bm25",
    )


def sound(collections: Sequence[Collection], data: DataSection) -> tuple[list[Collection], dict[str, Any]]:
    """The collections that may be trained on, and what was done about training queries that dev or test hold too.

    Args:
        collections: with the recipe's splits.
        data: names the splits; `leakage` says what is done. Where `hold_out_documents` is set, they are dropped.

    Returns:
        The collections, leaking queries left out where those are dropped; and `rule` and number of `queries`.

    Raises:
        DataError: a split without a relevant document, an id that results cannot hold, or leakage that is not allowed.
    """
    for collection in collections:
        for split in (data.train, data.dev, data.test):
            require_relevant(collection.judgments(split), f"split '{split}' of {collection.name}")
        ids = (query for split in (data.train, data.dev, data.test) for query in collection.judgments(split))
        check_ids([collection.name, *ids, *collection.documents], collection.name)
    rule = "drop" if data.hold_out_documents and data.leakage == "refuse" else data.leakage
    if rule != "allow":
        _refuse_one_split_twice(collections, data)
    held = {
        plain(collection.queries[query]): f"'{query}' of {split} in {collection.name}"
        for collection in collections
        for split in (data.test, data.dev)
        for query in collection.judgments(split)
    }
    leaks = [_leaks(collection, data.train, held) for collection in collections]
    count = sum(map(len, leaks))
    if count and rule == "refuse":
        query, other = next(item for found in leaks for item in found.items())
        raise DataError(
            f"{count} training queries stand in {data.dev} or {data.test} too: '{query}' is {other}", hint=_CHOICE
        )
    if rule == "drop":
        collections = [_without(collection, data.train, found) for collection, found in zip(collections, leaks)]
    return list(collections), {"rule": rule, "queries": count}


def _refuse_one_split_twice(collections: Sequence[Collection], data: DataSection) -> None:
    """Refuse to train or to choose the model on the very queries that are reported."""
    for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        first, second = getattr(data, one), getattr(data, other)
        if first == second:
            raise DataError(f"data.{one} and data.{other} are one split: '{first}'", hint="or data.leakage=allow")
    for collection in collections:
        shared = collection.judgments(data.dev).keys() & collection.judgments(data.test).keys()
        if shared:
            raise DataError(
                f"{collection.name}: query '{min(shared)}' stands in {data.dev} and in {data.test}: the model would be "
                "chosen on what is reported",
                hint="mend the splits, or data.leakage=allow",
            )


def _leaks(collection: Collection, train: str, held: Mapping[str, str]) -> dict[str, str]:
    """Training query -> the held-out query whose text it has; `held` is by text."""
    texts = {query: plain(collection.queries[query]) for query in collection.judgments(train)}
    return {query: held[text] for query, text in texts.items() if text in held}


def _without(collection: Collection, split: str, queries: dict[str, str]) -> Collection:
    left = {query: judged for query, judged in collection.judgments(split).items() if query not in queries}
    require_relevant(left, f"split '{split}' of {collection.name}, without queries of dev and test,")
    return replace(collection, qrels=collection.qrels | {split: left})
