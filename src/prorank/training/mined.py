"""What `prorank data mine` wrote, read back for training: negatives by query.

Knows files and collections; which of them a list takes is `groups`' matter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prorank.data.collection import Collection
from prorank.data.runs import Qrels
from prorank.util.errors import DataError
from prorank.util.files import parse_json, text_lines


class _Malformed(Exception):
    """What is wrong with a line."""


def read_mined(path: Path, collection: Collection) -> Qrels:
    """Query id -> its documents: 1 for the positives, 0 for the negatives, in the file's order.

    Args:
        path: JSON Lines of `query_id`, `positives`, `negatives`; documents are ids, or objects with `id` (`--texts`).
        collection: that was mined.

    Raises:
        DataError: a malformed line, an id that the collection lacks, a document that is both, or a query twice; with
            the line.
    """
    found: Qrels = {}
    for number, line in text_lines(path):
        if not line.strip():
            continue
        row = parse_json(line, str(path), number)
        try:
            query, documents = _mined(row, collection)
            if query in found:
                raise _Malformed(f"a second line for query '{query}'")
        except _Malformed as error:
            raise DataError(f"{path}:{number}: {error}", hint="see `prorank data mine`") from None
        found[query] = documents
    if not found:
        raise DataError(f"{path}: no mined query")
    return found


def _mined(row: Any, collection: Collection) -> tuple[str, dict[str, int]]:
    if not isinstance(row, dict):
        raise _Malformed(f"expected an object, got {type(row).__name__}")
    query = row.get("query_id")
    if not isinstance(query, str):
        raise _Malformed(f"'query_id' must be a string, got {query!r:.40}")
    if query not in collection.queries:
        raise _Malformed(f"query '{query}' is not in {collection.name}")
    documents: dict[str, int] = {}
    for key, grade in (("positives", 1), ("negatives", 0)):
        listed = row.get(key)
        if not isinstance(listed, list):
            raise _Malformed(f"'{key}' must be a list of documents, got {listed!r:.40}")
        for item in listed:
            document = item.get("id") if isinstance(item, dict) else item
            if not isinstance(document, str):
                raise _Malformed(f"'{key}' must hold ids, got {item!r:.40}")
            if document not in collection.documents:
                raise _Malformed(f"document '{document}' is not in {collection.name}")
            if documents.get(document, grade) != grade:
                raise _Malformed(f"document '{document}' is positive and negative")
            documents[document] = grade
    if 1 not in documents.values():
        raise _Malformed(f"query '{query}' has no positive")
    return query, documents
