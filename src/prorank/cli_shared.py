"""What all commands share: where to print, and the options that several take."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

out, err = Console(), Console(stderr=True)

Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
CollectionOption = Annotated[str, typer.Option(help="Folder in BEIR layout, bundled name or hub data set.")]
CollectionArgument = Annotated[str, typer.Argument(help="Folder in BEIR layout, bundled name or hub data set.")]
Passages = Annotated[
    Literal["max", "mean", "first"] | None,
    typer.Option(help="Score documents that do not fit by passages; default: cut them."),
]
MODEL_HELP = "Checkpoint folder, model folder, hub name, `embedded`, or `prorank-mini`, which ships."
Model = Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)]


def print_json(value: Any) -> None:
    """Print for programs."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
