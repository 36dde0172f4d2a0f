"""Collections in BEIR layout, their splits, and TREC runs and qrels.

A collection is a folder with `corpus.jsonl`, `queries.jsonl` and `qrels/{split}.tsv`, each plain or gzipped; a
bundled collection by name; or a hub data set in the same layout. What is malformed stops the reading with file
and line; what is merely doubtful (empty texts, judgments that point nowhere) is counted and reported, and
fatal only with `strict`. This module knows nothing of retrieval, models or metrics.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, NamedTuple

from prorank.errors import DataError, require
from prorank.files import atomic_writer
from prorank.sources import did_you_mean, expanded, is_path, on_hub

Qrels = dict[str, dict[str, int]]  # query id -> document id -> grade, 0 = judged not relevant
Run = dict[str, dict[str, float]]  # query id -> document id -> score

BUNDLED = Path(__file__).parent / "data"
_UNREADABLE = (UnicodeDecodeError, OSError, EOFError, zlib.error, csv.Error)
_QUERY_COLUMN = ("query-id", "query_id", "qid")  # the first cell of a header
SPLIT_NAMES = {"validation": "dev", "valid": "dev", "val": "dev"}


class Document(NamedTuple):
    """A document; what models and indexes read is `content`."""

    id: str
    title: str
    text: str

    @property
    def content(self) -> str:
        """Title and text joined as BEIR does.

        >>> Document("1", "Owls", "They hunt.").content
        'Owls They hunt.'
        """
        return f"{self.title} {self.text}".strip()


class Problem(NamedTuple):
    """Something doubtful in the data, with its place.

    >>> str(Problem("corpus.jsonl", 3, "empty document", "'d7'"))
    "corpus.jsonl:3: empty document: 'd7'"
    """

    file: str
    line: int
    kind: str
    detail: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.kind}: {self.detail}"


@dataclass(frozen=True)
class Collection:
    """Documents, queries and judgments.

    Attributes:
        name: folder or data set name.
        documents, queries: by id, in file order.
        qrels: judgments by split.
        candidates: by split, the collection's own list of documents for each query (may be empty).
        problems: what was doubtful.
        fingerprint: SHA-256 of texts, judgments and lists, the same for plain and gzipped files.
        excluded: documents that must not be retrieved for a query (`excluded.tsv`; may be empty).
    """

    name: str
    documents: dict[str, Document]
    queries: dict[str, str]
    qrels: dict[str, Qrels]
    candidates: dict[str, dict[str, list[str]]]
    problems: tuple[Problem, ...]
    fingerprint: str
    excluded: dict[str, list[str]] = field(default_factory=dict)

    def judgments(self, split: str) -> Qrels:
        """Judgments of one split.

        Raises:
            DataError: there is no such split; the message names those that exist.
        """
        if split not in self.qrels:
            raise DataError(
                f"{self.name} has no split '{split}'",
                hint=f"it has {', '.join(sorted(self.qrels)) or 'none'}",
            )
        return self.qrels[split]


def load_collection(source: str | Path, *, strict: bool = False) -> Collection:
    """Read a collection.

    Args:
        source: folder in BEIR layout, name of a bundled collection (`cosqa`), or hub data set `owner/name`.
        strict: doubtful entries are errors.

    Raises:
        DataError: not found, malformed (with file and line), or doubtful under `strict`.

    >>> load_collection("cosqa").queries["cosqa-train-8333"]
    'python check if a variable is iterable'
    """
    path, known = expanded(source), str(source) in bundled()
    if known and not os.path.isdir(path):
        path = BUNDLED / str(source)
    if str(source).strip() and os.path.isdir(path):
        files, name = _folder_files(path), path.name
    elif os.path.isfile(path):
        raise DataError(f"{source}: this is a file, not a folder", hint="a collection is a folder in BEIR layout")
    elif str(source).count("/") == 1 and not is_path(str(source)):
        files, name = _hub_files(on_hub(str(source), "dataset")), str(source)
    else:
        hint = did_you_mean(path) or f"bundled collections: {', '.join(bundled())}"
        raise DataError(f"{source}: no such folder", hint=hint)
    return _build(name, files, strict)


def bundled() -> list[str]:
    """Names of the collections inside the package.

    >>> bundled()
    ['cosqa']
    """
    return sorted(path.name for path in BUNDLED.iterdir() if path.is_dir())


class _Files(NamedTuple):
    """Rows of a collection with their places: (file, line, row)."""

    corpus: Iterator[tuple[str, int, dict[str, Any]]]
    queries: Iterator[tuple[str, int, dict[str, Any]]]
    qrels: dict[str, Iterator[tuple[str, int, list[str]]]]
    candidates: dict[str, Iterator[tuple[str, int, list[str]]]]
    excluded: Iterator[tuple[str, int, list[str]]] = iter(())


def _open(path: Path) -> IO[str]:
    """Text of a plain or gzipped file."""
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path, "rb"), encoding="utf-8")
    return path.open(encoding="utf-8")


def _either(folder: Path, name: str) -> Path:
    """`name` or `name.gz` inside `folder`."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(f"{folder}: no {name} (nor {name}.gz)", hint="a collection needs corpus, queries and qrels")


def _folder_files(folder: Path) -> _Files:
    tables: dict[str, dict[str, Iterator[tuple[str, int, list[str]]]]] = {"qrels": {}, "candidates": {}}
    for kind, splits in tables.items():
        # Plain files last: where both stand, the plain one is read, as for corpus and queries.
        for path in [*sorted((folder / kind).glob("*.tsv.gz")), *sorted((folder / kind).glob("*.tsv"))]:
            splits[path.name.removesuffix(".gz").removesuffix(".tsv")] = tsv_rows(path)
    if not tables["qrels"]:
        raise DataError(f"{folder / 'qrels'}: no split", hint="add qrels/test.tsv: query-id, corpus-id, score")
    return _Files(
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
    try:
        with _open(path) as file:
            for line, text in enumerate(file, start=1):
                if not text.strip():
                    continue
                try:
                    row = json.loads(text)
                except json.JSONDecodeError as error:
                    raise DataError(f"{path}:{line}: not valid JSON: {error.msg}") from error
                if not isinstance(row, dict):
                    raise DataError(f"{path}:{line}: expected a JSON object, got {type(row).__name__}")
                yield str(path), line, row
    except _UNREADABLE as error:
        raise DataError(f"{path}: cannot be read: {error}", hint="files are UTF-8, plain or gzip") from error


def tsv_rows(path: Path, delimiter: str = "\t") -> Iterator[tuple[str, int, list[str]]]:
    """(file, line, cells) of a table, plain or gzipped; a header and empty lines are passed over.

    Raises:
        DataError: unreadable.
    """
    try:
        with _open(path) as file:
            for line, row in enumerate(csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_NONE), start=1):
                if row and not (line == 1 and row[0] in _QUERY_COLUMN):
                    yield str(path), line, row
    except _UNREADABLE as error:
        raise DataError(f"{path}: cannot be read: {error}", hint="files are UTF-8, plain or gzip") from error


def _hub_files(name: str) -> _Files:
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
                        [str(row["query-id"]), str(row["corpus-id"]), _whole(row["score"])],
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
        return _Files(rows("corpus"), rows("queries"), qrels, {})
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"'{name}' is no folder and cannot be loaded from the hub: {(str(error) or repr(error)).splitlines()[0]}",
            hint=f"bundled collections: {', '.join(bundled())}",
        ) from error


def _whole(score: Any) -> str:
    """A hub score as a qrels cell: 1.0 is "1", while 0.5 stays as it is and is refused later.

    >>> _whole(1.0), _whole(0.5)
    ('1', '0.5')
    """
    return str(int(score)) if isinstance(score, float) and score.is_integer() else str(score)


def _with_id(row: dict[str, Any]) -> dict[str, Any]:
    """Hub rows write the id as `_id` or `id`."""
    return row if "_id" in row else row | {"_id": row.get("id")}


def _field(row: Mapping[str, Any], key: str, place: str, default: str | None = None) -> str:
    value = row.get(key, default)
    if value is None and default is not None:
        value = default
    if not isinstance(value, str):
        what = "is missing" if key not in row else f"must be a string, got {json.dumps(value)[:40]}"
        raise DataError(f"{place}: '{key}' {what}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: '{key}' holds half of a surrogate pair at character {error.start}") from error
    return value


def _build(name: str, files: _Files, strict: bool) -> Collection:
    problems: list[Problem] = []
    digest = hashlib.sha256()
    documents: dict[str, Document] = {}
    for file, line, row in files.corpus:
        place = f"{file}:{line}"
        key = _field(row, "_id", place)
        if not key or key in documents:
            raise DataError(f"{place}: {'empty' if not key else 'duplicate'} document id '{key}'")
        document = Document(key, _field(row, "title", place, ""), _field(row, "text", place))
        if not document.content:
            problems.append(Problem(file, line, "empty document", f"'{key}'"))
        documents[key] = document
        digest.update(json.dumps(["d", *document], ensure_ascii=False).encode())
    queries: dict[str, str] = {}
    for file, line, row in files.queries:
        place = f"{file}:{line}"
        key, text = _field(row, "_id", place), _field(row, "text", place)
        if not key or key in queries:
            raise DataError(f"{place}: {'empty' if not key else 'duplicate'} query id '{key}'")
        if not text.strip():
            problems.append(Problem(file, line, "empty query", f"'{key}'"))
        queries[key] = text
        digest.update(json.dumps(["q", key, text], ensure_ascii=False).encode())
    qrels: dict[str, Qrels] = {}
    for split, rows in sorted(files.qrels.items()):
        judged: Qrels = {}
        for file, line, cells in rows:
            query, document_id, grade = _judgment(cells, f"{file}:{line}")
            if query not in queries or document_id not in documents:
                unknown = f"query '{query}'" if query not in queries else f"document '{document_id}'"
                problems.append(Problem(file, line, "judgment of an unknown id", unknown))
            elif not queries[query].strip() or not documents[document_id].content:
                problems.append(Problem(file, line, "judgment of an empty text", f"'{query}' '{document_id}'"))
            elif document_id in judged.get(query, {}):
                problems.append(Problem(file, line, "second judgment of a pair", f"'{query}' '{document_id}'"))
            else:
                judged.setdefault(query, {})[document_id] = grade
        qrels[split] = judged
        digest.update(json.dumps(["j", split, judged], ensure_ascii=False).encode())
    candidates = {}
    for split, rows in sorted(files.candidates.items()):
        candidates[split] = _lists(rows, "candidate", queries, documents, problems)
        digest.update(json.dumps(["c", split, candidates[split]], ensure_ascii=False).encode())
    excluded = _lists(files.excluded, "exclusion", queries, documents, problems)
    if excluded:
        digest.update(json.dumps(["x", excluded], ensure_ascii=False).encode())
    if strict and problems:
        shown = "; ".join(map(str, problems[:3]))
        raise DataError(f"{name}: {len(problems)} doubtful entries: {shown}", hint="mend them or leave out --strict")
    if not documents or not queries:
        raise DataError(f"{name}: no {'documents' if not documents else 'queries'}")
    return Collection(name, documents, queries, qrels, candidates, tuple(problems), digest.hexdigest(), excluded)


def _lists(
    rows: Iterable[tuple[str, int, list[str]]],
    kind: str,
    queries: Mapping[str, str],
    documents: Mapping[str, Document],
    problems: list[Problem],
) -> dict[str, list[str]]:
    """Query id -> document ids from (query-id, corpus-id) rows; unknown ids are doubtful."""
    lists: dict[str, list[str]] = {}
    for file, line, cells in rows:
        if len(cells) < 2:
            raise DataError(f"{file}:{line}: expected query-id and corpus-id, got {len(cells)} column")
        if cells[0] in queries and cells[1] in documents:
            lists.setdefault(cells[0], []).append(cells[1])
        else:
            problems.append(Problem(file, line, f"{kind} of an unknown id", f"'{cells[0]}' '{cells[1]}'"))
    return lists


def _judgment(cells: list[str], place: str) -> tuple[str, str, int]:
    if len(cells) != 3:
        raise DataError(f"{place}: expected 3 tab-separated columns (query-id, corpus-id, score), got {len(cells)}")
    try:
        return cells[0], cells[1], int(cells[2])
    except ValueError:
        raise DataError(f"{place}: score must be an integer, got '{cells[2]}'") from None


def load_with_split(path: str, split: str, *, seed: int = 13, strict: bool = False) -> Collection:
    """`load_collection`, with reproducibly made splits where the collection lacks this one."""
    loaded = load_collection(path, strict=strict)
    return loaded if split in loaded.qrels else with_splits(loaded, seed=seed)


def with_splits(collection: Collection, seed: int = 13, dev_share: float = 0.1, test_share: float = 0.4) -> Collection:
    """The collection with train, dev and test; what is missing is carved out of what is there.

    Queries are ordered by SHA-1 of `seed:query id`, so the split depends on the ids alone, not on file order.
    A query that is added later may push another over the boundary.
    Test only (or no known split): test keeps `test_share` of the queries, dev gets `dev_share`, train the rest.
    Test but no dev: dev is `dev_share` of train. Train but no test: test is `test_share` of train. A carved part
    has at least one query. Splits that exist and need not give are left alone.

    Args:
        collection: any collection with at least one split.
        seed: another seed gives another split.
        dev_share, test_share: shares in 0..1.

    Raises:
        DataError: fewer than three judged queries.
    """
    qrels = dict(collection.qrels)
    if {"train", "dev", "test"} <= qrels.keys():
        return collection
    if "train" not in qrels:
        source = "test" if "test" in qrels else next(iter(qrels), "")
        whole = qrels.pop(source, {})
        needed = [part for part in ("test", "dev") if part not in qrels]
        shares = {"test": test_share, "dev": dev_share}
        for part in needed:
            qrels[part], whole = _carve(whole, shares[part] * len(collection.judgments(source)), seed)
        qrels["train"] = whole
    if "test" not in qrels:
        qrels["test"], qrels["train"] = _carve(qrels["train"], test_share * len(qrels["train"]), seed)
    if "dev" not in qrels:
        qrels["dev"], qrels["train"] = _carve(qrels["train"], dev_share * len(qrels["train"]), seed)
    if not all(qrels[part] for part in ("train", "dev", "test")):
        raise DataError(f"{collection.name}: too few judged queries to make train, dev and test")
    return replace(collection, qrels=qrels)


def _carve(qrels: Qrels, count: float, seed: int) -> tuple[Qrels, Qrels]:
    """(taken, left): about `count` queries, at least one, by the hash of their ids; file order kept."""
    order = sorted(qrels, key=lambda query: hashlib.sha1(f"{seed}:{query}".encode()).hexdigest())
    taken = set(order[: max(1, round(count))])
    return {q: j for q, j in qrels.items() if q in taken}, {q: j for q, j in qrels.items() if q not in taken}


def read_run(path: str | Path) -> Run:
    """Read a TREC run (`qid Q0 docid rank score tag`, plain or .gz); scores decide the order, not ranks.

    Raises:
        DataError: a row with other columns, a score that is no finite number, or a document twice; with line.
    """
    run: Run = {}
    for place, cells in _trec_rows(Path(path), 6, "qid Q0 docid rank score tag"):
        try:
            score = float(cells[4])
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise DataError(f"{place}: score must be a finite number, got '{cells[4]}'")
        if cells[2] in run.setdefault(cells[0], {}):
            raise DataError(f"{place}: document '{cells[2]}' stands twice for query '{cells[0]}'")
        run[cells[0]][cells[2]] = score
    return run


def write_run(run: Run, path: str | Path, tag: str = "prorank") -> None:
    """Write a TREC run atomically, best first (ties by document id), scores in full precision.

    Raises:
        DataError: an id holds whitespace, or a score is not finite.
    """
    with atomic_writer(path) as file:
        for query, scores in run.items():
            for rank, (document, score) in enumerate(ranked(scores), start=1):
                if any(not key or len(key.split()) != 1 for key in (query, document, tag)):
                    raise DataError(f"ids in a TREC run hold no whitespace: '{query}' '{document}' '{tag}'")
                if not math.isfinite(score):
                    raise DataError(f"the score of query '{query}', document '{document}' is {score}")
                file.write(f"{query} Q0 {document} {rank} {float(score)!r} {tag}\n")


def ranked(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """(document id, score), best first, ties by document id.

    >>> ranked({"b": 1.0, "a": 1.0, "c": 2.0})
    [('c', 2.0), ('a', 1.0), ('b', 1.0)]
    """
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def read_qrels(path: str | Path) -> Qrels:
    """Read judgments: TREC (`qid 0 docid rel`) or BEIR (tab-separated with header), plain or .gz.

    Raises:
        DataError: a malformed row, or a document judged twice for a query; with the line.
    """
    path = Path(path)
    qrels: Qrels = {}
    try:
        with _open(path) as file:
            first = file.readline()
    except _UNREADABLE as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if first.split("\t")[0] in _QUERY_COLUMN:
        rows: Iterable[tuple[str, list[str]]] = ((f"{file}:{line}", cells) for file, line, cells in tsv_rows(path))
    else:
        rows = ((place, [c[0], c[2], c[3]]) for place, c in _trec_rows(path, 4, "qid 0 docid rel"))
    for place, cells in rows:
        query, document, grade = _judgment(cells, place)
        if document in qrels.setdefault(query, {}):
            raise DataError(f"{place}: document '{document}' is judged twice for query '{query}'")
        qrels[query][document] = grade
    return qrels


def _trec_rows(path: Path, columns: int, form: str) -> Iterator[tuple[str, list[str]]]:
    try:
        with _open(path) as file:
            for line, text in enumerate(file, start=1):
                cells = text.split()
                if cells and len(cells) != columns:
                    raise DataError(f"{path}:{line}: expected {columns} columns ({form}), got {len(cells)}")
                if cells:
                    yield f"{path}:{line}", cells
    except _UNREADABLE as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
