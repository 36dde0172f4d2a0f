"""Documents to rerank, as people have them in a file or on standard input: text, one per line, or JSON.

JSON is told by its content and by the file's name: JSON Lines of strings or objects with `text`, or one array of them;
each plain or gzipped. What would be read as something else than it is (a table, say) is refused. Knows files only.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prorank.util.errors import DataError
from prorank.util.files import decode, parse_json, split_lines
from prorank.util.texts import SURROGATE_HINT, surrogate

Document = str | dict[str, Any]
_JSON_LINES = (".jsonl", ".ndjson")
_TABLES = (".csv", ".tsv")
_OBJECT = re.compile(r'\s*\{\s*"')  # how no prose begins
_HINT = 'a line is a string, or an object such as {"id": "d1", "title": "Owls", "text": "They hunt."}'


def read_documents(file: Path | None) -> list[Document]:
    """Documents of a file, or of standard input.

    Args:
        file: text, JSON or JSON Lines, plain or gzipped; None reads standard input.

    Returns:
        Strings, or objects as they stand: with `text`, maybe `title` and an id.

    Raises:
        DataError: missing, not UTF-8, not JSON where it should be, or a table; with the line.
    """
    if file is None:
        name, suffix, data = "standard input", "", _standard_input()
    else:
        name, suffix = str(file), Path(file.name.lower().removesuffix(".gz")).suffix
        try:
            data = file.read_bytes()
        except OSError as error:
            raise DataError(f"{name}: cannot be read: {error.strerror or error}") from error
    if suffix in _TABLES:
        raise DataError(
            f"{name}: a table is no list of documents", hint="write one document per line to a .txt file, or JSON Lines"
        )
    return list(parse_documents(decode(data, name), name, suffix))


def _standard_input() -> bytes:
    """All bytes; what a terminal's encoding would make of them does not matter."""
    try:
        stream = getattr(sys.stdin, "buffer", None)
        return stream.read() if stream is not None else sys.stdin.read().encode("utf-8", "surrogateescape")
    except OSError as error:
        raise DataError(f"standard input: cannot be read: {error.strerror or error}") from error


def parse_documents(text: str, name: str, suffix: str = "") -> Iterator[Document]:
    r"""Documents of a text; `name` says in errors where it stands, `suffix` is the file's.

    Raises:
        DataError: not what the suffix or the beginning says; with the line.

    >>> list(parse_documents('{"text": "Owls hunt."}\n{"text": "Moon."}\n', "standard input"))
    [{'text': 'Owls hunt.'}, {'text': 'Moon.'}]
    >>> list(parse_documents("Owls hunt.\n\nMoon.\n", "standard input"))
    ['Owls hunt.', 'Moon.']
    """
    lines = [(number, line) for number, line in enumerate(split_lines(text), start=1) if line.strip()]
    if suffix not in _JSON_LINES:
        whole = _whole_json(text, name, suffix)
        if whole is not None:
            for place, value in enumerate(whole, start=1):
                yield _document(value, f"{name}, document {place}")
            return
    if suffix in (*_JSON_LINES, ".json") or _are_json_lines([line for _, line in lines]):
        for number, line in lines:
            yield _document(parse_json(line, name, number), f"{name}:{number}")
    else:
        yield from (line for _, line in lines)


def _whole_json(text: str, name: str, suffix: str) -> list[Any] | None:
    """The documents of a text that is one JSON value: an array, or one object; None if it is none."""
    if not text.lstrip().startswith(("[", "{")):
        return None
    try:
        value = json.loads(text)
    except RecursionError:
        parse_json(text, name)  # says so
        raise
    except ValueError:
        return None
    if isinstance(value, dict):
        return [value] if value or suffix == ".json" else None
    if all(isinstance(item, (str, dict)) for item in value) or suffix == ".json":
        return list(value)
    return None


def _are_json_lines(lines: list[str]) -> bool:
    """Whether the first line begins as an object does, or every line is a JSON string."""
    if not lines or _OBJECT.match(lines[0]):
        return bool(lines)
    return all(line.lstrip().startswith('"') and _is_string(line) for line in lines)


def _is_string(line: str) -> bool:
    try:
        return isinstance(json.loads(line), str)
    except ValueError:
        return False


def _dumped(value: dict[str, Any], place: str) -> str:
    """The object as JSON; NaN and infinity, which Python reads but JSON does not know, are refused."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise DataError(f"{place}: a number in it is NaN or infinite", hint="write null, or leave it out") from error


def _document(value: Any, place: str) -> Document:
    """A string, or an object of JSON with a string `text` and maybe a string `title` (or null)."""
    if isinstance(value, str):
        fields = {"the document": value}
    elif not isinstance(value, dict):
        raise DataError(f"{place}: expected a string or an object, got {type(value).__name__}", hint=_HINT)
    elif "text" not in value:
        keys = ", ".join(map(repr, list(value)[:5])) or "nothing"
        raise DataError(f"{place}: the object has no 'text', but {keys}", hint=_HINT)
    else:
        title = value.get("title")
        fields = {"'text'": value["text"], "'title'": "" if title is None else title}
        fields["the document"] = _dumped(value, place)
    for name, text in fields.items():
        if not isinstance(text, str):
            raise DataError(f"{place}: {name} must be a string, got {json.dumps(text)[:40]}", hint=_HINT)
        if flaw := surrogate(text):
            raise DataError(f"{place}: {name} holds {flaw}", hint=SURROGATE_HINT)
    found: Document = value
    return found
