"""Prompt warmup's items: balanced (query, document, verdict) pairs, drawn ahead from the recipe's seed, tokenised.

Knows the recipe, the collection and the first stage; no models and no trainers.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import NamedTuple

from prorank.data.overlap import no_negatives
from prorank.data.runs import Qrels
from prorank.data.union import Subset, turns
from prorank.prompts.tokenization import PairTokenizer
from prorank.recipe.sections import Negatives, Quotas
from prorank.training.context import RunContext, training_subsets
from prorank.training.lists import CandidateList, build_candidate_lists, forever, relevant_pairs
from prorank.util.errors import DataError


class LabelledPair(NamedTuple):
    """Ids of a query and a document, and the right verdict: index of the worst or best answer."""

    query_id: str
    document_id: str
    relevant: bool


def balanced_pairs(groups: Sequence[CandidateList], count: int, seed: int) -> list[LabelledPair]:
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


RANDOM = Quotas(hard=0, medium=0, easy=0, random=1)
# Negatives from easy to hard, one kind in each third of the run: random, ranks 101 to 1000, top 100.
CURRICULUM: tuple[Negatives, ...] = (
    "exchanged",
    Quotas(hard=0, medium=0, easy=1, random=0),
    Quotas(hard=1, medium=1, easy=0, random=0),
)


def training_pairs(context: RunContext, tokenizer: PairTokenizer) -> list[PairItem]:
    """Warmup's pairs in training order; with a curriculum the negatives get harder by thirds of the batches."""
    section = context.recipe.warmup
    assert section is not None
    split, size = context.recipe.data.train, section.pairs_per_step
    if not section.experimental.curriculum:
        return encoded(context, tokenizer, labelled_pairs(context, split, section.batches * size, section.negatives))
    marks = [section.batches * part // len(CURRICULUM) * size for part in range(len(CURRICULUM) + 1)]
    pairs: list[LabelledPair] = []
    for negatives, start, stop in zip(CURRICULUM, marks, marks[1:]):  # queries go on in one order
        pairs += labelled_pairs(context, split, stop, negatives)[start:]
    return encoded(context, tokenizer, pairs)


def held_out_pairs(context: RunContext, tokenizer: PairTokenizer, split: str, count: int) -> list[PairItem]:
    """Pairs of another split; negatives are random ones of the whole collection, or those of the recipe's quotas."""
    section = context.recipe.warmup
    assert section is not None
    fixed = isinstance(section.negatives, Quotas) and not section.experimental.curriculum
    return encoded(context, tokenizer, labelled_pairs(context, split, count, section.negatives if fixed else RANDOM))


def labelled_pairs(context: RunContext, split: str, count: int, negatives: Negatives) -> list[LabelledPair]:
    """`count` balanced pairs of a split, of a union's subsets in turn."""
    order = turns(context.weights(), -(-count // 2), context.recipe.seed)
    subsets = training_subsets(context) if split == context.recipe.data.train else context.subsets
    streams = [
        iter(subset_pairs(subset, split, 2 * order.count(number), negatives, context.recipe.seed))
        for number, subset in enumerate(subsets)
    ]
    return [next(streams[number]) for number in order for _ in range(2)][:count]


def subset_pairs(subset: Subset, split: str, count: int, negatives: Negatives, seed: int) -> list[LabelledPair]:
    """`count` balanced pairs of one collection."""
    if count == 0:
        return []
    qrels = subset.collection.judgments(split)
    if negatives == "exchanged":
        return exchanged_pairs(qrels, count, seed, no_negatives(subset.collection, qrels))
    lists = build_candidate_lists(subset.collection, qrels, subset.run, negatives, seed)
    return balanced_pairs(lists, count, seed)


def encoded(context: RunContext, tokenizer: PairTokenizer, pairs: Sequence[LabelledPair]) -> list[PairItem]:
    """Token ids of labelled pairs."""
    texts = context.texts()
    sequences, _ = tokenizer.encode([(context.collection.queries[p.query_id], texts[p.document_id]) for p in pairs])
    best = len(tokenizer.answer_ids) - 1
    return [PairItem(ids, best if pair.relevant else 0) for ids, pair in zip(sequences, pairs)]


class PairItem(NamedTuple):
    """A tokenised pair and the index of its right answer."""

    input_ids: list[int]
    label: int
