"""The `prorank` command: parses, calls, prints. Errors are one line with a hint and exit code 2."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from prorank import __version__
from prorank.errors import DataError, ProrankError
from prorank.models import MINI

app = typer.Typer(
    name="prorank",
    help="Turn a small language model into a document reranker, measure it, use it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data = typer.Typer(help="Look at collections and make training data.", no_args_is_help=True)
app.add_typer(data, name="data")
bench = typer.Typer(help="Measure prorank beside other libraries.", no_args_is_help=True)
app.add_typer(bench, name="bench")
out, err = Console(), Console(stderr=True)
_state = {"debug": False}

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


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


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
        _print_json(results)
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
        _print_json(summary)
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
        _print_json(results)
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
    from prorank.retrieval import BM25Index

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
    write_run(built.search(queries, top_k, progress=True), output, tag="bm25")
    out.print(f"{len(queries)} queries searched, run in {output}")


@data.command()
def check(
    collection: CollectionArgument,
    strict: Annotated[bool, typer.Option("--strict", help="Doubtful entries are errors (exit code 2).")] = False,
    as_json: AsJson = False,
) -> None:
    """Read a collection, count what is in it, and list what is doubtful."""
    from prorank.collection import load_collection
    from prorank.evaluation.report import collection_headline, collection_summary, collection_table

    loaded = load_collection(collection, strict=strict)
    if as_json:
        _print_json(collection_summary(loaded))
        return
    out.print(collection_headline(loaded), highlight=False)
    out.print(collection_table(loaded))
    for problem in loaded.problems[:20]:
        out.print(f"[yellow]{escape(str(problem))}[/yellow]", soft_wrap=True)
    out.print(f"{len(loaded.problems)} doubtful entries")


@data.command("convert")
def data_convert(
    layout: Annotated[Literal["followir", "bright", "trec-dl"], typer.Argument(help="Whose files these are.")],
    source: Annotated[Path, typer.Argument(help="Folder of the benchmark's files, as published.")],
    output: Annotated[Path, typer.Option(help="Collection to write, in BEIR layout.")],
    part: Annotated[str | None, typer.Option(help="BRIGHT's domain, or TREC's year.")] = None,
    long: Annotated[bool, typer.Option("--long", help="BRIGHT's whole pages and their gold lists.")] = False,
    force: Force = False,
) -> None:
    """Write FollowIR, BRIGHT or TREC Deep Learning as a collection."""
    from prorank.layouts import convert

    convert(layout, source, output, part=part, long=long, force=force)
    out.print(f"{layout} in [bold]{escape(str(output))}[/bold]; look at it: prorank data check {escape(str(output))}")


@data.command()
def mine(
    collection: CollectionArgument,
    output: Annotated[Path, typer.Option(help="JSON Lines to write: query_id, positives, negatives.")],
    split: Annotated[str, typer.Option(help="Split whose queries are mined.")] = "train",
    run: Annotated[Path | None, typer.Option(help="First-stage TREC run; default BM25 to rank 1000.")] = None,
    hard: Annotated[int, typer.Option(help="From ranks 1-10.", min=0)] = 4,
    medium: Annotated[int, typer.Option(help="From ranks 11-100.", min=0)] = 2,
    easy: Annotated[int, typer.Option(help="From ranks 101-1000.", min=0)] = 1,
    random: Annotated[int, typer.Option(help="From the whole corpus.", min=0)] = 1,
    teacher: Annotated[str | None, typer.Option(help="Bi-encoder for the false-negative filter.")] = None,
    margin: Annotated[float, typer.Option(help="Drop what scores above the weakest positive minus this.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the draw and of splits that are made.")] = 13,
    force: Force = False,
) -> None:
    """Mine negatives by rank tier."""
    from prorank.training.groups import mine_to_file

    quotas = {"hard": hard, "medium": medium, "easy": easy}
    mined = mine_to_file(collection, output, split, run, quotas, random, teacher, margin, seed, force)
    lacking = ", ".join(f"{tier} {count}" for tier, count in mined.shortfall.items() if count) or "none"
    out.print(
        f"{len(mined.negatives)} queries mined; lacking: {lacking}; filtered as likely relevant: {mined.filtered}"
    )


@data.command()
def synthesize(
    collection: CollectionArgument,
    output: Annotated[Path, typer.Option(help="JSON Lines to write: query_id, documents with grades 0 to 10.")],
    teacher: Annotated[
        str, typer.Option(help="qrels; scorer:MODEL; local:MODEL; or chat:MODEL (with --base-url).")
    ] = f"scorer:{MINI}",
    base_url: Annotated[str, typer.Option(help="OpenAI-compatible endpoint.")] = "http://localhost:8000/v1",
    key_variable: Annotated[str, typer.Option(help="Environment variable that holds the key.")] = "OPENAI_API_KEY",
    generations: Annotated[int, typer.Option(help="Answers a pair; the one nearest their mean is kept.", min=1)] = 3,
    temperature: Annotated[float, typer.Option(help="Of generated answers.", min=0)] = 0.6,
    max_new_tokens: Annotated[int, typer.Option(help="Of a generated answer.", min=8)] = 2_048,
    concurrency: Annotated[int, typer.Option(help="Requests at a time.", min=1)] = 8,
    split: Annotated[str, typer.Option(help="Split whose queries are graded.")] = "train",
    queries: Annotated[int | None, typer.Option(help="A seeded sample of the queries.", min=1)] = None,
    hard: Annotated[int, typer.Option(help="Negatives from ranks 1-10.", min=0)] = 10,
    medium: Annotated[int, typer.Option(help="From ranks 11-100.", min=0)] = 5,
    easy: Annotated[int, typer.Option(help="From ranks 101-1000.", min=0)] = 4,
    seed: Annotated[int, typer.Option(help="Seed of the draw and of splits that are made.")] = 13,
    force: Force = False,
) -> None:
    """Grade candidate lists by a teacher; killed, the same command goes on where it stopped."""
    from prorank.files import refuse_overwrite
    from prorank.training.grade_teachers import load_teacher
    from prorank.training.synthesis import graded_groups, synthesize

    refuse_overwrite(output, force)
    asked = load_teacher(teacher, generations, max_new_tokens, temperature, base_url, key_variable, concurrency)
    quotas = {"hard": hard, "medium": medium, "easy": easy}
    loaded, groups = graded_groups(collection, split, queries, quotas, seed)
    for name, value in synthesize(loaded, groups, asked, output, out).items():
        out.print(f"{name.replace('_', ' ')}: {value:.2f}" if isinstance(value, float) else f"{name}: {value}")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs, or their results.json.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="A Markdown table, one line a run and stage.")] = False,
) -> None:
    """Show the tables of finished runs again."""
    from prorank.evaluation.report import markdown_report, results_table
    from prorank.files import read_json

    results = [read_json(path / "results.json" if path.is_dir() else path) for path in runs]
    if markdown:
        print(markdown_report(results))
        return
    for result in results:
        out.print(
            f"\n[bold]{escape(result['collection'])}[/bold], recipe {result['recipe']}, {result['queries']} queries"
        )
        out.print(results_table(result["rows"]))


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
        _print_json(description)
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


@bench.command("inference")
def bench_inference(
    shape: Annotated[Literal["minilm", "qwen2.5-0.5b"], typer.Option(help="Published shape.")] = "minilm",
    collection: CollectionOption = "cosqa",
    short_collection: Annotated[str, typer.Option(help="Short documents, for the instruction-first layout.")] = "cosqa",
    pairs: Annotated[int, typer.Option(help="Pairs that each library scores.", min=8)] = 100,
    repeats: Annotated[int, typer.Option(help="Times they are scored; the best counts.", min=1)] = 1,
    work: Annotated[Path, typer.Option(help="Folder for models and peers.")] = Path("runs/bench"),
    peer_python: Annotated[
        str | None, typer.Option(help="A Python that has mxbai-rerank; default: one is made in the work folder.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--json", help="Write results here, and a plot beside.")] = None,
    force: Force = False,
) -> None:
    """Score the same pairs with other libraries and prorank, in one run."""
    from prorank.bench import inference
    from prorank.files import refuse_overwrite

    if file is not None:
        refuse_overwrite(file, force)
    results = inference.run_inference_bench(
        shape,
        collection,
        short_collection,
        work,
        pairs=pairs,
        repeats=repeats,
        peer_interpreter=peer_python,
        console=err,
    )
    if file is not None:
        inference.save(results, file)
    for found in (results, results["cuda"]):
        if found is not None:
            out.print(inference.table(found, f"{shape}, {'cpu' if found is results else 'cuda'}"))
            for key in ("ratios", "memory_ratio"):
                out.print(f"{key}: " + ", ".join(f"{name} {value:.2f}" for name, value in found[key].items()))
            out.print(f"largest difference of scores in fp32: {found['max_score_difference']:.1e}")
    if results["cuda"] is None:
        out.print(results["cuda_note"])


@bench.command("warmup")
def bench_warmup(
    shape: Annotated[Literal["small", "qwen2.5-0.5b"], typer.Option(help="Model of random weights.")] = "small",
    prompts: Annotated[int, typer.Option(help="Prompts a step.", min=2)] = 4,
    prompt_tokens: Annotated[int, typer.Option(help="Mean tokens of a prompt.", min=16)] = 120,
    steps: Annotated[int, typer.Option(help="Timed steps; the median counts.", min=1)] = 3,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where.")] = "cpu",
    file: Annotated[Path | None, typer.Option("--json", help="Write results here.")] = None,
    force: Force = False,
) -> None:
    """Time a warmup step beside TRL's GRPOTrainer and beside plain supervised training."""
    from prorank.bench.warmup import run_warmup_bench
    from prorank.files import refuse_overwrite, write_json

    if file is not None:
        refuse_overwrite(file, force)
    results = run_warmup_bench(
        shape, prompts=prompts, prompt_tokens=prompt_tokens, steps=steps, device=device, console=err
    )
    if file is not None:
        write_json(file, results)
    for key in ("speed_ratio", "speed_ratio_sampled", "memory_ratio", "memory_ratio_sampled"):
        out.print(f"{key}: " + ", ".join(f"G={group} {value:.2f}" for group, value in results[key].items()))
    out.print(f"a step over a supervised one: {results['supervised_ratio']:.2f}")
    out.print(f"general path, TRL over ours: {results['general_ratio']:.2f}")


@bench.command("guards")
def bench_guards(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, a YAML file, or `toy`.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, e.g. data.collection=FOLDER")] = None,
    output: Annotated[Path, typer.Option(help="Folder of the runs; those that are done are not repeated.")] = Path(
        "runs/guards"
    ),
    variants: Annotated[str, typer.Option(help="Names with commas between; default: all.")] = "",
    seeds: Annotated[str, typer.Option(help="Numbers with commas between.")] = "1,2,3",
    file: Annotated[Path | None, typer.Option("--json", help="Write results here.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves to this PNG.")] = None,
    force: Force = False,
) -> None:
    """Warm up with and without each guard: which keep balanced accuracy?"""
    from prorank.bench.guards import VARIANTS, base_recipe, run_guards
    from prorank.evaluation.report import guards_table, plot_guards
    from prorank.files import refuse_overwrite, write_json

    for target in filter(None, (file, plot)):
        refuse_overwrite(target, force)
    names = [name.strip() for name in variants.split(",") if name.strip()] or list(VARIANTS)
    numbers = [int(number) for number in seeds.split(",")]
    found = run_guards(base_recipe(recipe, overrides or [], output), names, numbers, output, err)
    if file is not None:
        write_json(file, found)
    if plot is not None:
        plot_guards(found["runs"], plot)
    out.print(guards_table(found["rows"]))


@bench.command("variance")
def bench_variance(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, a YAML file, or `toy`.")] = "toy",
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, e.g. data.collection=FOLDER")] = None,
    output: Annotated[Path, typer.Option(help="Folder of the warmup whose model is looked at.")] = Path(
        "runs/variance"
    ),
    groups: Annotated[str, typer.Option(help="Group sizes with commas between.")] = "8,16,64",
    draws: Annotated[int, typer.Option(help="Gradients drawn for each.", min=2)] = 50,
    file: Annotated[Path | None, typer.Option("--json", help="Write results here.")] = None,
    force: Force = False,
) -> None:
    """Measure the gradient noise that the exact expectation removes."""
    from prorank.bench.guards import base_recipe
    from prorank.bench.variance import run_variance_bench
    from prorank.files import refuse_overwrite, write_json

    if file is not None:
        refuse_overwrite(file, force)
    sizes = [int(group) for group in groups.split(",")]
    found = run_variance_bench(base_recipe(recipe, overrides or [], output), output / "run", sizes, draws, err)
    if file is not None:
        write_json(file, found)
    for name in ("start", "warmed"):
        for row in found[name]:
            out.print(f"{name}, G={row['group']}: noise over signal {row['noise']:.2f}")


@bench.command("quality")
def bench_quality(
    collections: Annotated[list[str], typer.Argument(help="Folders in BEIR layout.")],
    model: Model = MINI,
    dense: Annotated[str, typer.Option(help="Bi-encoder that reranks the same lists.")] = "embedded",
    hybrid: Annotated[float, typer.Option(help="The first stage's share in the hybrid.", min=0, max=1)] = 0.2,
    depth: Annotated[int, typer.Option(help="First-stage documents that are reranked.", min=1)] = 100,
    max_queries: Annotated[int | None, typer.Option(help="A seeded sample of the test queries.", min=1)] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens of a pair.", min=32)] = None,
    output: Annotated[Path, typer.Option(help="Folder; collections that are done are not repeated.")] = Path(
        "runs/quality"
    ),
    file: Annotated[Path | None, typer.Option("--json", help="Write results here.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table in Markdown.")] = False,
    force: Force = False,
) -> None:
    """Compare a model with BM25 and a bi-encoder on the test queries of several collections."""
    from prorank.bench.quality import run_quality_bench
    from prorank.evaluation.report import quality_markdown, quality_table
    from prorank.files import refuse_overwrite, write_json

    if file is not None:
        refuse_overwrite(file, force)
    found = run_quality_bench(
        model,
        collections,
        output,
        dense=dense,
        hybrid=hybrid,
        depth=depth,
        max_queries=max_queries,
        max_length=max_length,
        console=err,
    )
    if file is not None:
        write_json(file, found)
    if markdown:
        print(quality_markdown(found))
    else:
        out.print(quality_table(found))
        out.print(f"100 passages of 200 tokens: {found['passages']['median_seconds']:.2f} s")


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
