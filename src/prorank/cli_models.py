"""`prorank info` and `prorank export`: what a checkpoint is, and its other forms. Parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from prorank.cli_shared import MODEL_HELP, AsJson, Force, err, out, print_json
from prorank.models import MINI


def info(model: Annotated[str, typer.Argument(help=MODEL_HELP)] = MINI, as_json: AsJson = False) -> None:
    """Show what a checkpoint is: model, prompt, answers, where it came from."""
    from prorank.checkpoint import describe

    description = describe(model)
    if as_json:
        print_json(description)
        return
    for key, value in description.items():
        out.print(f"[bold]{key:>18}[/bold]  {escape(str(value))}", highlight=False, soft_wrap=True)


def export(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    to: Annotated[
        Literal["sentence-transformers", "sequence-classification", "onnx", "openvino", "rows8"],
        typer.Option("--to", help="What shall read the folder."),
    ],
    output: Annotated[Path, typer.Option(help="Folder to write.")],
    int8: Annotated[bool, typer.Option("--int8", help="8-bit weights (onnx, openvino).")] = False,
    prompt: Annotated[str | None, typer.Option(help="Prompt of a model that is no checkpoint.")] = None,
    force: Force = False,
) -> None:
    """Write a checkpoint for another runtime and check that it gives the same scores."""
    from prorank import export as exporting
    from prorank.reranker import Reranker

    reranker = Reranker.from_pretrained(model, prompt=prompt, precision="fp32", device="cpu")
    with err.status(f"exporting to {to}"):
        exporting.export(reranker, to, output, int8=int8, force=force)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file()) / 2**20
    out.print(f"{to} in [bold]{escape(str(output))}[/bold], {size:,.1f} MiB")
