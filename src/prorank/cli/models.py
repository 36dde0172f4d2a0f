"""`prorank info` and `prorank export`: what a checkpoint is, and its other forms. Parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from prorank.cli.shared import MODEL_HELP, AsJson, Force, err, out, print_json, refuse
from prorank.shipped import MINI
from prorank.util.errors import InputError

INT8_TARGETS = ("onnx", "openvino")


def info(model: Annotated[str, typer.Argument(help=MODEL_HELP)] = MINI, as_json: AsJson = False) -> None:
    """Show what a checkpoint is: model, prompt, answers, where it came from."""
    from prorank.model.checkpoint import describe

    description = describe(model)
    if as_json:
        print_json(description)
        return
    for key, value in description.items():
        out.print(f"[bold]{key:>18}[/bold]  {escape(readable(key, value))}", highlight=False, soft_wrap=True)


def readable(key: str, value: Any) -> str:
    """A fact of `prorank.model.checkpoint.describe` in words.

    >>> readable("answers", {"0": 1014, "1": [7, 8]})
    '0 (token 1014), 1 (tokens 7 8)'
    >>> readable("size on disk", 3 * 2**20), readable("licence", None), readable("prorank checkpoint", True)
    ('3.0 MiB', 'not stated', 'yes')
    """
    if value is None:
        return {"licence": "not stated", "languages": "not stated", "calibration": "none"}.get(key, "-")
    if key == "answers":
        return ", ".join(f"{answer} ({_tokens(tokens)})" for answer, tokens in value.items())
    if key == "calibration":
        shown = ", ".join(f"{name} {number:.4g}" for name, number in value.items())
        return f"{shown}; a probability of 0.5 means even odds"
    if key == "size on disk":
        return f"{value / 2**20:,.1f} MiB"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if key == "parameters" else str(value)


def _tokens(tokens: int | list[int]) -> str:
    if isinstance(tokens, list) and len(tokens) > 1:
        return f"tokens {' '.join(map(str, tokens))}"
    return f"token {tokens[0] if isinstance(tokens, list) else tokens}"


def export(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    to: Annotated[
        Literal["sentence-transformers", "sequence-classification", "onnx", "openvino", "int8-rowwise", "low-rank"],
        typer.Option("--to", help="What shall read the folder."),
    ],
    output: Annotated[Path, typer.Option(help="Folder to write.")],
    int8: Annotated[bool, typer.Option("--int8", help="8-bit weights (onnx, openvino).")] = False,
    calibration_data: Annotated[
        str | None, typer.Option(help="Collection whose training pairs show activations' ranges: 8 bits (openvino).")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The model that the training began with (low-rank); it is loaded by this name.")
    ] = None,
    rank: Annotated[int, typer.Option(help="Of each matrix's difference (low-rank).", min=1)] = 32,
    prompt: Annotated[str | None, typer.Option(help="Prompt of a model that is no checkpoint.")] = None,
    force: Force = False,
) -> None:
    """Write a checkpoint for another runtime and check that it gives the same scores."""
    from prorank.data.splits import load_with_split
    from prorank.export import export as exporting
    from prorank.export.activations import HELD_OUT, calibration_pairs
    from prorank.model.saved_files import refuse_model_overwrite
    from prorank.reranker import Reranker

    if int8 and to not in INT8_TARGETS:
        why = "its weights have 8 bits anyway" if to == "int8-rowwise" else f"it is for {' and '.join(INT8_TARGETS)}"
        raise InputError(f"--int8 with --to {to}: {why}", hint="leave out --int8")
    if not (int8 and to == "openvino"):
        refuse(context, "only with --to openvino --int8", "calibration_data")
    if to != "low-rank":
        refuse(context, "only with --to low-rank", "base", "rank")
    elif base is None:
        raise InputError("--to low-rank: the base model is not named", hint="give --base, e.g. smollm2-135m")
    refuse_model_overwrite(output, force)
    pairs = None
    if calibration_data is not None:
        pairs = calibration_pairs(load_with_split(calibration_data, "train"))
        others = len(pairs[::HELD_OUT])
        told = f"activations: ranges of {len(pairs) - others} pairs of {escape(calibration_data)}"
        err.print(f"{told}, scores compared on {others} others", soft_wrap=True)
    reranker = Reranker.from_pretrained(model, prompt=prompt, precision="fp32", device="cpu")
    with err.status(f"exporting to {to}"):
        exporting.export(reranker, to, output, int8=int8, calibration=pairs, base=base, rank=rank, force=force)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file()) / 2**20
    out.print(f"{to} in [bold]{escape(str(output))}[/bold], {size:,.1f} MiB", soft_wrap=True)
