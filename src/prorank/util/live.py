"""A folder that a running process works in: locked against a second one, and what Ctrl-C leaves is said.

Knows files and processes; nothing of what the work is.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prorank.util.errors import ProrankError
from prorank.util.study import RECORD, Study

LOCK = ".lock"
SHOWN = 6  # products that are named when work is interrupted


@contextmanager
def locked(folder: str | Path, file: str = "") -> Iterator[None]:
    """Hold a folder, or one file in it, for this process as long as the context is open.

    The system lets go of the lock when the process ends, however it ends, so that a killed run leaves nothing that
    must be cleared away. On Windows, and on file systems without locks, nothing is held.

    Args:
        folder: made where it is missing.
        file: its name, where others may use the rest of the folder.

    Raises:
        ProrankError: another process holds it (named by its number), or the folder is a file.
    """
    path = Path(folder) / (f".{file}{LOCK}" if file else LOCK)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ProrankError(f"{folder} is a file", hint="give a folder") from error
    descriptor = _held(path, Path(folder) / file)
    try:
        yield
    finally:
        if descriptor is not None:
            path.unlink(missing_ok=True)
            os.close(descriptor)


def _held(path: Path, what: Path) -> int | None:
    """An open file with an exclusive lock on it, which holds this process's number; None where there are no locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise ProrankError(
                f"{what} is in use by a running process (pid {owner})",
                hint="wait until it ends or stop it, or choose another output",
            ) from error
        except OSError:  # a file system without locks
            os.close(descriptor)
            path.unlink(missing_ok=True)
            return None
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            break
        os.close(descriptor)  # its last owner took the file away between our opening and locking it
    os.truncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def kept(folder: str | Path) -> list[str]:
    """Finished products under a folder, and the newest whole checkpoint of each training that was under way."""
    folder = Path(folder)
    found = []
    for record in sorted(folder.rglob(RECORD)):
        place = record.parent.relative_to(folder)
        products = Study(record.parent).products()
        found += [(place / product).as_posix() for product in products]
        for training in sorted(record.parent.glob("*/training")):
            stage = training.parent.name
            whole = [path.parent for path in training.glob("checkpoint-*/complete")]
            if whole and not any(product.startswith(f"{stage}/") for product in products if "model" in product):
                newest = max(whole, key=lambda path: int(path.name.split("-")[1]))
                found.append((place / stage / "training" / newest.name).as_posix())
    return found


def again(arguments: Sequence[str], resume: bool = False) -> str:
    """The command that resumes an interrupted one.

    Args:
        arguments: of the interrupted command, after its name.
        resume: whether it starts over unless `--resume` is given.

    >>> again(["train", "quickstart", "--force"], resume=True)
    'prorank train quickstart --resume'
    """
    words = [word for word in arguments if not (resume and word in ("--force", "--resume"))]
    return shlex.join(["prorank", *words, *(["--resume"] if resume else [])])


@contextmanager
def interruptible(say: Callable[[str], object], made: Callable[[], Sequence[str]], command: str) -> Iterator[None]:
    """On Ctrl-C say what is kept and how to resume; the interrupt itself is passed on.

    Args:
        say: prints a line.
        made: names what is kept; asked after the interrupt.
        command: resumes the work.
    """
    try:
        yield
    except KeyboardInterrupt:
        names = made()
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        say(f"Interrupted. Kept: {', '.join(names[-SHOWN:])}{more}." if names else "Interrupted; nothing was finished.")
        say(f"Resume with: {command}")
        raise
