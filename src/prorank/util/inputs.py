"""What callers hand to a reranker, checked: pairs, documents, numbers. Knows plain Python values only.

A string is a sequence of strings and a dict a sequence of its keys, so a mistaken call would be scored letter by
letter or key by key. Every mistake gets an error that names the place, counted from 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypedDict, get_args

import numpy as np

from prorank.util.errors import InputError, InputTypeError
from prorank.util.texts import SURROGATE_HINT, surrogate

Document = str | Mapping[str, Any]
BYTES = (bytes, bytearray, memoryview)


class RankedDocument(TypedDict, total=False):
    """One document in `Reranker.rank`'s order; `text` is there only where the documents were asked for."""

    corpus_id: int
    score: float
    text: Document


def listed(values: Iterable[Any], name: str, what: str) -> list[Any]:
    """Any iterable with an order as a list; a single text, a mapping and a set are none.

    Raises:
        InputTypeError: not an iterable of the wanted things.

    >>> listed((word for word in ["a", "b"]), "documents", "a list of documents")
    ['a', 'b']
    """
    refused = (str, Mapping, set, frozenset, *BYTES)
    if isinstance(values, refused) or not isinstance(values, Iterable):
        raise InputTypeError(f"{name} must be {what}, not {_kind(values)}", hint=f"write {name}=[...]")
    return list(values)


def checked_pairs(pairs: Iterable[tuple[str, Document]]) -> list[tuple[str, Document]]:
    """Pairs as a list; query and text of each are looked at by `query_text` and `document_text`.

    Raises:
        InputTypeError: not an iterable of (query, document).

    >>> checked_pairs([["owls", "Owls hunt."]])
    [('owls', 'Owls hunt.')]
    """
    found = listed(pairs, "pairs", "a list of (query, document) pairs")
    for number, pair in enumerate(found, start=1):
        if not isinstance(pair, (list, tuple, np.ndarray)):
            one = len(found) == 2 and isinstance(found[0], str)
            raise InputTypeError(
                f"pair {number} must be (query, document), got {_kind(pair)}",
                hint="for one pair write [(query, document)]" if one else "write [(query, document), ...]",
            )
        if len(pair) != 2:
            raise InputTypeError(f"pair {number} has {len(pair)} parts", hint="a pair is (query, document)")
    return [(query, document) for query, document in found]


def pair_texts(pairs: Iterable[tuple[str, Document]]) -> list[tuple[str, str]]:
    """The texts of checked pairs; an error says which pair it is about.

    Raises:
        InputTypeError, InputError: as `query_text` and `document_text`.
    """
    texts = []
    for number, (query, document) in enumerate(pairs, start=1):
        with naming(f"pair {number}"):
            texts.append((query_text(query), document_text(document)))
    return texts


def document_texts(documents: Iterable[Document]) -> list[str]:
    """The texts of documents; an error says which document it is about.

    Raises:
        InputTypeError, InputError: as `document_text`.
    """
    texts = []
    for number, document in enumerate(documents, start=1):
        with naming(f"document {number}"):
            texts.append(document_text(document))
    return texts


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Say in errors of the input which part of it they are about."""
    try:
        yield
    except (InputError, InputTypeError) as error:
        raise type(error)(f"{what}: {error.message}", hint=error.hint) from None


def document_text(document: Document) -> str:
    """The text that the model reads: a string as it is, or title (may be None) and text of a mapping joined as in BEIR.

    Raises:
        InputTypeError: neither a string nor a mapping with a string `text`, or a title that is no string.
        InputError: half of a surrogate pair in it.

    >>> document_text({"title": "Owls", "text": "They hunt at night."})
    'Owls They hunt at night.'
    """
    if isinstance(document, str):
        return _whole(document, "the document")
    if isinstance(document, Mapping):
        title, text = document.get("title"), document.get("text")
        title = "" if title is None else title
        if not isinstance(text, str):
            raise InputTypeError(
                f"a document mapping needs a string under 'text', got keys {sorted(map(str, document))}"
            )
        if not isinstance(title, str):
            raise InputTypeError(f"a document's 'title' must be a string, got {_kind(title)}")
        return _whole(f"{title} {text}".strip(), "the document")
    raise InputTypeError(f"a document must be a string or a mapping with 'text', got {_kind(document)}")


def query_text(query: object) -> str:
    """The query, if it is one.

    Raises:
        InputTypeError: not a string.
        InputError: empty, or half of a surrogate pair in it.
    """
    if not isinstance(query, str):
        raise InputTypeError(f"a query must be a string, got {_kind(query)}")
    if not query.strip():
        raise InputError("the query is empty")
    return _whole(query, "the query")


def _whole(text: str, name: str) -> str:
    if flaw := surrogate(text):
        raise InputError(f"{name} holds {flaw}", hint=SURROGATE_HINT)
    return text


def whole_numbers(**options: object) -> None:
    """Refuse options that are not whole numbers of at least 1; None, which stands for a default, passes.

    Raises:
        InputTypeError: another type, `True` and 2.0 among them.
        InputError: below 1.
    """
    for name, value in options.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise InputTypeError(f"{name} must be a whole number, got {value!r}")
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")


def of_type(kinds: type | tuple[type, ...], what: str, **options: object) -> None:
    """Refuse options of another type; None, which stands for a default, passes.

    Args:
        kinds: the types wanted.
        what: these, in words.
        options: name -> value.

    Raises:
        InputTypeError: another type.

    >>> of_type(bool, "True or False", compile_layers="no")
    Traceback (most recent call last):
    prorank.util.errors.InputTypeError: compile_layers must be True or False, got 'no'
    """
    for name, value in options.items():
        if value is not None and not isinstance(value, kinds):
            raise InputTypeError(f"{name} must be {what}, got {value!r}")


def one_of(name: str, value: object, literal: Any) -> None:
    """Refuse a value that is none of a `Literal`'s; None, which stands for a default, passes.

    Raises:
        InputError: it is none of them; the message lists them.
    """
    choices = get_args(literal)
    if value is not None and value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}; got {value!r}")


def share(name: str, value: object) -> None:
    """Refuse what is not a number in 0..1.

    Raises:
        InputTypeError: no number.
        InputError: outside, NaN among them.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise InputTypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= value <= 1:
        raise InputError(f"{name} lies between 0 and 1, got {value}")


def finite(scores: Iterable[float], what: str, hint: str, places: Sequence[int] | None = None) -> np.ndarray:
    """Scores as an array, all of them numbers.

    Args:
        scores: any real numbers.
        what: `pair`, `score`: named with its number in the error.
        hint: what may be the matter.
        places: the place of each score's pair, counted from 0, where that is not its own.

    Raises:
        InputTypeError: not numbers.
        InputError: NaN or infinity.

    >>> finite([1.0, float("nan")], "score", "were they computed by this model?")
    Traceback (most recent call last):
    prorank.util.errors.InputError: score 2 is nan (were they computed by this model?)
    """
    try:
        found = np.asarray(scores)
    except ValueError as error:  # lists of several lengths
        raise InputTypeError(f"scores must be a list of numbers: {error}") from error
    if found.dtype.kind not in "fiu" or found.ndim != 1:
        raise InputTypeError(f"scores must be a list of numbers, got {found.ndim} dimensions of {found.dtype}")
    wrong = np.flatnonzero(~np.isfinite(found))
    if len(wrong):
        place = int(wrong[0]) if places is None else places[wrong[0]]
        others = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise InputError(f"{what} {place + 1} is {found.flat[wrong[0]]}{others}", hint=hint)
    return found


def _kind(value: object) -> str:
    return type(value).__name__
