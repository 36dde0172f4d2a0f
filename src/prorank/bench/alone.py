"""One measurement in a process of its own, so that memory and libraries are its own too. Knows files and processes."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prorank.util.errors import ProrankError


def memory_share(ours: int | None, theirs: int | None) -> float | None:
    """Our bytes over theirs; None where the system does not tell them, or they took none beyond what was there.

    >>> memory_share(3, 12), memory_share(3, 0), memory_share(None, 12)
    (0.25, None, None)
    """
    return None if ours is None or not theirs else ours / theirs


def measured_alone(worker: Sequence[str], spec: dict[str, Any], what: str) -> dict[str, Any]:
    """What a worker process found out.

    Args:
        worker: command that takes two more arguments: a JSON file to read, and one to write.
        spec: what it reads.
        what: is measured, for the error.

    Raises:
        ProrankError: the process failed; the message ends with what it printed last.
    """
    with tempfile.TemporaryDirectory() as folder:
        specification, result = Path(folder) / "spec.json", Path(folder) / "result.json"
        specification.write_text(json.dumps(spec), encoding="utf-8")
        done = subprocess.run([*worker, str(specification), str(result)], capture_output=True, text=True)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise ProrankError(f"{what} failed: {last}")
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found
