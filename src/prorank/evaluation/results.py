"""Results of finished runs, read back. Knows files only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prorank.util.errors import DataError
from prorank.util.files import read_json

_NEEDED = {"collection": str, "recipe": str, "queries": int, "rows": list}


def read_results(path: Path) -> dict[str, Any]:
    """The contents of a run's `results.json`.

    Args:
        path: the run's folder, or the file.

    Raises:
        DataError: no such file, or not the results of a run.
    """
    file = path / "results.json" if path.is_dir() else path
    found = read_json(file)
    wrong = not isinstance(found, dict) or any(type(found.get(key)) is not kind for key, kind in _NEEDED.items())
    if wrong or not all(isinstance(row, dict) and "stage" in row for row in found["rows"]):
        raise DataError(
            f"{file}: not the results of a run", hint="prorank train leaves results.json in the run's folder"
        )
    return dict(found)
