"""Candidate lists for training: a relevant document and mined ones below it, drawn ahead from a seed.

A resumed run sees the same lists. This module knows collections and runs, but no models.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from prorank.data.collection import Collection
from prorank.data.overlap import no_negatives, without_query_documents
from prorank.data.runs import Qrels, Run
from prorank.data.splits import load_with_split, require_relevant
from prorank.data.trec import read_run_of
from prorank.first_stage.bm25 import BM25Index, bm25_run
from prorank.first_stage.dense import biencoder_scores
from prorank.first_stage.mining import Mined, mine_negatives
from prorank.recipe.sections import Quotas
from prorank.util.errors import DataError
from prorank.util.files import atomic_writer, json_line, refuse_file_overwrite

T = TypeVar("T")


class CandidateList(NamedTuple):
    """A query, one relevant document (first), and documents of lower grade, most of them not relevant."""

    query_id: str
    query: str
    documents: tuple[str, ...]  # document ids
    labels: tuple[int, ...]  # grades, 0 for negatives


def relevant_pairs(qrels: Qrels) -> list[tuple[str, str, int]]:
    """(query id, document id, grade) of every positive judgment, in the qrels' order."""
    return [(q, d, grade) for q, judged in qrels.items() for d, grade in judged.items() if grade > 0]


def build_candidate_lists(
    collection: Collection,
    qrels: Qrels,
    run: Run,
    quotas: Quotas,
    seed: int,
    teacher: Run | None = None,
    margin: float | None = None,
    given: Mapping[str, Sequence[str]] = {},
) -> list[CandidateList]:
    """One group for each positive judgment: the positive, then exactly `quotas.total` documents below it.

    Up to half of these are documents judged of a lower grade (graded qrels stay graded, judged non-relevant
    documents are the surest negatives); the rest are mined. A tier with too few documents is filled up with
    random ones, so that all groups have one size.

    Args:
        collection: documents and queries.
        qrels: judgments of the training split.
        run: first-stage run of these queries.
        quotas: negatives by tier.
        seed: seed of the draw.
        teacher: scores for the false-negative filter, see `mine_negatives`.
        margin: margin of that filter.
        given: query id -> negatives that are taken in place of mined ones.

    Raises:
        DataError: no positive judgment, or fewer documents than a group needs.
    """
    everything, barred = list(collection.documents), no_negatives(collection, qrels)
    most = max((len({*judged, *barred.get(query, ())}) for query, judged in qrels.items()), default=0)
    if len(everything) <= quotas.total + most:
        raise DataError(
            f"{collection.name}: {len(everything)} documents are too few for {quotas.total} negatives per query",
            hint="lower the negatives in the recipe",
        )
    tiers = {"hard": quotas.hard, "medium": quotas.medium, "easy": quotas.easy}
    mined = mine_negatives(
        run,
        qrels,
        tiers,
        random_documents=everything,
        random=quotas.random,
        teacher=teacher,
        margin=margin,
        excluded=barred,
        seed=seed,
    )
    groups = []
    for query_id, document_id, grade in relevant_pairs(qrels):
        draw = random.Random(f"{seed}:{query_id}:{document_id}")
        judged, own = qrels[query_id], barred.get(query_id, ())
        lower = [document for document, other in judged.items() if other < grade and document not in own]
        below = draw.sample(lower, min(len(lower), quotas.total // 2))
        free = [document for document in given.get(query_id, mined.negatives[query_id]) if document not in below]
        below += draw.sample(free, min(len(free), quotas.total - len(below)))
        taken = {*below, *judged, *own}
        while len(below) < quotas.total:
            candidate = draw.choice(everything)
            if candidate not in taken:
                taken.add(candidate)
                below.append(candidate)
        labels = (grade, *(judged.get(document, 0) for document in below))
        groups.append(CandidateList(query_id, collection.queries[query_id], (document_id, *below), labels))
    if not groups:
        raise DataError(f"{collection.name}: the split has no relevant document")
    return groups


def forever(items: Sequence[T], seed: int) -> Iterator[tuple[int, T]]:
    """(epoch, item) without end, each epoch in its own seeded order.

    >>> sorted(item for _, item in itertools.islice(forever("abc", seed=0), 3))
    ['a', 'b', 'c']
    """
    for epoch in itertools.count():
        order = list(items)
        random.Random(f"{seed}:{epoch}").shuffle(order)
        yield from ((epoch, item) for item in order)


def mine_to_file(
    collection: str,
    output: Path,
    split: str,
    run_file: Path | None,
    quotas: Mapping[str, int],
    random_count: int,
    teacher_model: str | None,
    margin: float,
    seed: int,
    force: bool,
    exclude_query_document: bool = False,
    with_texts: bool = False,
) -> Mined:
    """Mine negatives for a split and write JSON Lines: `query_id`, `query`, `positives`, `negatives` (ids).

    Documents that the collection excludes for a query, and the query itself, are never its negatives.

    Args:
        collection: folder, bundled name or hub data set.
        output: file to write.
        split: whose queries.
        run_file: first-stage TREC run; None means BM25 to rank 1000.
        quotas, random_count: negatives by tier and at random.
        teacher_model: bi-encoder of the false-negative filter, or None for no filter.
        margin: of that filter, in cosine.
        seed: of the draw and of a split that is made.
        force: replace the file.
        exclude_query_document: a document of the query's own id is no negative, whatever its text.
        with_texts: ids and texts: `positives` and `negatives` hold objects of `id`, `title`, `text`.
    """
    refuse_file_overwrite(output, force)
    loaded = load_with_split(collection, split, seed=seed)
    if exclude_query_document:
        loaded = without_query_documents(loaded)
    qrels = loaded.judgments(split)
    require_relevant(qrels, f"split '{split}' of {loaded.name}")
    queries = {query: loaded.queries[query] for query in qrels}
    if run_file is not None:
        run = read_run_of(run_file, qrels, "they get random negatives alone")
    else:
        run = bm25_run(BM25Index.build(loaded.documents), loaded, queries, top_k=1000)
    teacher = None
    if teacher_model is not None:
        wanted = {query: list(dict.fromkeys([*run.get(query, {}), *qrels[query]])) for query in qrels}
        texts = {document.id: document.content for document in loaded.documents.values()}
        teacher = biencoder_scores(teacher_model, queries, texts, wanted)
    mined = mine_negatives(
        run,
        qrels,
        quotas,
        random_documents=list(loaded.documents),
        random=random_count,
        teacher=teacher,
        margin=margin if teacher is not None else None,
        excluded=no_negatives(loaded, qrels),
        seed=seed,
    )

    def shown(ids: Sequence[str]) -> list[Any]:
        return [loaded.documents[document]._asdict() for document in ids] if with_texts else list(ids)

    with atomic_writer(output) as file:
        for query, negatives in mined.negatives.items():
            positives = [document for document, grade in qrels[query].items() if grade > 0]
            ids = {"positives": shown(positives), "negatives": shown(negatives)}
            file.write(json_line({"query_id": query, "query": queries[query], **ids}))
    return mined


class ListItem(NamedTuple):
    """A tokenised candidate list: N sequences, N grades, and N teacher scores or None."""

    sequences: list[list[int]]
    labels: tuple[int, ...]
    teacher: tuple[float, ...] | None
