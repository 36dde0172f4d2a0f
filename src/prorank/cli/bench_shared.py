"""What the commands of `prorank bench` share: results as files or JSON, and lists of words and numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from prorank.cli.shared import print_json, written

Replace = Annotated[bool, typer.Option("--force", help="Replace files, and runs that were made from something else.")]
Output = Annotated[Path | None, typer.Option(help="JSON file to write the results to.")]


def finish(results: Any, output: Path | None, as_json: bool) -> bool:
    """Write results to a file and print them as JSON, as asked; whether nothing is left to print."""
    from prorank.util.files import write_json

    if output is not None:
        write_json(output, results)
        written(output)
    if as_json:
        print_json(results)
    return as_json


def parts(text: str) -> list[str]:
    """What stands between commas.

    >>> parts("sft, binary")
    ['sft', 'binary']
    """
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers(text: str) -> list[int]:
    """Whole numbers between commas.

    Raises:
        typer.BadParameter: another word, none at all, or a number twice.

    >>> numbers("1,2")
    [1, 2]
    """
    try:
        found = [int(part) for part in parts(text)]
    except ValueError as error:
        raise typer.BadParameter(f"'{text}' is not a list of whole numbers, e.g. 1,2,3") from error
    if not found:
        raise typer.BadParameter("give at least one number")
    if twice := [number for number in found if found.count(number) > 1]:
        raise typer.BadParameter(f"'{text}' holds {twice[0]} twice; give each number once")
    return found
