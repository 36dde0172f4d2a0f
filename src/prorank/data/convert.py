"""Benchmarks in their own layouts, written as collections in BEIR layout: FollowIR, BRIGHT, TREC Deep Learning.

Reads the files as their authors publish them; nothing is downloaded. What BEIR's layout lacks stands in two more
tables: `candidates/test.tsv` (the lists that are reranked) and `excluded.tsv` (documents that must not be retrieved).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from prorank.data.beir import Files, json_rows, text_field
from prorank.data.hub import whole
from prorank.data.trec import check_ids, judgment, trec_rows, tsv_rows
from prorank.util.errors import DataError, ProrankError, require
from prorank.util.files import atomic_writer, json_line, put_in_place, refuse_folder_overwrite
from prorank.util.own_files import PARTS, refuse_foreign

Layout = Literal["followir", "bright", "trec-dl"]
COLLECTION_FILES = ("corpus.jsonl", "queries.jsonl", "qrels/*.tsv", "candidates/*.tsv", "excluded.tsv", *PARTS)
ORIGINAL, CHANGED = "-og", "-changed"  # endings of FollowIR's query ids, by instruction


class Tables(NamedTuple):
    """A benchmark as tables.

    Attributes:
        documents: (id, title, text).
        queries: (id, text).
        judgments: (query id, document id, grade).
        candidates: (query id, document id), in the order of the list.
        excluded: (query id, document id).
    """

    documents: Iterable[tuple[str, str, str]]
    queries: list[tuple[str, str]]
    judgments: list[tuple[str, str, int]]
    candidates: list[tuple[str, str]]
    excluded: list[tuple[str, str]]


def convert(layout: Layout, source: Path, output: Path, *, part: str | None, long: bool, force: bool) -> None:
    """Write a benchmark as a collection in BEIR layout, with its queries as the test split.

    Args:
        layout: whose files these are.
        source: folder of the benchmark's files.
        output: folder to write.
        part: BRIGHT's domain (`biology`), or TREC's year where a folder holds several (`2019`).
        long: BRIGHT's whole web pages (`long_documents`) with their own gold lists.
        force: replace the folder.

    Raises:
        DataError: a file is missing or malformed; says which and where.
        ProrankError: the output is taken, or `part` is missing or not known.
    """

    def read() -> Tables:
        if layout == "followir":
            return followir(source)
        if layout == "trec-dl":
            return trec_dl(source, part)
        if part is None:
            raise ProrankError("BRIGHT has one collection a domain", hint="--part biology")
        return bright(source, part, long)

    replace_collection(read, output, force)


def replace_collection(read: Callable[[], Tables], output: Path, force: bool, split: str = "test") -> None:
    """Write what `read` gives as a collection, whole or not at all.

    Raises:
        ProrankError: the output is taken, and `force` is not set, it is no collection, or it holds other files.
    """
    refuse_folder_overwrite(output, force)
    if output.is_dir() and any(output.iterdir()):
        if not (output / "corpus.jsonl").is_file():
            raise ProrankError(f"{output} is not a collection", hint="--force deletes only collections")
        refuse_foreign(output, COLLECTION_FILES, "a collection")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as place:
        fresh = Path(place) / "collection"
        write_collection(read(), fresh, split)
        put_in_place(fresh, output)


def followir(source: Path) -> Tables:
    """FollowIR (arXiv 2403.15246): every query twice, with its original and its changed instruction after the text.

    Files: `corpus.jsonl`, `queries.jsonl` (with `instruction_og`, `instruction_changed`), `qrels_og/test.jsonl`,
    `qrels_changed/test.jsonl`, `top_ranked.jsonl`.
    """
    queries, judgments, candidates = [], [], []
    for _, row in _objects(source / "queries.jsonl", "_id", "text", "instruction_og", "instruction_changed"):
        queries.append((row["_id"] + ORIGINAL, f"{row['text']} {row['instruction_og']}"))
        queries.append((row["_id"] + CHANGED, f"{row['text']} {row['instruction_changed']}"))
    for ending, folder in ((ORIGINAL, "qrels_og"), (CHANGED, "qrels_changed")):
        for place, row in _objects(source / folder / "test.jsonl", "query-id", "corpus-id"):
            cells = [row["query-id"] + ending, row["corpus-id"], whole(row.get("score"))]
            judgments.append(judgment(cells, place))
    for _, row in _objects(source / "top_ranked.jsonl", "qid", "pid"):
        candidates += [(row["qid"] + ending, row["pid"]) for ending in (ORIGINAL, CHANGED)]
    corpus = _objects(source / "corpus.jsonl", "_id", "text")
    documents = ((row["_id"], row.get("title") or "", row["text"]) for _, row in corpus)
    return Tables(documents, queries, judgments, candidates, [])


def bright(source: Path, domain: str, long: bool = False) -> Tables:
    """BRIGHT (arXiv 2407.12883): one domain; `excluded_ids` must not be retrieved.

    Files: `examples/DOMAIN-*.parquet` (`id`, `query`, `gold_ids`, `gold_ids_long`, `excluded_ids`) and
    `documents/DOMAIN-*.parquet` or `long_documents/...` (`id`, `content`).
    """
    gold = "gold_ids_long" if long else "gold_ids"
    queries, judgments, excluded = [], [], []
    for row in _parquet_rows(source / "examples", domain):
        query = str(row["id"])
        queries.append((query, str(row["query"])))
        judgments += [(query, document, 1) for document in dict.fromkeys(row[gold])]
        excluded += [(query, document) for document in row["excluded_ids"] if document != "N/A"]
    rows = _parquet_rows(source / ("long_documents" if long else "documents"), domain)
    return Tables(((row["id"], "", row["content"]) for row in rows), queries, judgments, [], excluded)


def trec_dl(source: Path, year: str | None = None) -> Tables:
    """TREC Deep Learning, passages: graded judgments 0..3 (arXiv 2003.07820), the official lists of 1,000 to rerank.

    Files, plain or gzipped: `*queries*.tsv`, `*qrels*.txt`, `*top1000*.tsv`, and `collection.tsv`; where that is absent
    the corpus is the passages of the lists. Only queries that were judged are kept.
    """
    judgments = []
    for file, line, cells in trec_rows(_one(source, "*qrels*.txt", year), 4, "query Q0 document grade"):
        query, document, grade = judgment([cells[0], *cells[2:]], f"{file}:{line}")
        judgments.append((query, document, max(0, grade)))
    judged = {query for query, _, _ in judgments}
    queries = [(c[0], c[1]) for c in _columns(_one(source, "*queries*.tsv", year), 2) if c[0] in judged]
    candidates, passages = [], {}
    for cells in _columns(_one(source, "*top1000*.tsv", year), 4):
        if cells[0] in judged:
            candidates.append((cells[0], cells[1]))
            passages[cells[1]] = cells[3]
    whole = [path for path in (source / "collection.tsv", source / "collection.tsv.gz") if path.is_file()]
    rows: Iterable[tuple[str, str]] = ((c[0], c[1]) for c in _columns(whole[0], 2)) if whole else passages.items()
    if not whole:  # what is judged, but in no list, has no text
        judgments = [judgment for judgment in judgments if judgment[1] in passages]
    return Tables(((key, "", text) for key, text in rows), queries, judgments, candidates, [])


def files_of(tables: Tables, name: str, split: str = "test") -> Files:
    """Tables as a collection's rows, without a folder; `name` says in errors where they stood."""

    def rows(file: str, values: Iterable[Any]) -> Iterator[tuple[str, int, Any]]:
        return ((f"{name}/{file}", number, value) for number, value in enumerate(values, start=1))

    cells = ([query, document, str(grade)] for query, document, grade in tables.judgments)
    return Files(
        rows("corpus", ({"_id": key, "title": title, "text": text} for key, title, text in tables.documents)),
        rows("queries", ({"_id": key, "text": text} for key, text in tables.queries)),
        {split: rows(f"qrels/{split}", cells)},
        {split: rows(f"candidates/{split}", map(list, tables.candidates))} if tables.candidates else {},
        rows("excluded", map(list, tables.excluded)),
    )


def write_collection(tables: Tables, folder: Path, split: str = "test") -> None:
    """Write tables in BEIR layout, the queries as one split.

    Raises:
        DataError: an id that a TREC run, and so a result, cannot hold.
    """

    def table(name: str, header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
        with atomic_writer(folder / name) as file:
            for row in (header, *rows):
                check_ids(row[:2], f"{folder.name}/{name}")
                file.write("\t".join(map(str, row)) + "\n")

    with atomic_writer(folder / "corpus.jsonl") as file:
        for key, title, text in tables.documents:
            file.write(json_line({"_id": key, "title": title, "text": text}))
    with atomic_writer(folder / "queries.jsonl") as file:
        for key, text in tables.queries:
            file.write(json_line({"_id": key, "text": text}))
    table(f"qrels/{split}.tsv", ("query-id", "corpus-id", "score"), tables.judgments)
    if tables.candidates:
        table(f"candidates/{split}.tsv", ("query-id", "corpus-id"), tables.candidates)
    if tables.excluded:
        table("excluded.tsv", ("query-id", "corpus-id"), tables.excluded)


def _objects(path: Path, *fields: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, object) of a JSON Lines file; the named fields are strings, and so is a title."""
    for file, line, row in json_rows(path):
        for field in fields:
            text_field(row, field, f"{file}:{line}")
        text_field(row, "title", f"{file}:{line}", "")
        yield f"{file}:{line}", row


def _columns(path: Path, count: int) -> Iterator[list[str]]:
    for file, line, cells in tsv_rows(path):
        if len(cells) != count:
            raise DataError(f"{file}:{line}: expected {count} columns with tabs between, got {len(cells)}")
        yield cells


def _one(folder: Path, pattern: str, year: str | None) -> Path:
    """The one file of this name; `year` chooses between several."""
    found = sorted([*folder.glob(pattern), *folder.glob(f"{pattern}.gz")])
    found = [path for path in found if year is None or year in path.name]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise DataError(f"{folder}: expected one file {pattern}, found {names}", hint="--part 2019 chooses a year")
    return found[0]


def _parquet_rows(folder: Path, domain: str) -> Iterator[dict[str, Any]]:
    files = sorted(folder.glob(f"{domain}-*.parquet"))
    if not files:
        there = sorted({path.name.split("-")[0] for path in folder.glob("*.parquet")})
        raise DataError(f"{folder}: no {domain}-*.parquet", hint=f"--part takes {', '.join(there) or 'a domain'}")
    parquet = require("pyarrow.parquet", "train")
    for file in files:
        yield from parquet.read_table(file).to_pylist()
