"""Collections: documents, queries, judgments, and what is doubtful about them.

A collection is a folder in BEIR layout, a bundled collection by name, or a hub data set in the same layout. What is
malformed stops the reading with file and line; what is merely doubtful (empty texts, judgments that point nowhere) is
counted and reported, and fatal only with `strict`. This module knows nothing of retrieval, models or metrics.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from prorank.data.beir import BUNDLED, Files, Row, bundled, folder_files, text_field
from prorank.data.benchmarks import named_files
from prorank.data.hub import hub_files
from prorank.data.overlap import own_documents, shared_queries
from prorank.data.runs import Qrels, without_relevant
from prorank.data.trec import judgment
from prorank.util.errors import DataError
from prorank.util.provenance import fingerprint
from prorank.util.sources import did_you_mean, expanded, is_path, on_hub
from prorank.util.texts import id_flaw

# Kinds of doubtful entries that other modules ask for by name.
UNWRITABLE = "id that a TREC run cannot hold"
LEAK = "training query in another split"
QUERY_DOCUMENT = "query among the documents"
# Kinds of judgments that are left out.
UNKNOWN, EMPTY, SECOND = "judgment of an unknown id", "judgment of an empty text", "second judgment of a pair"
CANDIDATE, NOTHING = "candidate", "split without a relevant document"
REMEDIES = {  # where it is not the line itself that is mended
    UNWRITABLE: "rename it in corpus or queries, qrels and all other tables",
    LEAK: "take it out of one; a recipe's data.leakage can drop or allow it",
    QUERY_DOCUMENT: "list it in excluded.tsv, one line `query-id TAB corpus-id` each; where the ids are the same, "
    "--exclude-query-document (evaluate, search, data mine) does it on the fly",
    NOTHING: "nothing can be measured or learned by it: judge a document with a grade of at least 1, or delete it",
}


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
        carved: by split, what `with_splits` made it of; metrics on such a split cannot be compared with published ones.
    """

    name: str
    documents: dict[str, Document]
    queries: dict[str, str]
    qrels: dict[str, Qrels]
    candidates: dict[str, dict[str, list[str]]]
    problems: tuple[Problem, ...]
    fingerprint: str
    excluded: dict[str, list[str]] = field(default_factory=dict)
    carved: dict[str, str] = field(default_factory=dict)

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
        source: folder in BEIR layout, name of a bundled collection (`cosqa`), hub data set `owner/name`, or
            `irds:ID`, `bright:DOMAIN`, `followir:NAME` (see `prorank.data.benchmarks`).
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
        files, name = folder_files(path), path.name
    elif os.path.isfile(path):
        raise DataError(f"{source}: this is a file, not a folder", hint="a collection is a folder in BEIR layout")
    elif (named := named_files(str(source))) is not None:
        files, name = named, str(source)
    elif str(source).count("/") == 1 and not is_path(str(source)):
        files, name = hub_files(on_hub(str(source), "dataset")), str(source)
    else:
        hint = did_you_mean(path) or f"bundled collections: {', '.join(bundled())}"
        raise DataError(f"{source}: no such folder", hint=hint)
    return _build(name, files, strict)


def holds_collection(folder: Path) -> bool:
    """Whether a folder looks like a collection in BEIR layout."""
    return (
        any((folder / name).is_file() for name in ("corpus.jsonl", "corpus.jsonl.gz")) and (folder / "qrels").is_dir()
    )


def documents_fingerprint(documents: Mapping[str, Document]) -> str:
    """Fingerprint of documents in their order: ids, titles and texts.

    >>> owls, moon = Document("1", "", "Owls"), Document("1", "", "Moon")
    >>> documents_fingerprint({"1": owls}) == documents_fingerprint({"1": moon})
    False
    """
    return fingerprint(json.dumps(list(documents.values()), ensure_ascii=False))


def _build(name: str, files: Files, strict: bool) -> Collection:
    problems: list[Problem] = []
    documents = _documents(files.corpus, problems)
    queries, places = _queries(files.queries, problems)
    qrels: dict[str, Qrels] = {}
    for split, rows in sorted(files.qrels.items()):
        qrels[split] = _judged(rows, queries, documents, problems)
        if len(without_relevant(qrels[split])) == len(qrels[split]):
            told = f"judged queries: {len(qrels[split])}"
            problems.append(Problem(f"{name}/qrels/{split}.tsv", 1, NOTHING, told))
    candidates = {}
    for split, rows in sorted(files.candidates.items()):
        candidates[split] = _lists(rows, CANDIDATE, queries, documents, problems)
    excluded = _lists(files.excluded, "exclusion", queries, documents, problems)
    problems += _overlaps(queries, documents, qrels, excluded, places)
    if strict and problems:
        shown = "; ".join(map(str, problems[:3]))
        hint = "mend them, or leave out --strict (in a recipe: data.strict)"
        raise DataError(f"{name}: {len(problems)} doubtful entries: {shown}", hint=hint)
    if not documents or not queries:
        raise DataError(f"{name}: no {'documents' if not documents else 'queries'}")
    digest = _digest(documents, queries, qrels, candidates, excluded)
    return Collection(name, documents, queries, qrels, candidates, tuple(problems), digest, excluded)


def _documents(rows: Iterable[Row], problems: list[Problem]) -> dict[str, Document]:
    documents: dict[str, Document] = {}
    for file, line, row in rows:
        place = f"{file}:{line}"
        key = text_field(row, "_id", place)
        if not key or key in documents:
            raise DataError(f"{place}: {'empty' if not key else 'duplicate'} document id '{key}'")
        document = Document(key, text_field(row, "title", place, ""), text_field(row, "text", place))
        if not document.content:
            problems.append(Problem(file, line, "empty document", f"'{key}'"))
        if flaw := id_flaw(key):
            problems.append(Problem(file, line, UNWRITABLE, f"{key!r} {flaw}"))
        documents[key] = document
    return documents


def _queries(rows: Iterable[Row], problems: list[Problem]) -> tuple[dict[str, str], dict[str, tuple[str, int]]]:
    """Texts, and places for problems that show later."""
    queries: dict[str, str] = {}
    places = {}
    for file, line, row in rows:
        place = f"{file}:{line}"
        key, text = text_field(row, "_id", place), text_field(row, "text", place)
        if not key or key in queries:
            raise DataError(f"{place}: {'empty' if not key else 'duplicate'} query id '{key}'")
        if not text.strip():
            problems.append(Problem(file, line, "empty query", f"'{key}'"))
        if flaw := id_flaw(key):
            problems.append(Problem(file, line, UNWRITABLE, f"{key!r} {flaw}"))
        queries[key], places[key] = text, (file, line)
    return queries, places


def _judged(
    rows: Iterable[tuple[str, int, list[str]]],
    queries: Mapping[str, str],
    documents: Mapping[str, Document],
    problems: list[Problem],
) -> Qrels:
    judged: Qrels = {}
    for file, line, cells in rows:
        query, document_id, grade = judgment(cells, f"{file}:{line}")
        if query not in queries or document_id not in documents:
            unknown = f"query '{query}'" if query not in queries else f"document '{document_id}'"
            problems.append(Problem(file, line, UNKNOWN, unknown))
        elif not queries[query].strip() or not documents[document_id].content:
            problems.append(Problem(file, line, EMPTY, f"'{query}' '{document_id}'"))
        elif document_id in judged.get(query, {}):
            problems.append(Problem(file, line, SECOND, f"'{query}' '{document_id}'"))
        else:
            judged.setdefault(query, {})[document_id] = grade
    return judged


def _overlaps(
    queries: Mapping[str, str],
    documents: Mapping[str, Document],
    qrels: Mapping[str, Qrels],
    excluded: Mapping[str, Sequence[str]],
    places: Mapping[str, tuple[str, int]],
) -> Iterator[Problem]:
    """Queries of the training split that another split holds too, and queries that are documents, not excluded."""
    for split, judged in qrels.items():
        if split != "train":
            for query, other in shared_queries(queries, qrels.get("train", {}), judged).items():
                yield Problem(*places[query], LEAK, f"'{query}' of train is '{other}' of {split}")
    for query, own in own_documents(queries, documents, qrels.values()).items():
        for document in own:
            if document not in excluded.get(query, ()):
                yield Problem(*places[query], QUERY_DOCUMENT, f"'{query}' is document '{document}'")


def _digest(
    documents: Mapping[str, Document],
    queries: Mapping[str, str],
    qrels: Mapping[str, Qrels],
    candidates: Mapping[str, Mapping[str, list[str]]],
    excluded: Mapping[str, list[str]],
) -> str:
    digest = hashlib.sha256()

    def add(*values: Any) -> None:
        digest.update(json.dumps(values, ensure_ascii=False).encode())

    for document in documents.values():
        add("d", *document)
    for key, text in queries.items():
        add("q", key, text)
    for split, judged in qrels.items():
        add("j", split, judged)
    for split, lists in candidates.items():
        add("c", split, lists)
    if excluded:
        add("x", excluded)
    return digest.hexdigest()


def _lists(
    rows: Iterable[tuple[str, int, list[str]]],
    kind: str,
    queries: Mapping[str, str],
    documents: Mapping[str, Document],
    problems: list[Problem],
) -> dict[str, list[str]]:
    """Query id -> document ids from (query-id, corpus-id) rows; unknown ids and candidates given twice are doubtful."""
    lists: dict[str, dict[str, None]] = {}
    for file, line, cells in rows:
        if len(cells) < 2:
            raise DataError(f"{file}:{line}: expected query-id and corpus-id, got {len(cells)} column")
        pair = f"'{cells[0]}' '{cells[1]}'"
        if cells[0] not in queries or cells[1] not in documents:
            problems.append(Problem(file, line, f"{kind} of an unknown id", pair))
            continue
        listed = lists.setdefault(cells[0], {})
        if kind == CANDIDATE and cells[1] in listed:
            problems.append(Problem(file, line, f"second {kind} of a pair", pair))
        listed[cells[1]] = None
    return {query: list(listed) for query, listed in lists.items()}
