"""The `prorank` command: parses, calls, prints. Errors are one line with a hint and exit code 2."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.logging import RichHandler
from rich.markup import escape

from prorank import __version__
from prorank.cli_bench import bench
from prorank.cli_data import data
from prorank.cli_shared import MODEL_HELP, AsJson, CollectionArgument, Force, Model, Passages, err, out, print_json
from prorank.errors import DataError, ProrankError
from prorank.models import MINI

app = typer.Typer(
    name="prorank",
    help="Turn a small language model into a document reranker, measure it, use it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(data, name="data")
app.add_typer(bench, name="bench")
_state = {"debug": False}


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Options of all commands."""
    _state["debug"] = debug
    handler = RichHandler(console=err, show_time=False, show_path=False, markup=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)


@app.command()
def quickstart(
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Both stages, from a sentence encoder.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/NAME of the recipe.")] = None,
    force: Force = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
) -> None:
    """Tune the shipped model to the bundled collection: a table, a plot, and one query reranked."""
    from prorank.evaluation.showcase import showcase
    from prorank.training.recipe import load_recipe
    from prorank.training.run import run_recipe

    recipe = load_recipe("from-scratch" if from_scratch else "quickstart")
    folder = output or Path("runs") / recipe.name
    run_recipe(recipe, folder, force=force, resume=resume, console=out)
    showcase(folder, out)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, e.g. warmup.steps=50")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/NAME.")] = None,
    force: Force = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help="Log to Weights & Biases beside TensorBoard.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a recipe from data to report."""
    from prorank.training.processes import is_first
    from prorank.training.recipe import load_recipe
    from prorank.training.run import run_recipe

    loaded = load_recipe(recipe, overrides or [])
    folder = output or Path("runs") / loaded.name
    log_to = ("tensorboard", "wandb") if wandb else ("tensorboard",)
    console = err if as_json else out
    results = run_recipe(loaded, folder, force=force, resume=resume, console=console, log_to=log_to)
    if not is_first():
        return
    if as_json:
        print_json(results)
    else:
        out.print(f"Results in [bold]{folder}[/bold], the model in [bold]{folder / 'checkpoint'}[/bold]")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    collection: CollectionArgument,
    split: Annotated[str, typer.Option(help="Split whose queries are measured.")] = "test",
    depth: Annotated[int, typer.Option(help="First-stage documents that are reranked.", min=1)] = 100,
    run: Annotated[Path | None, typer.Option(help="First-stage TREC run; default BM25.")] = None,
    candidates: Annotated[bool, typer.Option("--candidates", help="Rerank the collection's own lists.")] = False,
    dense: Annotated[str | None, typer.Option(help="A bi-encoder that reranks the same lists too.")] = None,
    hybrid: Annotated[float | None, typer.Option(help="Also join with this first-stage share.", min=0, max=1)] = None,
    hybrid_scale: Annotated[
        Literal["z-score", "min-max"], typer.Option(help="How a query's two scores are made comparable.")
    ] = "z-score",
    relevant_from: Annotated[int, typer.Option(help="Least relevant grade in metrics without grades.", min=1)] = 1,
    max_queries: Annotated[int | None, typer.Option(help="A seeded sample of the queries.", min=1)] = None,
    prompt: Annotated[str | None, typer.Option(help="Prompt of a model that is no checkpoint.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens of a pair.", min=32)] = None,
    passages: Passages = None,
    seed: Annotated[int, typer.Option(help="Seed of splits and samples that are made.")] = 13,
    output: Annotated[Path | None, typer.Option(help="Folder for run, per-query file and summary.")] = None,
    force: Force = False,
    strict: Annotated[bool, typer.Option("--strict", help="Doubtful data are errors.")] = False,
    as_json: AsJson = False,
) -> None:
    """Rerank the true first stage of a split and compare with it."""
    from prorank.evaluation.evaluator import evaluate_model
    from prorank.evaluation.report import results_table
    from prorank.files import refuse_overwrite

    if output:
        refuse_overwrite(output, force)
    summary = evaluate_model(
        model,
        collection,
        split=split,
        depth=depth,
        run_file=run,
        candidates=candidates,
        dense=dense,
        hybrid=hybrid,
        hybrid_scale=hybrid_scale,
        relevant_from=relevant_from,
        max_queries=max_queries,
        prompt=prompt,
        max_length=max_length,
        passages=passages,
        seed=seed,
        output=output,
        strict=strict,
    )
    if as_json:
        print_json(summary)
    else:
        out.print(results_table(summary["rows"]))
        for row in summary["rows"]:
            if "p_mrr" in row:
                out.print(f"p-MRR of {row['stage']}: {100 * row['p_mrr']:+.1f}")


@app.command()
def rerank(
    query: Annotated[str | None, typer.Argument(help="The query (not with --run).")] = None,
    documents: Annotated[
        list[str] | None, typer.Argument(help="Documents; none reads --file or standard input.")
    ] = None,
    model: Model = MINI,
    file: Annotated[Path | None, typer.Option(help="Documents: text, one a line, or .jsonl with `text`.")] = None,
    run: Annotated[Path | None, typer.Option(help="Rerank this TREC run instead (with --collection).")] = None,
    collection: Annotated[str | None, typer.Option(help="Texts of the run's ids.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where the reranked run goes (with --run).")] = None,
    depth: Annotated[int, typer.Option(help="Documents a query that are reranked (with --run).", min=1)] = 100,
    top_k: Annotated[int | None, typer.Option(help="Print only so many.", min=1)] = None,
    threshold: Annotated[float | None, typer.Option(help="Least probability of relevance.", min=0, max=1)] = None,
    prompt: Annotated[str | None, typer.Option(help="Prompt of a model that is no checkpoint.")] = None,
    instruction: Annotated[str | None, typer.Option(help="A line that tells the model what to prefer.")] = None,
    passages: Passages = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Rerank documents for a query, or a whole TREC run."""
    from prorank.collection import load_collection, read_run, write_run
    from prorank.evaluation.stages import rerank_collection
    from prorank.files import refuse_overwrite
    from prorank.reranker import Reranker

    if run is not None:
        if collection is None or output is None or query is not None:
            raise ProrankError("--run needs --collection and --output, and no query")
        refuse_overwrite(output, force)
        lists, texts = read_run(run), load_collection(collection)
        _check_ids(lists, texts, run)
        reranker = Reranker.from_pretrained(model, prompt=prompt, instruction=instruction, passages=passages)
        write_run(rerank_collection(reranker, texts, lists, depth, "rerank"), output)
        return
    if query is None:
        raise ProrankError("no query", hint='prorank rerank "a query" "a document" "another"')
    if (Path(query) / "config.json").is_file():
        raise ProrankError(f"the query is a model's folder: {query}", hint="the model goes under --model")
    found: list[Any] = list(documents or []) or list(_read_documents(file))
    reranker = Reranker.from_pretrained(model, prompt=prompt, instruction=instruction, passages=passages)
    results = reranker.rank(query, found, top_k=top_k, return_documents=True, threshold=threshold)
    if as_json:
        print_json(results)
        return
    for place, result in enumerate(results, start=1):
        text = result["text"] if isinstance(result["text"], str) else result["text"]["text"]
        out.print(f"{place:>3}  {result['score']:+8.3f}  {escape(' '.join(text.split())[:100])}", highlight=False)


def _check_ids(lists: dict[str, dict[str, float]], texts: Any, file: Path) -> None:
    for query, scores in lists.items():
        if query not in texts.queries:
            raise DataError(f"{file}: query '{query}' is not in {texts.name}")
        for document in scores:
            if document not in texts.documents:
                raise DataError(f"{file}: document '{document}' is not in {texts.name}")


def _read_documents(file: Path | None) -> Iterable[Any]:
    """Documents from a .jsonl file of strings or objects with `text`, from a text file, or standard input."""
    if file is None and sys.stdin.isatty():
        raise ProrankError("no documents", hint="give them as arguments, by --file, or on standard input")
    name = str(file) if file else "standard input"
    try:
        lines = (file.read_text(encoding="utf-8") if file else sys.stdin.read()).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{name}: cannot be read: {error}") from error
    as_jsonl = file is not None and file.suffix in (".jsonl", ".ndjson")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if not as_jsonl:
            yield line
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{name}:{number}: not valid JSON: {error.msg}") from error
        if not isinstance(value, str) and not (isinstance(value, dict) and isinstance(value.get("text"), str)):
            raise DataError(f"{name}:{number}: expected a string, or an object with a string under 'text'")
        yield value


@app.command()
def index(
    collection: CollectionArgument,
    output: Annotated[Path, typer.Option(help="Folder for the index.")],
    language: Annotated[str, typer.Option(help="auto, en, zh, ja, th or other.")] = "auto",
    force: Force = False,
) -> None:
    """Build a BM25 index."""
    from prorank.collection import load_collection
    from prorank.retrieval import BM25Index, check_language

    loaded = load_collection(collection)
    built = BM25Index.build(loaded.documents, language=check_language(language))
    built.save(output, force=force)
    out.print(f"{len(loaded.documents)} documents indexed ({built.language}) in {output}")


@app.command()
def search(
    index_folder: Annotated[Path, typer.Argument(metavar="INDEX", help="Folder that `prorank index` wrote.")],
    query: Annotated[str | None, typer.Argument(help="One query; or use --collection.")] = None,
    collection: Annotated[str | None, typer.Option(help="Search all queries of this collection.")] = None,
    split: Annotated[str | None, typer.Option(help="Only the queries of this split.")] = None,
    output: Annotated[Path | None, typer.Option(help="TREC run to write (with --collection).")] = None,
    top_k: Annotated[int, typer.Option(help="Documents a query.", min=1)] = 100,
    force: Force = False,
) -> None:
    """Search a BM25 index: one query to the screen, or a collection's queries to a TREC run."""
    from prorank.collection import load_collection, write_run
    from prorank.files import refuse_overwrite
    from prorank.retrieval import BM25Index, bm25_run

    if (query is None) == (collection is None):
        raise ProrankError("give either a query or --collection")
    built = BM25Index.load(index_folder)
    if query is not None:
        for document, score in built.search({"query": query}, top_k)["query"].items():
            print(f"{score:.4f}\t{document}")
        return
    if output is None:
        raise ProrankError("--collection needs --output")
    refuse_overwrite(output, force)
    loaded = load_collection(str(collection))
    queries = {q: loaded.queries[q] for q in loaded.judgments(split)} if split else loaded.queries
    write_run(bm25_run(built, loaded, queries, top_k), output, tag="bm25")
    out.print(f"{len(queries)} queries searched, run in {output}")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs, or their results.json.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="A Markdown table, one line a run and stage.")] = False,
) -> None:
    """Show the tables of finished runs again."""
    from prorank.evaluation.report import markdown_report, print_rows
    from prorank.files import read_json

    results = [read_json(path / "results.json" if path.is_dir() else path) for path in runs]
    if markdown:
        print(markdown_report(results))
        return
    for result in results:
        out.print(
            f"\n[bold]{escape(result['collection'])}[/bold], recipe {result['recipe']}, {result['queries']} queries"
        )
        print_rows(out, result["rows"])


@app.command()
def plot(run: Annotated[Path, typer.Argument(help="Folder of a run, finished or not.")]) -> None:
    """Draw a run's training curves, and its stages once it is finished, to PNG files in its folder."""
    from prorank.evaluation.report import plot_run

    for file in plot_run(run):
        out.print(f"wrote {file}", soft_wrap=True)


@app.command()
def info(model: Annotated[str, typer.Argument(help=MODEL_HELP)] = MINI, as_json: AsJson = False) -> None:
    """Show what a checkpoint is: model, prompt, answers, where it came from."""
    from prorank.checkpoint import describe

    description = describe(model)
    if as_json:
        print_json(description)
        return
    for key, value in description.items():
        out.print(f"[bold]{key:>18}[/bold]  {escape(str(value))}", highlight=False, soft_wrap=True)


@app.command()
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


def main() -> None:
    """Entry point: run the command; print errors on one line; exit with 2 for bad input."""
    try:
        app()
    except KeyboardInterrupt:
        err.print("stopped")
        sys.exit(130)
    except Exception as error:
        if _state["debug"]:
            raise
        expected = isinstance(error, (ProrankError, OSError, ValueError, TypeError))
        title = "error" if expected else "unexpected error (--debug shows more)"
        text = " ".join(str(error).split()) or type(error).__name__
        err.print(f"[bold red]{title}:[/bold red] {escape(text)}", soft_wrap=True, highlight=False)
        sys.exit(2 if expected else 1)


if __name__ == "__main__":
    main()
