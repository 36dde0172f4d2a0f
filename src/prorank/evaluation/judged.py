"""By which judgments a result was measured: written beside it, and looked at before results are compared.

Query ids alone do not tell: the first query of many collections is `q1`. Knows collections, files and records.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prorank.data.collection import Collection
from prorank.evaluation.metrics import SUMMARY
from prorank.util.errors import DataError
from prorank.util.files import read_json

logger = logging.getLogger(__name__)
KEY = "judgments"  # of the record in the summary beside a table of metrics per query
PROTOCOL = ("relevant_from", "exclude_query_document")  # what is chosen beside collection and split
COMPARED = ("data_fingerprint", "split", "made", *PROTOCOL)


def judged_by(
    collection: Collection, split: str, relevant_from: int = 1, exclude_query_document: bool = False
) -> dict[str, Any]:
    """The record of what decides a result's judgments, and which documents its lists may hold.

    Args:
        collection: as it is measured on; its name is for readers, a renamed folder holds the same judgments.
        split: whose queries are measured.
        relevant_from: least grade that counts as relevant in metrics that know no grades.
        exclude_query_document: whether the document of a query's own id is left out.
    """
    made = {name: text for name, text in collection.carved.items() if name.rpartition("/")[2] == split}
    return {
        "collection": collection.name,
        "data_fingerprint": collection.fingerprint,
        "split": split,
        "made": made or None,
        "relevant_from": relevant_from,
        "exclude_query_document": exclude_query_document,
    }


def record_of(table: Path) -> dict[str, Any] | None:
    """What the summary beside a table of metrics says of its judgments; None where nothing does."""
    file = table.parent / SUMMARY
    found = read_json(file) if file.is_file() else None
    record = found.get(KEY) if isinstance(found, dict) else None
    return record if isinstance(record, dict) and type(record.get("relevant_from")) is int else None


def refuse_other_judgments(records: Mapping[Path, Mapping[str, Any] | None]) -> Mapping[str, Any] | None:
    """Refuse results that were measured by different judgments; those that do not say by which are told.

    Args:
        records: by the result's path, see `record_of`; what a record lacks fits any.

    Returns:
        The first record; None where no result has one.

    Raises:
        DataError: two records differ; the message says in what.
    """
    known = {path: record for path, record in records.items() if record is not None}
    silent = [str(path) for path in records if path not in known]
    if silent:
        logger.warning(
            "%s: nothing says by which judgments it was measured; they are taken for alike", ", ".join(silent)
        )
    if not known:
        return None
    (base, first), *others = known.items()
    for path, other in others:
        keys = [key for key in COMPARED if key in first and key in other]
        if apart := [_difference(key, first, other) for key in keys if first[key] != other[key]]:
            raise DataError(
                f"{base} and {path} were not measured alike: {'; '.join(apart)}",
                hint="evaluate both alike; or give their run.trec and --collection, by which all are measured",
            )
    return first


def _difference(key: str, first: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """One difference of two records, with both values.

    >>> _difference("relevant_from", {"relevant_from": 1}, {"relevant_from": 2})
    'relevant_from is 1 and 2'
    """
    if key == "data_fingerprint":
        own = (f"{record.get('collection')} (fingerprint {str(record.get(key))[:8]})" for record in (first, other))
        return f"the data is {' and '.join(own)}"
    return f"{key} is {first.get(key)} and {other.get(key)}"
