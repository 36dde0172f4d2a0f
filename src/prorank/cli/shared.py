"""What all commands share: where to print, the options that several take, and which of them were typed."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from prorank.util.errors import InputError, ProrankError
from prorank.util.files import refuse_file_overwrite
from prorank.util.live import again, interruptible, kept
from prorank.util.terminal import HIDDEN, PlainConsole
from prorank.util.texts import surrogate

out, err = PlainConsole(), PlainConsole(stderr=True)
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
ExcludeQueryDocument = Annotated[
    bool,
    typer.Option("--exclude-query-document", help="Leave out the document of a query's own id, as BEIR does."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
CollectionOption = Annotated[str, typer.Option(help="Folder in BEIR layout, bundled name or hub data set.")]
CollectionArgument = Annotated[str, typer.Argument(help="Folder in BEIR layout, bundled name or hub data set.")]
Passages = Annotated[
    Literal["max", "mean", "first", "excerpt"] | None,
    typer.Option(help="Score documents that do not fit by passages, or by an excerpt; default: cut them."),
]
ByCascade = Annotated[
    bool, typer.Option("--cascade", help="Read most documents in part and the best in full, as the checkpoint says.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...")]
PrecisionOption = Annotated[Literal["auto", "fp32", "bf16"], typer.Option(help="auto is bf16 where it is fast.")]
MaxLength = Annotated[int | None, typer.Option(help="Tokens of a pair.", min=32)]
MODEL_HELP = (
    "Folder, GGUF file, hub name, `embedded`, `smollm2-135m`; "
    "`prorank-mini`, `prorank-mini-multilingual`, `prorank-smol` (ship)."
)
Model = Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)]


def json_text(value: Any, ascii_only: bool = False) -> str:
    r"""JSON as text without a control character, also where JSON allows one.

    Raises:
        ValueError: a number is not finite.

    >>> print(json_text(["ü\x9b"]))
    [
      "ü\u009b"
    ]
    """
    text = json.dumps(value, indent=2, ensure_ascii=ascii_only, allow_nan=False)
    return HIDDEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def check_argument(text: str, name: str) -> None:
    """Refuse an argument whose bytes are not UTF-8; `name` says which.

    Raises:
        InputError: the place and the byte.
    """
    if flaw := surrogate(text):
        raise InputError(f"{name} holds {flaw}", hint="arguments are read as UTF-8")


def print_json(value: Any) -> None:
    """Print for programs.

    Raises:
        ProrankError: a number is NaN or infinite, which JSON does not know.
    """
    try:
        text = json_text(value, ascii_only=not (sys.stdout.encoding or "utf-8").lower().startswith("utf"))
    except ValueError as error:
        raise ProrankError("a number is NaN or infinite, which JSON cannot hold", hint="leave out --json") from error
    print(text)


def written(path: Path) -> None:
    """Say where a result went; on standard error, since standard output may be read by a program."""
    err.print(f"written to {escape(str(path))}", soft_wrap=True, highlight=False)


def refuse_taken(force: bool, *outputs: Path | None) -> None:
    """Refuse to overwrite any of the files that a command will write, before it works for hours; None is no file.

    Raises:
        ProrankError: a file is there and `force` is not set.
    """
    for output in outputs:
        if output is not None:
            refuse_file_overwrite(output, force)


def typed(context: typer.Context, *names: str) -> list[str]:
    """Those of the parameters that stand on the command line, as they are written there.

    Args:
        context: of the command.
        names: of the function's parameters.
    """
    options = {parameter.name: parameter for parameter in context.command.params}
    found = []
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            spelled = options[name].opts[0]  # of an argument: its name
            found.append(spelled if spelled.startswith("-") else spelled.upper())
    return found


def refuse(context: typer.Context, why: str, *names: str) -> None:
    """Refuse parameters that would be passed over in silence.

    Args:
        context: of the command.
        why: the rest of the sentence that begins with the parameters, e.g. `goes with --run only`.
        names: of the function's parameters.

    Raises:
        InputError: one of them stands on the command line.
    """
    if found := typed(context, *names):
        raise InputError(f"{', '.join(found)}: {why}", hint="leave it out")


def working(folder: Path, resume: bool = False) -> AbstractContextManager[None]:
    """On Ctrl-C say what is kept in a folder, and the command that resumes.

    Args:
        folder: where the command leaves what it has finished.
        resume: whether the command starts over unless `--resume` is given.
    """

    def say(line: str) -> None:
        if os.environ.get("RANK", "0") == "0":  # the first of a launcher's processes
            err.print(line, soft_wrap=True, highlight=False, markup=False)

    return interruptible(say, lambda: kept(folder), again(sys.argv[1:], resume))


def reranking(output: Path) -> AbstractContextManager[None]:
    """On Ctrl-C say how many queries of a reranked run are kept, and the command that resumes."""
    from prorank.evaluation.streaming import Journal

    def say(line: str) -> None:
        err.print(line, soft_wrap=True, highlight=False, markup=False)

    return interruptible(say, lambda: Journal.kept(output), again([word for word in sys.argv[1:] if word != "--force"]))


@contextmanager
def uncollected() -> Iterator[None]:
    """No search for garbage while libraries and a model are loaded: they make a million objects, which all stay."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def flush_output() -> None:
    """Write what is still held back; what cannot be written is dropped, so that Python does not try again at its end.

    Raises:
        BrokenPipeError: nobody reads any more.
        ProrankError: it cannot be written, on a full disk for instance.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        with suppress(OSError, ValueError):  # a stream without a number, in tests for instance
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise ProrankError(f"cannot write: {(error.strerror or str(error)).lower()}") from error
