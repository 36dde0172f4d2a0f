"""Training items from a collection: balanced pairs for warmup, candidate lists for score learning.

Everything is drawn ahead of training from a seed, in a fixed order, so a resumed run sees the same data. This
module knows collections and runs, but no models.
"""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from prorank.collection import Collection, Qrels, Run, load_with_split, read_run, require_relevant
from prorank.errors import DataError
from prorank.files import atomic_writer, json_line, refuse_file_overwrite
from prorank.mining import Mined, mine_negatives
from prorank.overlap import no_negatives, without_query_documents
from prorank.retrieval import BM25Index, biencoder_scores, bm25_run
from prorank.training.recipe import Quotas

T = TypeVar("T")


class Group(NamedTuple):
    """A query, one relevant document (first), and documents of lower grade, most of them not relevant."""

    query_id: str
    query: str
    documents: tuple[str, ...]  # document ids
    labels: tuple[int, ...]  # grades, 0 for negatives


class LabelledPair(NamedTuple):
    """Ids of a query and a document, and the right verdict: index of the worst or best answer."""

    query_id: str
    document_id: str
    relevant: bool


def relevant_pairs(qrels: Qrels) -> list[tuple[str, str, int]]:
    """(query id, document id, grade) of every positive judgment, in the qrels' order."""
    return [(q, d, grade) for q, judged in qrels.items() for d, grade in judged.items() if grade > 0]


def build_groups(
    collection: Collection,
    qrels: Qrels,
    run: Run,
    quotas: Quotas,
    seed: int,
    teacher: Run | None = None,
    margin: float | None = None,
    given: Mapping[str, Sequence[str]] = {},
) -> list[Group]:
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
            f"{collection.name}: {len(everything)} documents are too few for {quotas.total} negatives a query",
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
        groups.append(Group(query_id, collection.queries[query_id], (document_id, *below), labels))
    if not groups:
        raise DataError(f"{collection.name}: the split has no relevant document")
    return groups


def balanced_pairs(groups: Sequence[Group], count: int, seed: int) -> list[LabelledPair]:
    """`count` pairs, relevant and not in turn, so that every even-sized slice is balanced.

    Args:
        groups: candidate lists; the first document of each is relevant, the others are not.
        count: pairs wanted; groups are used again, in a new order and with another negative, when they run out.
        seed: seed of the order.
    """
    pairs: list[LabelledPair] = []
    for epoch, group in forever(groups, seed):
        if len(pairs) >= count:
            break
        negatives = [document for document, label in zip(group.documents, group.labels) if label <= 0]
        if not negatives:
            continue
        negative = random.Random(f"{seed}:{epoch}:{group.query_id}").choice(negatives)
        pairs.append(LabelledPair(group.query_id, group.documents[0], True))
        pairs.append(LabelledPair(group.query_id, negative, False))
    return pairs[:count]


def exchanged_pairs(
    qrels: Qrels, count: int, seed: int, barred: Mapping[str, Sequence[str]] = {}
) -> list[LabelledPair]:
    """`count` pairs, relevant and not in turn, where the negatives are the positives of other queries.

    In each epoch every document is as often not relevant as it is relevant, and so is every query: neither alone tells
    anything about the verdict. With negatives from the whole collection a model can learn which documents are
    anyone's answers, which is no use for new ones (docs/warmup.md).

    Args:
        qrels: judgments of a split.
        count: pairs wanted; judgments are used again, in a new order and with another negative, when they run out.
        seed: seed of the order.
        barred: query id -> documents that are no negatives of it.

    Raises:
        DataError: every query shares all relevant documents.

    >>> pairs = exchanged_pairs({"q1": {"d1": 1}, "q2": {"d2": 1}}, 4, seed=0)
    >>> sorted((pair.query_id, pair.document_id) for pair in pairs if not pair.relevant)
    [('q1', 'd2'), ('q2', 'd1')]
    """
    positives = relevant_pairs(qrels)
    used = {document for _, document, _ in positives}
    own = {query: {*qrels[query], *barred.get(query, ())} for query in {query for query, _, _ in positives}}
    if all(used <= documents for documents in own.values()):
        raise DataError("no query has a negative among the positives of the others", hint="set warmup.negatives")
    pairs: list[LabelledPair] = []
    for epoch in itertools.count():
        order = list(positives)
        random.Random(f"{seed}:{epoch}").shuffle(order)
        for pair in _exchanged(order, own):
            pairs += pair
            if len(pairs) >= count:
                return pairs[:count]
    raise AssertionError("unreachable: every epoch gives at least one pair")


def _exchanged(
    order: Sequence[tuple[str, str, int]], own: Mapping[str, Set[str]]
) -> Iterator[tuple[LabelledPair, LabelledPair]]:
    """Each positive with the first document in the row of its neighbours' that is free and not its query's own.

    The row starts one place further, so that the neighbour is nearly always in the same batch. Documents that a query
    cannot take stay in front for the next one: never more different ones than one query cannot take.
    """
    row = enumerate(document for _, document, _ in itertools.chain(order[1:], order[:1]))
    passed: dict[str, deque[int]] = {}  # the front of the row: documents that were not taken, and their places
    without: set[str] = set()  # queries that found nothing in the whole row, and will find nothing in what is left
    for query, document, _ in order:
        if query in without:
            continue
        free = [(places[0], other) for other, places in passed.items() if other not in own[query]]
        negative = min(free)[1] if free else None
        if negative is not None:
            passed[negative].popleft()
            if not passed[negative]:
                del passed[negative]
        else:
            for place, other in row:
                if other not in own[query]:
                    negative = other
                    break
                passed.setdefault(other, deque()).append(place)
        if negative is None:
            without.add(query)
        else:
            yield LabelledPair(query, document, True), LabelledPair(query, negative, False)


def forever(items: Sequence[T], seed: int) -> Iterator[tuple[int, T]]:
    """(epoch, item) without end, each epoch in its own seeded order.

    >>> sorted(item for _, item in itertools.islice(forever("abc", seed=0), 3))
    ['a', 'b', 'c']
    """
    for epoch in itertools.count():
        order = list(items)
        random.Random(f"{seed}:{epoch}").shuffle(order)
        yield from ((epoch, item) for item in order)


_DOCSTRING = re.compile(r'"""\s*(.+?)(?:\n\s*\n|"""|\.\s)|\'\'\'\s*(.+?)(?:\n\s*\n|\'\'\'|\.\s)', re.DOTALL)
_SENTENCE = re.compile(r"(.+?[.!?。！？])(?:\s|$)", re.DOTALL)


def pseudo_query(title: str, text: str) -> str | None:
    """A query that the document itself suggests: its title, else a docstring's or the text's first sentence.

    Returns:
        The query, or None when nothing of 3 to 40 words (or 6 to 60 characters without spaces) is found.

    >>> pseudo_query("", 'def f():\\n    \\"\\"\\"Open a file. Then more.\\"\\"\\"')
    'Open a file'
    >>> pseudo_query("Flow over a wedge", "The text.")
    'Flow over a wedge'
    """
    found = _DOCSTRING.search(text)
    sentence = _SENTENCE.match(text.strip())
    candidates = [title, next((g for g in found.groups() if g), "") if found else ""]
    candidates.append(sentence.group(1) if sentence else "")
    for candidate in candidates:
        words = " ".join(candidate.split()).rstrip(".")
        if 3 <= words.count(" ") + 1 <= 40 or (" " not in words and 6 <= len(words) <= 60):
            return words
    return None


def pseudo_queries(collection: Collection, count: int, seed: int, exclude: Mapping[str, object]) -> dict[str, str]:
    """Up to `count` queries cut from a seeded sample of documents: {document id: query}.

    A title that several documents share (pieces of one article, say) names none of them and is not used.

    Args:
        exclude: document ids never used (relevant documents of dev and test queries).
    """
    titles = Counter(document.title for document in collection.documents.values())
    ids = [document_id for document_id in collection.documents if document_id not in exclude]
    random.Random(f"{seed}:pseudo").shuffle(ids)
    found: dict[str, str] = {}
    for document_id in ids:
        if len(found) >= count:
            break
        document = collection.documents[document_id]
        query = pseudo_query(document.title if titles[document.title] == 1 else "", document.text)
        if query:
            found[document_id] = query
    return found


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
        run = read_run(run_file)
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
