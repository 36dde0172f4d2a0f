"""The `prorank` command: parses, calls, prints. Errors are one line with a hint and exit code 2."""

from __future__ import annotations

import atexit
import errno
import gc
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from prorank.cli.ablate import ablate
from prorank.cli.analyze import analyze
from prorank.cli.bench import bench
from prorank.cli.calibrate import calibrate
from prorank.cli.cascade import cascade
from prorank.cli.compare import compare
from prorank.cli.data import data
from prorank.cli.evaluate import evaluate
from prorank.cli.mcp import mcp
from prorank.cli.models import export, info
from prorank.cli.recipes import recipes
from prorank.cli.rerank import rerank
from prorank.cli.search import index, search
from prorank.cli.serve import serve
from prorank.cli.shared import (
    AsJson,
    Force,
    err,
    flush_output,
    out,
    print_json,
    refuse,
    working,
)
from prorank.util.errors import InputError, ProrankError
from prorank.util.terminal import PlainHandler, visible
from prorank.util.version import VERSION

app = typer.Typer(
    name="prorank",
    help="Turn a small language model into a document reranker, measure it, use it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(data, name="data")
app.add_typer(bench, name="bench")
app.add_typer(recipes, name="recipes")
LIBRARIES = ("datasets", "huggingface_hub", "sentence_transformers", "transformers")
_state = {"debug": False}


def _version(wanted: bool) -> None:
    if wanted:
        print(VERSION)
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Options of all commands."""
    _state["debug"] = debug
    handler = PlainHandler(err)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for logger in map(logging.getLogger, LIBRARIES):  # their own handlers, added at import, would repeat every line
        logger.handlers[:] = [handler]
        logger.addHandler = lambda hdlr: None  # type: ignore[method-assign]


def one_of(resume: bool, force: bool) -> None:
    """Refuse to resume a run and to start it over at once."""
    if resume and force:
        raise InputError("--resume and --force: one continues a run, the other deletes it", hint="give one of them")


@app.command()
def quickstart(
    output: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/NAME of the recipe.")] = None,
    force: Force = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")] = False,
    slm: Annotated[bool, typer.Option("--slm", help="On a small language model, SmolLM2-135M; twice as long.")] = False,
) -> None:
    """Both stages of ProRank on the bundled collection: a table, plots, and one query reranked."""
    from prorank.pipeline.run import run_recipe
    from prorank.pipeline.showcase import showcase
    from prorank.recipe.loading import load_recipe

    one_of(resume, force)
    recipe = load_recipe("quickstart-slm" if slm else "quickstart")
    folder = output or Path("runs") / recipe.name
    with working(folder, resume=True):
        run_recipe(recipe, folder, force=force, resume=resume, console=out)
    showcase(folder, out)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, e.g. warmup.steps=50")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/NAME.")] = None,
    force: Force = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help="Log to Weights & Biases beside TensorBoard.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the backbone's own Python code. You vouch for its authors.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a recipe from data to report."""
    from prorank.pipeline.run import run_recipe
    from prorank.pipeline.run_folder import refuse_inside
    from prorank.recipe.loading import load_recipe, shipped_recipes
    from prorank.training.distributed import is_main

    one_of(resume, force)
    loaded = load_recipe(recipe, overrides or [])
    folder = output or Path("runs") / loaded.name
    if force and recipe not in shipped_recipes():
        refuse_inside(recipe, folder, "the recipe")
    log_to = ("tensorboard", "wandb") if wandb else ("tensorboard",)
    console = err if as_json else out
    with working(folder, resume=True):
        results = run_recipe(
            loaded,
            folder,
            force=force,
            resume=resume,
            console=console,
            log_to=log_to,
            trust_remote_code=trust_remote_code,
        )
    if not is_main():
        return
    if as_json:
        print_json(results)
    else:
        model = folder / "checkpoint"
        trained = (
            f", the model in [bold]{escape(str(model))}[/bold]" if model.is_dir() else "; no stage has trained a model"
        )
        out.print(f"Results in [bold]{escape(str(folder))}[/bold]{trained}")


@app.command()
def report(
    context: typer.Context,
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs, or their results.json.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="A Markdown table, one line per run and stage.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the tables of finished runs again."""
    from prorank.evaluation.results import read_results
    from prorank.evaluation.tables import markdown_report, print_rows

    if as_json:
        refuse(context, "not with --json", "markdown")
    results = [read_results(path) for path in runs]
    if as_json:
        print_json(results)
        return
    if markdown:
        print(visible(markdown_report(results)))
        return
    for result in results:
        out.print(
            f"\n[bold]{escape(result['collection'])}[/bold], recipe {result['recipe']}, {result['queries']} queries"
        )
        print_rows(out, result["rows"])


@app.command()
def plot(run: Annotated[Path, typer.Argument(help="Folder of a run, finished or not.")]) -> None:
    """Draw a run's training curves, and its stages once it is finished, to PNG files in its folder."""
    from prorank.evaluation.plots import plot_run

    for file in plot_run(run):
        out.print(f"wrote {escape(str(file))}", soft_wrap=True)


for command in (
    ablate,
    analyze,
    calibrate,
    cascade,
    compare,
    evaluate,
    rerank,
    index,
    search,
    serve,
    mcp,
    info,
    export,
):
    app.command()(command)


def _run_app() -> None:
    """Run the command and write its output to the end."""
    if sys.stdout is None:
        raise ProrankError("standard output is closed")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that knows no Chinese is no reason to fail
    try:
        app()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise ProrankError("cannot write: no space left on the device") from error
    finally:
        flush_output()


def main() -> None:
    """Entry point: run the command; print errors on one line; exit with 2 for bad input."""
    atexit.register(gc.freeze)  # what is left goes with the process; looking through it takes most of a second
    try:
        _run_app()
    except KeyboardInterrupt:
        err.print("stopped")
        sys.exit(130)
    except BrokenPipeError:  # who reads has read enough
        sys.exit(1)
    except Exception as error:
        if _state["debug"]:
            raise
        expected = isinstance(error, (ProrankError, OSError))
        title = "error" if expected else "unexpected error (--debug shows more)"
        text = " ".join(str(error).split()) or type(error).__name__
        err.print(f"[bold red]{title}:[/bold red] {escape(text)}", soft_wrap=True, highlight=False)
        sys.exit(2 if expected else 1)
