"""Which files of a folder are prorank's own: `--force` deletes those and nothing else.

Knows names; nothing of what the files hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from prorank.util.errors import ProrankError

PARTS = (".*.part",)  # what a kill leaves of a file that was being written
NAMED = 3  # files that an error names


def fits(path: PurePath, pattern: str) -> bool:
    """Whether a path below a folder has a name of this form.

    Args:
        path: relative to the folder.
        pattern: names with wildcards, slashes between; `**` at the end is anything below.

    >>> [fits(PurePath("a/b/c.json"), pattern) for pattern in ("a/**", "*/b/*.json", "a/*.json", "*.json")]
    [True, True, False, False]
    """
    parts, wanted = path.parts, pattern.split("/")
    if wanted[-1] == "**" and len(parts) >= len(wanted):
        parts, wanted = parts[: len(wanted) - 1], wanted[:-1]
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def below(folder: str, patterns: Iterable[str]) -> tuple[str, ...]:
    """The patterns for files of a folder in the folder.

    >>> below("checkpoint", ["*.json"])
    ('checkpoint/*.json',)
    """
    return tuple(f"{folder}/{pattern}" for pattern in patterns)


def foreign(folder: Path, own: Sequence[str]) -> list[str]:
    """Files below a folder, and links, that have none of these names."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
    relative = (path.relative_to(folder) for path in found)
    return [path.as_posix() for path in relative if not any(fits(path, pattern) for pattern in own)]


def refuse_foreign(folder: Path, own: Sequence[str], what: str) -> None:
    """Refuse to delete a folder that holds other files than prorank's.

    Args:
        folder: that would be deleted.
        own: patterns of the names that it may hold.
        what: it is, for the error.

    Raises:
        ProrankError: the first of the other files are named.
    """
    if found := foreign(folder, own):
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise ProrankError(
            f"{folder} holds {', '.join(found[:NAMED])}{more}, which {what} does not",
            hint="--force deletes prorank's own files only: move the others away, or choose another output",
        )
