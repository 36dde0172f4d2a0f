"""Runs and judgments as tables: TREC's columns separated by blanks, BEIR's by tabs. Knows ids, grades and scores."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from pathlib import Path

from prorank.data.runs import LARGEST_GRADE, Qrels, Run, ranked, tell_unlisted
from prorank.util.errors import DataError
from prorank.util.files import atomic_writer, text_lines
from prorank.util.texts import id_flaw

_BLANKS = re.compile(r"[ \t\r\f\v]+")  # what trec_eval takes for one
_GRADE = re.compile(r"-?[0-9]+")  # Python reads 1_0 and other scripts' digits as well
_QUERY_COLUMN = ("query-id", "query_id", "qid")  # the first cell of a header


def tsv_rows(path: Path) -> Iterator[tuple[str, int, list[str]]]:
    """(file, line, cells) of a table, plain or gzipped; a header and empty lines are passed over.

    Raises:
        DataError: unreadable.
    """
    for line, text in text_lines(path):
        row = text.split("\t")
        if text.strip() and not (line == 1 and row[0] in _QUERY_COLUMN):
            yield str(path), line, row


def trec_rows(path: Path, columns: int, form: str) -> Iterator[tuple[str, int, list[str]]]:
    """(file, line, cells) of a file whose columns are separated by blanks, plain or gzipped.

    Raises:
        DataError: unreadable, or a row with other columns than `form` says.
    """
    for line, text in text_lines(path):
        plain = text.isascii() and text.isprintable()  # then Python's blanks are trec_eval's, and found faster
        cells = text.split() if plain else [cell for cell in _BLANKS.split(text) if cell]
        if cells and len(cells) != columns:
            raise DataError(f"{path}:{line}: expected {columns} columns ({form}), got {len(cells)}")
        if cells:
            yield str(path), line, cells


def judgment(cells: list[str], place: str) -> tuple[str, str, int]:
    """(query id, document id, grade) of a row in BEIR's layout.

    Raises:
        DataError: other columns, or a grade that is no integer or too large to be one.

    >>> judgment(["q", "d", "1700000000"], "test.tsv:2")
    Traceback (most recent call last):
    prorank.util.errors.DataError: test.tsv:2: score must be at most 1000, got 1700000000 (is it a time or an id?)
    """
    if len(cells) != 3:
        raise DataError(f"{place}: expected 3 tab-separated columns (query-id, corpus-id, score), got {len(cells)}")
    cell = cells[2].strip()
    if not _GRADE.fullmatch(cell):
        hint = f"grades are whole numbers from {-LARGEST_GRADE} to {LARGEST_GRADE}"
        raise DataError(f"{place}: score must be an integer, got '{cells[2][:40]}'", hint=hint)
    if len(cell.lstrip("-0")) > len(str(LARGEST_GRADE)) or abs(int(cell)) > LARGEST_GRADE:
        least = "at least -" if cell.startswith("-") else "at most "
        hint = "is it a time or an id?"
        raise DataError(f"{place}: score must be {least}{LARGEST_GRADE}, got {cell[:40]}", hint=hint)
    return cells[0], cells[1], int(cell)


def read_run(path: str | Path) -> Run:
    """Read a TREC run (`qid Q0 docid rank score tag`, plain or .gz); scores decide the order, not ranks.

    Raises:
        DataError: a row with other columns, a score that is no finite number, or a document twice; with line.
    """
    run: Run = {}
    for place, query, document, score in run_rows(path):
        refuse_twice(run.setdefault(query, {}), query, document, place)
        run[query][document] = score
    return run


def read_run_of(path: str | Path, judged: Collection[str], lost: str) -> Run:
    """Read a run that is used with judged queries; those that it lacks are told, since a sample's run looks like any.

    Args:
        path: of the TREC run.
        judged: ids of the queries.
        lost: what becomes of a query without a list, for the warning: `they score 0`.

    Raises:
        DataError: what `read_run` refuses, or a run that holds none of the queries.
    """
    run = read_run(path)
    tell_unlisted(str(path), run, judged, lost, "--split names the split that the run is of")
    return run


def refuse_twice(listed: Container[str], query: str, document: str, place: str) -> None:
    """Refuse a document that a query's list holds already (DataError, with the place)."""
    if document in listed:
        raise DataError(f"{place}: document '{document}' stands twice for query '{query}'")


def run_rows(path: str | Path) -> Iterator[tuple[str, str, str, float]]:
    """(place, query id, document id, score) of each row of a TREC run.

    Raises:
        DataError: a row with other columns, or a score that is no finite number; with the line.
    """
    for file, line, cells in trec_rows(Path(path), 6, "qid Q0 docid rank score tag"):
        try:  # Python reads 1_000 and other scripts' digits as well, evaluators do not
            score = math.nan if "_" in cells[4] or not cells[4].isascii() else float(cells[4])
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise DataError(f"{file}:{line}: score must be a finite number, got '{cells[4]}'")
        yield f"{file}:{line}", cells[0], cells[2], score


def write_run(run: Run, path: str | Path, tag: str = "prorank") -> None:
    """Write a TREC run atomically, best first (ties by document id), scores in full precision.

    Raises:
        DataError: an id that a run cannot hold, or a score that is not finite.
    """
    check_ids([tag, *run, *dict.fromkeys(document for scores in run.values() for document in scores)], str(path))
    with atomic_writer(path) as file:
        for query, scores in run.items():
            file.write(run_lines(query, scores, tag))


def run_lines(query: str, scores: Mapping[str, float], tag: str) -> str:
    r"""A query's list as lines of a TREC run, best first (ties by document id).

    Raises:
        DataError: a score is not finite.

    >>> run_lines("q", {"a": 0.5, "b": 1.0}, "x")
    'q Q0 b 1 1.0 x\nq Q0 a 2 0.5 x\n'
    """
    lines = []
    for rank, (document, score) in enumerate(ranked(scores), start=1):
        if not math.isfinite(score):
            raise DataError(f"the score of query '{query}', document '{document}' is {score}")
        lines.append(f"{query} Q0 {document} {rank} {float(score)!r} {tag}\n")
    return "".join(lines)


def check_ids(ids: Iterable[str], place: str) -> None:
    """Refuse ids that a TREC run cannot hold; `place` names what holds them.

    Raises:
        DataError: an id is empty or holds blanks or control characters; the message names it.

    >>> check_ids(["d1", "my doc"], "c")
    Traceback (most recent call last):
    prorank.util.errors.DataError: c: the id 'my doc' holds a blank: ids in a TREC run hold no whitespace (rename it)
    """
    for identifier in ids:
        if flaw := id_flaw(identifier):
            raise DataError(
                f"{place}: the id {identifier!r} {flaw}: ids in a TREC run hold no whitespace", hint="rename it"
            )


def read_qrels(path: str | Path) -> Qrels:
    """Read judgments: TREC (`qid 0 docid rel`) or BEIR (tab-separated with header), plain or .gz.

    Raises:
        DataError: a malformed row, or a document judged twice for a query; with the line.
    """
    path = Path(path)
    qrels: Qrels = {}
    _, first = next(text_lines(path), (0, ""))
    if first.split("\t")[0] in _QUERY_COLUMN:
        rows = tsv_rows(path)
    else:
        rows = ((file, line, [c[0], *c[2:]]) for file, line, c in trec_rows(path, 4, "qid 0 docid rel"))
    for file, line, cells in rows:
        query, document, grade = judgment(cells, f"{file}:{line}")
        if document in qrels.setdefault(query, {}):
            raise DataError(f"{file}:{line}: document '{document}' is judged twice for query '{query}'")
        qrels[query][document] = grade
    return qrels
