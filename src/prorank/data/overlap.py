"""Texts that stand where they should not: queries of two splits at once, queries among the documents.

Knows texts and ids; what is done about them is the callers' matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from prorank.data.runs import Qrels
from prorank.util.texts import plain

if TYPE_CHECKING:
    from prorank.data.collection import Collection, Document


def shared_queries(queries: Mapping[str, str], train: Iterable[str], held: Iterable[str]) -> dict[str, str]:
    """Training query id -> a held-out query of the same id, or of the same text but for case and spaces.

    >>> shared_queries({"q1": "Owls hunt", "q2": "owls  hunt", "q3": "moon"}, ["q1", "q3"], ["q2"])
    {'q1': 'q2'}
    """
    held = list(held)
    by_text = {plain(queries[query]): query for query in reversed(held)}
    ids = set(held)
    found = {}
    for query in train:
        other = query if query in ids else by_text.get(plain(queries[query]))
        if other is not None:
            found[query] = other
    return found


def own_documents(
    queries: Mapping[str, str], documents: Mapping[str, Document], qrels: Iterable[Qrels] = ()
) -> dict[str, list[str]]:
    """Query id -> documents whose text is the query itself, as in ArguAna and Quora.

    A document that is judged relevant for its query is no accident and left out.

    >>> from prorank.data.collection import Document
    >>> own_documents({"a1": "Owls hunt."}, {"a1": Document("a1", "", "Owls hunt.")})
    {'a1': ['a1']}
    """
    by_text: dict[str, list[str]] = {}
    for query, text in queries.items():
        by_text.setdefault(text.strip(), []).append(query)
    by_text.pop("", None)
    found: dict[str, list[str]] = {}
    for document in documents.values():
        for text in {document.text.strip(), document.content}:
            for query in by_text.get(text, ()):
                found.setdefault(query, []).append(document.id)
    for judged in qrels:
        for query in found.keys() & judged.keys():
            found[query] = [document for document in found[query] if judged[query].get(document, 0) <= 0]
    return {query: listed for query, listed in found.items() if listed}


def without_query_documents(collection: Collection) -> Collection:
    """The collection with every query's namesake among the documents excluded, as BEIR's evaluation does."""
    named = {query: [query] for query in collection.queries if query in collection.documents}
    return replace(collection, excluded=joined(collection.excluded, named))


def no_negatives(collection: Collection, qrels: Qrels) -> dict[str, list[str]]:
    """Query id -> documents that must not be taken for a negative: what is excluded, and what is the query itself."""
    queries = {query: collection.queries[query] for query in qrels}
    return joined(collection.excluded, own_documents(queries, collection.documents, [qrels]))


def joined(first: Mapping[str, Sequence[str]], second: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Two lists of documents by query as one, without repetitions.

    >>> joined({"q": ["a"]}, {"q": ["a", "b"], "r": ["c"]})
    {'q': ['a', 'b'], 'r': ['c']}
    """
    everyone = dict.fromkeys([*first, *second])
    return {query: list(dict.fromkeys([*first.get(query, ()), *second.get(query, ())])) for query in everyone}
