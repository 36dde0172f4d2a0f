"""Small file helpers: users' text files, atomic writes, refusal to overwrite, JSON in and out.

Knows nothing of what the files mean.
"""

from __future__ import annotations

import codecs
import gzip
import json
import os
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from prorank.util.errors import DataError, InputError, ProrankError
from prorank.util.texts import SURROGATE

GZIP = b"\x1f\x8b"
_UTF8_HINT = "save the file as UTF-8 (iconv -f latin1 -t utf8)"
# The longer marks first: UTF-32's begins as UTF-16's does.
_WIDE = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file that a user wrote; a byte-order mark at its start is dropped.

    Raises:
        DataError: missing, unreadable, or not UTF-8; the message names the file.
    """
    try:
        return decode(Path(path).read_bytes(), str(path))
    except OSError as error:
        raise _unreadable(path, error) from error


def decode(data: bytes, name: str) -> str:
    r"""Bytes of UTF-8 text, plain or gzipped, without the byte-order mark; `name` says in errors where they stood.

    Raises:
        DataError: not UTF-8, or damaged gzip; the message names the line, or the encoding where that is known.

    >>> decode(b"\xef\xbb\xbfOwls", "a.txt")
    'Owls'
    """
    if data.startswith(GZIP):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{name}: cannot be read: damaged gzip file: {error}") from error
    _refuse_wide(data, name)
    _refuse_carriage_returns(data, name)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name}:{line}: byte 0x{data[error.start]:X} is not UTF-8", hint=_UTF8_HINT) from error


def text_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines of a user's UTF-8 file, plain or gzipped, one in memory at a time.

    Lines end at line feeds, as in `split_lines`; a byte-order mark is dropped.

    Raises:
        DataError: missing, unreadable, or not UTF-8; with the line.
    """
    number = 0
    try:
        with Path(path).open("rb") as raw:
            zipped = raw.read(2) == GZIP
            raw.seek(0)
            file = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if zipped else raw
            for number, line in enumerate(file, start=1):
                if number == 1:
                    _refuse_wide(line, str(path))
                    _refuse_carriage_returns(line, str(path))
                    line = line.removeprefix(codecs.BOM_UTF8)
                yield number, line.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        byte = f"0x{error.object[error.start]:X}"
        raise DataError(f"{path}:{number}: byte {byte} is not UTF-8", hint=_UTF8_HINT) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: cannot be read: damaged gzip file: {error}") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _refuse_wide(data: bytes, name: str) -> None:
    """Refuse UTF-16 and UTF-32, known by their marks, and bytes that are no text."""
    wide = next((encoding for mark, encoding in _WIDE.items() if data.startswith(mark)), None)
    if wide is None and b"\0" in data[:1024]:
        wide = "null bytes in it: compressed or binary data, or UTF-16 without a byte-order mark"
    if wide is not None:
        hint = "save the file as UTF-8 (iconv -f utf-16 -t utf-8)"
        raise DataError(f"{name}: cannot be read: {wide}, not UTF-8", hint=hint)


def _refuse_carriage_returns(data: bytes, name: str) -> None:
    """Refuse lines that end in carriage returns alone, as old Macs wrote them: they would be read as one line."""
    if b"\n" not in data and b"\r" in data.rstrip(b"\r"):
        hint = "save the file with line feeds (tr '\\r' '\\n')"
        raise DataError(f"{name}: the lines end in carriage returns without line feeds", hint=hint)


def _unreadable(path: str | Path, error: OSError) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path}: no such file")
    return DataError(f"{path}: cannot be read: {error.strerror or error}")


def parse_json(text: str, file: str, line: int | None = None) -> Any:
    """The value of a JSON text.

    Args:
        text: what is parsed.
        file: where it stands, for errors.
        line: its line there; None for the whole file.

    Raises:
        DataError: not JSON, nested too deeply, or a number of too many digits.

    >>> parse_json('{"a": 1}', "a.jsonl", 1)
    {'a': 1}
    """
    place = f"{file}:{line}" if line else file
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{line or error.lineno}: not valid JSON: {error.msg}") from error
    except RecursionError as error:
        raise DataError(f"{place}: the JSON is nested too deeply") from error
    except ValueError as error:  # Python converts integers of at most some thousand digits
        raise DataError(f"{place}: a number in the JSON has too many digits") from error


def json_line(value: Any) -> str:
    r"""A value as one line of JSON Lines; halves of surrogate pairs, which no file can hold, become U+FFFD.

    >>> json_line({"text": "Owls\nhunt"})
    '{"text": "Owls\\nhunt"}\n'
    """
    return SURROGATE.sub("\ufffd", json.dumps(value, ensure_ascii=False)) + "\n"


def split_lines(text: str) -> list[str]:
    r"""Lines of a text, cut at line feeds (with or without a carriage return before) and nowhere else.

    `str.splitlines` also cuts at form feeds, U+0085, U+2028 and U+2029, which may stand inside a JSON string.

    >>> split_lines("a\r\nb\u2028c\n")
    ['a', 'b\u2028c']
    """
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


@contextmanager
def atomic_writer(path: str | Path) -> Iterator[IO[str]]:
    """Open a temporary neighbour of `path` for text; it takes the name `path` only if all went well.

    A reader sees the old file or the whole new one, never a part.

    >>> import tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> with atomic_writer(folder / "a.txt") as file:
    ...     _ = file.write("whole")
    >>> (folder / "a.txt").read_text()
    'whole'
    """
    path = Path(os.path.realpath(path))  # a link stays one: what it leads to is written
    refuse_no_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:  # line ends as they are given
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes private files; give it the usual rights
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk does not say which file
            error.filename = str(path)
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity are refused."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_writer(path) as file:
        file.write(text + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is missing or not valid JSON; the message names the file and line.
    """
    return parse_json(read_text(path), str(path))


def put_in_place(fresh: Path, folder: Path) -> None:
    """Give a folder that was written under another name its own; one that has the name already makes room only now.

    Args:
        fresh: the new folder, whole, in a temporary folder beside `folder`; what was replaced ends in there too.
        folder: the name that it shall have.
    """
    old = fresh.with_name("old")
    if folder.exists():
        folder.rename(old)
    try:
        fresh.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        raise


def distinct_names(paths: Sequence[str | Path]) -> list[str]:
    """A folder's name for each path: its last part, with as many parts before it as tell it from the others.

    Raises:
        InputError: a path stands twice, or two cannot be told apart.

    >>> distinct_names(["x/a/de", "x/b/de", "x/fr"])
    ['a-de', 'b-de', 'fr']
    """
    parts = [Path(os.path.abspath(path)).parts for path in paths]

    def name(own: tuple[str, ...]) -> str:
        lengths = range(1, len(own) + 1)
        alone = (n for n in lengths if sum(other[-n:] == own[-n:] for other in parts) == 1)
        return "-".join(own[-next(alone, 1) :]).replace(os.sep, "")

    names = [name(own) for own in parts]
    twice = next((str(path) for path, one in zip(paths, names) if names.count(one) > 1), None)
    if twice is not None:
        raise InputError(f"{twice}: given twice, or its name cannot be told from another's", hint="rename a folder")
    return names


def refuse_no_file(path: str | Path) -> None:
    """Raise where a file cannot take the name `path`, whatever may be replaced.

    Raises:
        ProrankError: it is a folder, a device or a pipe.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "a device or pipe"
        raise ProrankError(f"{path} is {what}, not a file", hint="give a file that can be replaced")


def refuse_no_folder(path: str | Path) -> None:
    """Raise where no folder can have the name `path`, whatever may be replaced.

    Raises:
        ProrankError: it is a file, or what should be a folder above it is one.
    """
    standing = next(part for part in (Path(path), *Path(path).parents) if os.path.lexists(part))
    if not standing.is_dir():
        raise ProrankError(f"{standing} is a file, not a folder", hint="give a folder")


def refuse_folder_overwrite(path: str | Path, force: bool) -> None:
    """Raise unless a folder can take the name `path`, and is absent or empty there or `force` is set.

    Raises:
        ProrankError: the folder is taken, then the hint names `--force`; or a file stands in its place.
    """
    refuse_no_folder(path)
    path = Path(path)
    if path.is_dir() and any(path.iterdir()) and not force:
        raise _taken(path)


def refuse_file_overwrite(path: str | Path, force: bool) -> None:
    """Raise unless a file can take the name `path`, and is absent there or `force` is set.

    Raises:
        ProrankError: the file is there, then the hint names `--force`; or a folder stands in its place, or a file in
            that of its folder.
    """
    refuse_no_folder(Path(path).parent)
    refuse_no_file(path)
    if Path(path).exists() and not force:
        raise _taken(path)


def _taken(path: str | Path) -> ProrankError:
    return ProrankError(f"{path} already exists", hint="choose another output or add --force")
