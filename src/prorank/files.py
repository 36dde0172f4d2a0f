"""Small file helpers: atomic writes, refusal to overwrite, JSON in and out.

Knows nothing of what the files mean.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from prorank.errors import DataError, ProrankError


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file that a user wrote; a byte-order mark at its start is dropped.

    Raises:
        DataError: missing, unreadable, or not UTF-8; the message names the file.
    """
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start} is not UTF-8", hint="save the file as UTF-8 (iconv -f latin1 -t utf8)"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


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
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes private files; give it the usual rights
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
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
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error


def refuse_overwrite(path: str | Path, force: bool) -> None:
    """Raise unless `path` is free (absent, or an empty folder) or `force` is set.

    Raises:
        ProrankError: the path is taken; the hint names `--force`.
    """
    path = Path(path)
    taken = any(path.iterdir()) if path.is_dir() else path.exists()
    if taken and not force:
        raise ProrankError(f"{path} already exists", hint="choose another output or add --force")
