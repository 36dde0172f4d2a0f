"""Rows of a collection in BEIR layout: a folder's files, plain or gzipped, or a hub data set's tables.

Each row comes with its place, for errors. What the rows mean together is `collection`'s matter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from prorank.errors import DataError, require
from prorank.files import parse_json, text_lines
from prorank.texts import SURROGATE_HINT, surrogate
from prorank.trec import tsv_rows

BUNDLED = Path(__file__).parent / "data"
SPLIT_NAMES = {"validation": "dev", "valid": "dev", "val": "dev"}

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
    return Files(
        json_rows(_either(folder, "corpus.jsonl")),
        json_rows(_either(folder, "queries.jsonl")),
        tables["qrels"],
        tables["candidates"],
        tsv_rows(folder / "excluded.tsv") if (folder / "excluded.tsv").is_file() else iter(()),
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


def hub_files(name: str) -> Files:
    """Rows of a hub data set: configs `corpus` and `queries`, judgments in `default`/`qrels` or `NAME-qrels`."""
    datasets = require("datasets", "train")

    def rows(config: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
        table = datasets.load_dataset(name, config)  # at once, so that a failure is caught below
        return (
            (f"{name}/{config}", i, _with_id(row)) for split in table for i, row in enumerate(table[split], start=1)
        )

    def judged(source: str, config: str | None) -> dict[str, Iterator[tuple[str, int, list[str]]]]:
        table = datasets.load_dataset(source, config)
        return {
            SPLIT_NAMES.get(split, split): iter(
                [
                    (
                        f"{source}/{split}",
                        i,
                        [str(row["query-id"]), str(row["corpus-id"]), whole(row["score"])],
                    )
                    for i, row in enumerate(table[split], start=1)
                ]
            )
            for split in table
        }

    try:
        configs = datasets.get_dataset_config_names(name)
        inside = next((config for config in ("qrels", "default") if config in configs), None)
        qrels = judged(name, inside) if inside else judged(f"{name}-qrels", None)
        return Files(rows("corpus"), rows("queries"), qrels, {})
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"'{name}' is no folder and cannot be loaded from the hub: {(str(error) or repr(error)).splitlines()[0]}",
            hint=f"bundled collections: {', '.join(bundled())}",
        ) from error


def whole(score: Any) -> str:
    """A hub score as a qrels cell: 1.0 is "1", while 0.5 stays as it is and is refused later.

    >>> whole(1.0), whole(0.5)
    ('1', '0.5')
    """
    return str(int(score)) if isinstance(score, float) and score.is_integer() else str(score)


def _with_id(row: dict[str, Any]) -> dict[str, Any]:
    """Hub rows write the id as `_id` or `id`."""
    return row if "_id" in row else row | {"_id": row.get("id")}


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
