"""Cascades: read an excerpt of every document, a longer one of the best, and only a few in full.

Most of a list's documents can be told from its best ones by their excerpts alone, so most tokens need not be read.
Knows texts, scores and lists; nothing of models or prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence

import numpy as np

from prorank.engine.excerpts import excerpts
from prorank.engine.scorer import ScoredPairs, query_numbers
from prorank.model.cascade import Cascade
from prorank.model.checkpoint import CheckpointSettings
from prorank.prompts.plain import PlainTokenizer
from prorank.prompts.truncation import Truncation
from prorank.util.errors import CheckpointError, InputError
from prorank.util.inputs import of_type

LONGER = 2  # so many times an excerpt's length a list's documents must have, or excerpts cost more than they save
Pass = tuple[list[int], "int | None"]  # places of pairs, and tokens of each document that are read (None: all)
Passes = Generator[Pass, np.ndarray, np.ndarray]
Read = Callable[[list[int], "int | None"], np.ndarray]  # a pass -> its scores


def best_of(places: Sequence[int], scores: np.ndarray, count: int) -> list[int]:
    """The places of the best scores, in input order; of equal ones the first.

    >>> best_of([3, 5, 6], np.array([0, 0, 0, 1.0, 0, 0.5, 2.0]), 2)
    [3, 6]
    """
    return sorted(sorted(places, key=lambda place: -scores[place])[:count])


def below(scores: np.ndarray, floor: float) -> np.ndarray:
    """Scores moved down together, if they must be, until all are under a floor.

    >>> below(np.array([1.0, 3.0]), 2.0).round(3).tolist(), below(np.array([1.0, 1.5]), 2.0).tolist()
    ([0.0, 2.0], [1.0, 1.5])
    """
    excess = scores.max() - floor
    return scores if excess < 0 else np.minimum(scores - excess, np.nextafter(scores.dtype.type(floor), -np.inf))


def cascade_passes(cascade: Cascade, groups: Sequence[int], lengths: Sequence[int]) -> Passes:
    """A generator that yields, pass after pass, which pairs to read and how much; it is sent their scores.

    A document that is read whole has the score that it has without a cascade. One that is not keeps the score of its
    excerpt, moved below those that were read further. Lists of up to `at_least` documents are read whole at once, and
    so are lists whose documents are on average less than `LONGER` times as long as the first excerpt.

    Args:
        cascade: how much is read of how many.
        groups: (N,) number of each pair's list.
        lengths: (N,) tokens of each document.

    Yields:
        Places of pairs, and tokens of each document that are to be read (None: all).

    Returns:
        (N,) float32, the scores that order every list.
    """
    lists: dict[int, list[int]] = {}
    for place, group in enumerate(groups):
        lists.setdefault(group, []).append(place)
    scores, whole = np.zeros(len(groups), dtype=np.float32), np.zeros(len(groups), dtype=bool)
    going = {
        group: places
        for group, places in lists.items()
        if len(places) > cascade.at_least
        and sum(lengths[place] for place in places) >= LONGER * cascade.tokens[0] * len(places)
    }
    steps: list[tuple[list[int], list[int]]] = []  # of a list: places that went on, places that did not
    for tokens, share in zip(cascade.tokens, cascade.shares):
        due = [place for places in going.values() for place in places if not whole[place]]
        if due:
            scores[due] = yield due, tokens
            whole[due] = np.asarray(lengths)[due] <= tokens
        for group, places in going.items():
            going[group] = best_of(places, scores, max(cascade.at_least, math.ceil(share * len(lists[group]))))
            steps.append((going[group], sorted(set(places) - set(going[group]))))
    due = sorted(p for group, places in lists.items() for p in going.get(group, places) if not whole[p])
    if due:
        scores[due] = yield due, None
    for kept, left in reversed(steps):
        part = [place for place in left if not whole[place]]
        if part:
            scores[part] = below(scores[part], float(scores[kept].min()))
    return scores


def cascade_scores(cascade: Cascade, groups: Sequence[int], lengths: Sequence[int], read: Read) -> np.ndarray:
    """Scores by `cascade_passes`.

    Args:
        cascade, groups, lengths: as there.
        read: scores pairs by so many tokens of their documents, or by all.

    >>> full, excerpt = np.array([3.0, 2.0, 1.0, 0.0]), np.array([2.5, 0.5, 0.7, 0.1])
    >>> one = Cascade(tokens=(8,), shares=(0.5,), at_least=1)
    >>> read = lambda places, tokens: (excerpt if tokens else full)[places]
    >>> [round(float(score), 1) for score in cascade_scores(one, [0] * 4, [99] * 4, read)]
    [3.0, 0.5, 1.0, 0.1]
    """
    passes, scores = cascade_passes(cascade, groups, lengths), None
    try:
        while True:
            places, tokens = passes.send(scores)  # type: ignore[arg-type]  # the first is None
            scores = read(places, tokens)
    except StopIteration as end:
        found: np.ndarray = end.value
        return found


def lengths_of(plain: PlainTokenizer, texts: Sequence[tuple[str, str]]) -> list[int]:
    """Tokens of the document of each (query, document) pair."""
    return [len(ids) for ids in plain.ids([document for _, document in texts])]


def list_numbers(texts: Sequence[tuple[str, str]], lists: Sequence[int] | None) -> Sequence[int]:
    """Number of the list of each (query, document) pair: as given, or one for the pairs of equal queries.

    Raises:
        InputError: not as many numbers as pairs.
    """
    if lists is None:
        return query_numbers(texts)
    if len(lists) != len(texts):
        raise InputError(f"{len(lists)} list numbers for {len(texts)} pairs", hint="give one for each pair")
    return lists


def narrowed(
    cascade: Cascade,
    plain: PlainTokenizer,
    texts: Sequence[tuple[str, str]],
    scored: Callable[[list[tuple[str, str]], list[int]], ScoredPairs],
    lists: Sequence[int] | None = None,
) -> ScoredPairs:
    """Scores of (query, document) texts by a cascade.

    Args:
        cascade: how much is read of how many.
        plain: what counts the tokens.
        texts: the pairs.
        scored: scores pairs as they are; it also gets their places among all.
        lists: (N,) number of each pair's list; None takes the pairs of equal queries for one.

    Returns:
        Scores, and what was cut of the documents that were to be read whole.

    Raises:
        InputError: not as many numbers as pairs.
    """
    groups = list_numbers(texts, lists)
    whole, malformed, read = Truncation(0, 0), 0, 0

    def scores_of(places: list[int], tokens: int | None) -> np.ndarray:
        nonlocal whole, malformed, read
        found = scored(excerpts(plain, [texts[place] for place in places], tokens), places)
        malformed, read = malformed + found.malformed, read + found.read
        whole = found.truncation if tokens is None else whole
        return found.scores

    scores = cascade_scores(cascade, groups, lengths_of(plain, texts), scores_of)
    return ScoredPairs(scores, whole, malformed, read)


def check_cascade(wanted: bool | Cascade | None) -> None:
    """Refuse what says neither whether nor how lists are read in part; None, which stands for a default, passes.

    Raises:
        InputTypeError: another type.
    """
    of_type((bool, Cascade), "True, False or a Cascade", cascade=wanted)


def cascade_of(settings: CheckpointSettings, wanted: bool | Cascade) -> Cascade | None:
    """The cascade that is asked for: a checkpoint's own for True, none for False.

    Raises:
        InputTypeError: something else is asked for.
        CheckpointError: the checkpoint has none.
    """
    check_cascade(wanted)
    if wanted is True and settings.cascade is None:
        raise CheckpointError(
            f"no cascade was chosen for '{settings.base_model}'",
            hint="prorank cascade MODEL COLLECTION --save chooses one; or give a Cascade",
        )
    return wanted if isinstance(wanted, Cascade) else settings.cascade if wanted else None
