"""Collections by name from elsewhere: ir_datasets' ids, and benchmarks on the hub in their authors' own layouts.

`irds:beir/scifact/test` is read through the package ir_datasets, `bright:biology` and `followir:core17` from the files
that their authors keep on the hub. Knows names and layouts; what the rows mean is `collection`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from prorank.data.beir import Files
from prorank.data.convert import bright, files_of, followir
from prorank.data.hub import SPLIT_NAMES
from prorank.util.errors import DataError, require
from prorank.util.sources import on_hub

BRIGHT, FOLLOWIR = "xlangai/BRIGHT", "jhu-clsp/{}-instructions"
SPLITS = ("train", "dev", "validation", "test")  # of an ir_datasets id, where they stand below it


def named_files(source: str) -> Files | None:
    """Rows of a collection whose name says where it comes from; None: no such name.

    Args:
        source: `irds:ID`, `irds-lists:ID` (only the documents of its lists and judgments), `bright:DOMAIN` or
            `followir:NAME`.

    Raises:
        DataError: it cannot be loaded.
        MissingExtraError: the package that reads it is not installed.

    >>> named_files("path/to/collection") is None
    True
    """
    kind, _, name = source.partition(":")
    return READERS[kind](name) if kind in READERS and name else None


def irds_files(name: str, lists_only: bool = False) -> Files:
    """Rows of a data set of ir_datasets, with the splits below it where it has no judgments of its own.

    The split is called as the id ends (`beir/scifact/test`), or `test`. Grades below 0 count as 0. Scored documents
    are the candidate lists.

    Args:
        name: id, such as `beir/scifact/test`.
        lists_only: leave out documents that no list and no judgment names; for corpora of millions.

    Raises:
        DataError: no such id, or neither documents nor judgments.
        MissingExtraError: ir_datasets is not installed.
    """
    library = require("ir_datasets", "irds")
    try:
        return _irds_files(library, name, lists_only)
    except OSError as error:  # of requests, too
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"irds:{name}: ir_datasets could not get its files: {reason}", hint="is there a network?"
        ) from error


def _irds_files(library: Any, name: str, lists_only: bool) -> Files:
    try:
        whole = library.load(name)
    except KeyError as error:
        raise DataError(f"irds:{name}: ir_datasets has no such id", hint="see ir-datasets.com for its ids") from error
    parts = {split_of(name): whole} if whole.has_qrels() else _below(library, name)
    if not parts or not whole.has_docs():
        raise DataError(f"irds:{name}: no documents or no judgments", hint="give an id that has both")
    qrels, lists, queries = {}, {}, dict[str, str]()
    for split, part in parts.items():
        qrels[split] = [[row.query_id, row.doc_id, str(max(0, int(row.relevance)))] for row in part.qrels_iter()]
        queries |= {row.query_id: row.default_text() for row in part.queries_iter()}
        if part.has_scoreddocs():
            lists[split] = [[row.query_id, row.doc_id] for row in part.scoreddocs_iter()]
    if lists_only and not lists:
        raise DataError(f"irds:{name}: no candidate lists", hint=f"irds:{name} reads all its documents")
    named = {row[1] for table in (*qrels.values(), *lists.values()) for row in table}
    documents = whole.docs_store().get_many_iter(named) if lists_only else whole.docs_iter()
    return Files(
        _numbered(f"irds:{name}/docs", map(_document, documents)),
        _numbered(f"irds:{name}/queries", ({"_id": key, "text": text} for key, text in queries.items())),
        {split: _numbered(f"irds:{name}/qrels/{split}", rows) for split, rows in qrels.items()},
        {split: _numbered(f"irds:{name}/scoreddocs/{split}", rows) for split, rows in lists.items()},
    )


def split_of(name: str) -> str:
    """The split that an id's last part names, else `test`.

    >>> split_of("beir/scifact/train"), split_of("msmarco-passage/trec-dl-2019/judged")
    ('train', 'test')
    """
    last = name.rsplit("/", 1)[-1]
    return SPLIT_NAMES.get(last, last) if last in SPLITS else "test"


def _below(library: Any, name: str) -> dict[str, Any]:
    """Split -> data set of an id's own splits that are judged."""
    found = {}
    for split in SPLITS:
        try:
            part = library.load(f"{name}/{split}")
        except KeyError:
            continue
        if part.has_qrels():
            found[SPLIT_NAMES.get(split, split)] = part
    return found


def _document(row: Any) -> dict[str, str]:
    """A document of any of ir_datasets' kinds: title and text where it has both, else all that it would index."""
    if hasattr(row, "title") and hasattr(row, "text"):
        return {"_id": row.doc_id, "title": row.title or "", "text": row.text}
    return {"_id": row.doc_id, "title": "", "text": row.default_text()}


def _numbered(file: str, rows: Iterable[Any]) -> Iterator[Any]:
    return ((file, number, row) for number, row in enumerate(rows, start=1))


def _hub_folder(name: str, patterns: list[str] | None = None) -> Path:
    """The folder of a data set's files, fetched from the hub."""
    download = require("huggingface_hub", None).snapshot_download
    try:
        return Path(download(on_hub(name, "dataset"), repo_type="dataset", allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise DataError(f"'{name}' cannot be fetched from the hub: {str(error).splitlines()[0]}") from error


def _bright(domain: str) -> Files:
    folder = _hub_folder(BRIGHT, [f"examples/{domain}-*", f"documents/{domain}-*"])
    return files_of(bright(folder, domain), f"bright:{domain}")


def _followir(name: str) -> Files:
    return files_of(followir(_hub_folder(FOLLOWIR.format(name))), f"followir:{name}")


READERS: dict[str, Callable[[str], Files]] = {
    "irds": irds_files,
    "irds-lists": lambda name: irds_files(name, lists_only=True),
    "bright": _bright,
    "followir": _followir,
}
