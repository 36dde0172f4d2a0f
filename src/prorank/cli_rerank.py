"""`prorank rerank`: documents for a query, or a whole TREC run. Parses, calls, prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from prorank.cli_shared import AsJson, Force, Model, Passages, out, print_json
from prorank.errors import DataError, ProrankError
from prorank.models import MINI


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
