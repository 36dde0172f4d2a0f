"""Negatives for training, drawn from a first-stage run by rank tier. Knows runs and qrels only."""

from __future__ import annotations

import math
import random as randomness
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from prorank.data.runs import Qrels, Run, ranked
from prorank.util.errors import ProrankError

# First-stage ranks of each tier, 1-based, both ends included (ERank, arXiv 2509.00520, SFT data).
TIERS = {"hard": (1, 10), "medium": (11, 100), "easy": (101, 1000)}


class Mined(NamedTuple):
    """Negatives by query; how many each tier (and `random`) lacked; how many the teacher's filter dropped."""

    negatives: dict[str, list[str]]
    shortfall: dict[str, int]
    filtered: int


def mine_negatives(
    run: Run,
    qrels: Qrels,
    quotas: Mapping[str, int],
    *,
    random_documents: Sequence[str] = (),
    random: int = 0,
    teacher: Run | None = None,
    margin: float | None = None,
    excluded: Mapping[str, Sequence[str]] = {},
    seed: int = 0,
) -> Mined:
    """Draw negatives for every query of the qrels.

    A document with grade above 0 is never a negative. With `teacher` and `margin`, a candidate whose teacher
    score is above the query's weakest positive minus the margin counts as a likely false negative and is
    dropped (positive-aware mining, NV-Retriever, arXiv 2407.15831). The draw of a query depends on the seed
    and its id alone.

    Args:
        run: first-stage run.
        qrels: judgments; its queries are mined.
        quotas: negatives wanted from each tier of `TIERS`.
        random_documents: ids to draw random negatives from.
        random: random negatives wanted.
        teacher: teacher scores of candidates and positives.
        margin: in units of the teacher's score; None keeps all.
        excluded: query id -> documents that are no negatives of it, the query itself for instance.
        seed: seed of the draw.

    Raises:
        ProrankError: an unknown tier, a number below 0, no negative wanted at all, or a margin that is not finite.

    >>> mine_negatives({"q": {"a": 3.0, "b": 2.0, "c": 1.0}}, {"q": {"b": 1}}, {"hard": 2}).negatives
    {'q': ['a', 'c']}
    """
    unknown = set(quotas) - set(TIERS)
    if unknown:
        raise ProrankError(f"unknown tier '{min(unknown)}'", hint=f"tiers: {', '.join(TIERS)}")
    for source, wanted in {**quotas, "random": random}.items():
        if wanted < 0:
            raise ProrankError(f"cannot draw {wanted} '{source}' negatives", hint="give 0 or more")
    if not any([*quotas.values(), random]):
        raise ProrankError("every quota is 0: no negative would be drawn", hint="give one tier, or random, 1 or more")
    if margin is not None and not math.isfinite(margin):
        raise ProrankError(f"the margin must be a number, got {margin}", hint="0 keeps the filter without a margin")
    negatives: dict[str, list[str]] = {}
    shortfall = dict.fromkeys([*quotas, "random"] if random else quotas, 0)
    filtered = 0
    random_documents = list(dict.fromkeys(random_documents))  # an id twice would be waited for in vain below
    everything = set(random_documents)
    for query, judged in qrels.items():
        draw = randomness.Random(f"{seed}:{query}")
        positives = {document for document, grade in judged.items() if grade > 0}
        barred = positives | set(excluded.get(query, ()))
        order = [document for document, _ in ranked(run.get(query, {}))]
        suspects = _suspects(query, order, positives, teacher, margin)
        filtered += len(suspects)
        chosen: list[str] = []
        for tier, quota in quotas.items():
            first, last = TIERS[tier]
            pool = [d for d in order[first - 1 : last] if d not in barred and d not in suspects]
            kept = set(draw.sample(pool, min(quota, len(pool))))
            chosen += [document for document in pool if document in kept]  # in rank order
            shortfall[tier] += quota - len(kept)
        taken = barred | suspects | set(chosen)
        free = len(random_documents) - len(taken & everything)
        if random:
            shortfall["random"] += max(0, random - free)
        for _ in range(min(random, free)):
            document = draw.choice(random_documents)
            while document in taken:
                document = draw.choice(random_documents)
            taken.add(document)
            chosen.append(document)
        negatives[query] = chosen
    return Mined(negatives, shortfall, filtered)


def _suspects(
    query: str, order: Sequence[str], positives: set[str], teacher: Run | None, margin: float | None
) -> set[str]:
    """Candidates that the teacher holds for relevant."""
    if teacher is None or margin is None:
        return set()
    scores = teacher.get(query, {})
    known = [scores[document] for document in positives if document in scores]
    if not known:
        return set()
    bar = min(known) - margin
    return {d for d in order if d not in positives and d in scores and scores[d] > bar}
