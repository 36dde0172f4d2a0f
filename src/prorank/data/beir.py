"""BEIR layout on disk: `corpus.jsonl`, `queries.jsonl`, `qrels/{split}.tsv`, plain or gzipped, row by row.

Every row comes with its file and line. This module knows files, not what their fields mean.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from prorank.data.trec import tsv_rows
from prorank.util.errors import DataError
from prorank.util.files import parse_json, text_lines
from prorank.util.texts import SURROGATE_HINT, surrogate

BUNDLED = Path(__file__).parent / "bundled"
Row = tuple[str, int, dict[str, Any]]  # file, line, fields


class Files(NamedTuple):
    """Rows of a collection with their places: (file, line, row)."""

    corpus: Iterator[Row]
    queries: Iterator[Row]
    qrels: dict[str, Iterator[tuple[str, int, list[str]]]]
    candidates: dict[str, Iterator[tuple[str, int, list[str]]]]
    excluded: Iterator[tuple[str, int, list[str]]] = iter(())


def _either(folder: Path, name: str) -> Path:
    """`name` or `name.gz` inside `folder`."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(f"{folder}: no {name} (nor {name}.gz)", hint="a collection needs corpus, queries and qrels")


def folder_files(folder: Path) -> Files:
    """Rows of a folder.

    Raises:
        DataError: a file is missing.
    """
    tables: dict[str, dict[str, Iterator[tuple[str, int, list[str]]]]] = {"qrels": {}, "candidates": {}}
    for kind, splits in tables.items():
        # Plain files last: where both stand, the plain one is read, as for corpus and queries.
        for path in [*sorted((folder / kind).glob("*.tsv.gz")), *sorted((folder / kind).glob("*.tsv"))]:
            splits[path.name.removesuffix(".gz").removesuffix(".tsv")] = tsv_rows(path)
    if not tables["qrels"]:
        raise DataError(f"{folder / 'qrels'}: no split", hint="add qrels/test.tsv: query-id, corpus-id, score")
    excluded = (folder / "excluded.tsv", folder / "excluded.tsv.gz")
    return Files(
        json_rows(_either(folder, "corpus.jsonl")),
        json_rows(_either(folder, "queries.jsonl")),
        tables["qrels"],
        tables["candidates"],
        next((tsv_rows(path) for path in excluded if path.is_file()), iter(())),
    )


def json_rows(path: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """(file, line, object) of a JSON Lines file, plain or gzipped; empty lines are passed over.

    Raises:
        DataError: unreadable, not JSON, or no object; with the line.
    """
    for line, text in text_lines(path):
        if text.strip():
            row = parse_json(text, str(path), line)
            if not isinstance(row, dict):
                raise DataError(f"{path}:{line}: expected a JSON object, got {type(row).__name__}")
            yield str(path), line, row


def text_field(row: Mapping[str, Any], key: str, place: str, default: str | None = None) -> str:
    """A string of a JSON object; `place` says in errors where the object stood.

    Raises:
        DataError: the field is missing (and there is no default), no string, or holds half of a surrogate pair.
    """
    value = row.get(key, default)
    if value is None and default is not None:
        value = default
    if not isinstance(value, str):
        what = "is missing" if key not in row else f"must be a string, got {json.dumps(value)[:40]}"
        raise DataError(f"{place}: '{key}' {what}")
    if flaw := surrogate(value):
        raise DataError(f"{place}: '{key}' holds {flaw}", hint=SURROGATE_HINT)
    return value


def bundled() -> list[str]:
    """Names of the collections inside the package.

    >>> bundled()
    ['cosqa']
    """
    return sorted(path.name for path in BUNDLED.iterdir() if path.is_dir())
