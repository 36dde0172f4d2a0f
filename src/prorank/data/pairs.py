"""Question and answer pairs, as training data is often kept, written as a collection in BEIR layout.

JSON Lines of `{"query": ..., "pos": ..., "neg": ...}` (`pos` and `neg` one text or a list, `neg` may be missing), or a
table of two columns, question and answer (CSV, or TSV by the file's name); a header may name them in the other order.
Texts that are equal get one id.
"""

from __future__ import annotations

import csv
import io
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from prorank.data.convert import Tables, replace_collection
from prorank.util.errors import DataError
from prorank.util.files import parse_json, read_text, text_lines
from prorank.util.texts import SURROGATE_HINT, surrogate

logger = logging.getLogger(__name__)
_SEPARATOR = re.compile(r'"?sep=(.)"?\r?(?=\n)')  # Excel's first line, which names the separator
_JSON_LINES = (".jsonl", ".ndjson")
# Cells of a header; a first line without one of each is a pair like the others.
_QUESTIONS = frozenset({"query", "queries", "question", "questions", "anchor", "prompt", "q", "sentence1", "text1"})
_ANSWERS = frozenset(
    {"answer", "answers", "document", "documents", "doc", "passage", "positive", "pos", "response", "text", "context"}
    | {"reply", "completion", "sentence2", "text2"}
)
_HINT = 'a line is {"query": "...", "pos": "..." or [...], "neg": "..." or [...]}'


class Pairs(NamedTuple):
    """A query with its relevant and its other texts, and where they stood."""

    place: str
    query: str
    positives: list[str]
    negatives: list[str]


def from_pairs(source: Path, output: Path, split: str, force: bool) -> dict[str, int]:
    """Write pairs as a collection.

    Args:
        source: JSON Lines, CSV or TSV, plain or gzipped.
        output: folder to write.
        split: whose judgments they become.
        force: replace the folder.

    Returns:
        Numbers of `queries`, `documents`, `relevant` and `not relevant` judgments.

    Raises:
        DataError: malformed, with the line.
        ProrankError: the output is taken.
    """
    if not re.fullmatch(r"[\w-]+", split):
        raise DataError(f"'{split}' is no name of a split", hint="train, dev or test")
    tables: list[Tables] = []

    def read() -> Tables:
        tables.append(tables_of(read_pairs(source)))
        if not tables[0].queries:
            raise DataError(f"{source}: no pairs")
        return tables[0]

    replace_collection(read, output, force, split)
    grades = [grade for _, _, grade in tables[0].judgments]
    return {
        "queries": len(tables[0].queries),
        "documents": len(list(tables[0].documents)),
        "relevant": sum(grades),
        "not relevant": len(grades) - sum(grades),
    }


def read_pairs(source: Path) -> Iterator[Pairs]:
    """Pairs of a file, by its name's ending.

    Raises:
        DataError: another ending, or malformed, with the line.
    """
    suffix = Path(source.name.lower().removesuffix(".gz")).suffix
    if suffix in _JSON_LINES:
        return _json_pairs(source)
    if suffix in (".csv", ".tsv"):
        return _table_pairs(source, "\t" if suffix == ".tsv" else ",")
    raise DataError(f"{source}: pairs stand in .jsonl, .csv or .tsv files", hint=_HINT)


def tables_of(pairs: Iterator[Pairs]) -> Tables:
    """Tables of a collection; equal texts are one document or one query, and what is relevant once stays relevant.

    >>> tables = tables_of(iter([Pairs("a:1", "owls", ["Owls hunt."], ["Moon."])]))
    >>> tables.judgments
    [('q1', 'd1', 1), ('q1', 'd2', 0)]
    """
    queries: dict[str, str] = {}
    documents: dict[str, str] = {}
    judged: dict[tuple[str, str], int] = {}
    for pair in pairs:
        query = queries.setdefault(pair.query, f"q{len(queries) + 1}")
        for texts, grade in ((pair.positives, 1), (pair.negatives, 0)):
            for text in texts:
                key = (query, documents.setdefault(text, f"d{len(documents) + 1}"))
                judged[key] = max(grade, judged.get(key, 0))
    return Tables(
        [(key, "", text) for text, key in documents.items()],
        [(key, text) for text, key in queries.items()],
        [(query, document, grade) for (query, document), grade in judged.items()],
        [],
        [],
    )


def _json_pairs(source: Path) -> Iterator[Pairs]:
    for line, text in text_lines(source):
        if text.strip():
            row, place = parse_json(text, str(source), line), f"{source}:{line}"
            if not isinstance(row, dict):
                raise DataError(f"{place}: expected an object, got {type(row).__name__}", hint=_HINT)
            query, positives = _texts(row, "query", place), _texts(row, "pos", place)
            if not isinstance(row["query"], str):
                raise DataError(f"{place}: 'query' must be one string", hint=_HINT)
            if not positives:
                raise DataError(f"{place}: 'pos' is empty", hint=_HINT)
            yield Pairs(place, query[0], positives, _texts(row, "neg", place) if row.get("neg") is not None else [])


def _texts(row: dict[str, Any], key: str, place: str) -> list[str]:
    """One text or a list of them."""
    if key not in row:
        raise DataError(f"{place}: no '{key}'", hint=_HINT)
    value = row[key]
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{place}: '{key}' must be a string or a list of strings", hint=_HINT)
    return [_usable(text, f"'{key}'", place) for text in texts]


def _usable(text: str, name: str, place: str) -> str:
    if not text.strip():
        raise DataError(f"{place}: {name} is empty")
    if flaw := surrogate(text):
        raise DataError(f"{place}: {name} holds {flaw}", hint=SURROGATE_HINT)
    return text


def _question_column(cells: list[str], place: str) -> int | None:
    """Which of two cells of a header names the question; None for a line that is no header.

    Raises:
        DataError: a header whose second column could be anything.

    >>> _question_column(["Answer", "Question"], ""), _question_column(["query", "my text"], "")
    (1, 0)
    >>> _question_column(["When do owls hunt?", "At night."], "")
    """
    first, second = (cell.strip().lower() for cell in cells)
    if first in _QUESTIONS:
        return 0
    if second in _QUESTIONS:
        return 1
    if first in _ANSWERS:
        raise DataError(
            f"{place}: the header names '{cells[0].strip()}', but which column is the question?",
            hint=f"name the columns question and answer, not '{cells[1].strip()}'",
        )
    return None


def _tell_header(cells: list[str], column: int | None, place: str) -> None:
    """Say what the first row was taken for: a header in other words than these would become a pair."""
    shown = f"'{cells[0].strip()[:40]}' and '{cells[1].strip()[:40]}'"
    if column is None:
        logger.warning("%s: taken for a pair, not for a header: %s; delete the line if it is one", place, shown)
    else:
        logger.warning("%s: taken for a header: %s; the question is '%s'", place, shown, cells[column].strip())


def _table_pairs(source: Path, delimiter: str) -> Iterator[Pairs]:
    limit = csv.field_size_limit(sys.maxsize)
    text = read_text(source)
    if named := _SEPARATOR.match(text):
        delimiter, text = named[1], text[named.end() :]  # its line stays, empty, so that the others keep their numbers
    rows = csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter, strict=True)
    column: int | None = None  # where the question stands
    try:
        for cells in rows:
            place = f"{source}:{rows.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != 2:
                raise DataError(
                    f"{place}: expected 2 columns, question and answer, got {len(cells)}",
                    hint='a cell with commas or line ends stands in "quotes"',
                )
            if column is None:
                header = _question_column(cells, place)
                _tell_header(cells, header, place)
                column = header or 0
                if header is not None:
                    continue
            question, answer = (_usable(cells[i], "a cell", place) for i in (column, 1 - column))
            yield Pairs(place, question, [answer], [])
    except csv.Error as error:
        raise DataError(f"{source}:{rows.line_num}: {error}", hint='a cell with quotes stands in "quotes"') from error
    finally:
        csv.field_size_limit(limit)
