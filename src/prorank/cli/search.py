"""`prorank index` and `prorank search`: BM25. Parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from prorank.cli.shared import (
    AsJson,
    CollectionArgument,
    ExcludeQueryDocument,
    Force,
    check_argument,
    err,
    out,
    print_json,
    refuse,
)
from prorank.util.errors import InputError, ProrankError
from prorank.util.terminal import one_line


def index(
    collection: CollectionArgument,
    output: Annotated[Path, typer.Option(help="Folder for the index.")],
    language: Annotated[str, typer.Option(help="auto, en, zh, ja, th or other.")] = "auto",
    force: Force = False,
) -> None:
    """Build a BM25 index."""
    from prorank.data.collection import load_collection
    from prorank.first_stage.bm25 import BM25Index
    from prorank.first_stage.terms import check_language
    from prorank.util.files import refuse_folder_overwrite

    refuse_folder_overwrite(output, force)
    loaded = load_collection(collection)
    built = BM25Index.build(loaded.documents, language=check_language(language))
    built.save(output, force=force)
    out.print(f"{len(loaded.documents)} documents indexed ({built.language}) in {escape(str(output))}", soft_wrap=True)


def search(
    context: typer.Context,
    index_folder: Annotated[Path, typer.Argument(metavar="INDEX", help="Folder that `prorank index` wrote.")],
    query: Annotated[str | None, typer.Argument(help="One query; or use --collection.")] = None,
    collection: Annotated[str | None, typer.Option(help="Search all queries of this collection.")] = None,
    split: Annotated[str | None, typer.Option(help="Only the queries of this split.")] = None,
    output: Annotated[Path | None, typer.Option(help="TREC run to write (with --collection).")] = None,
    top_k: Annotated[int, typer.Option(help="Documents per query.", min=1)] = 100,
    exclude_query_document: ExcludeQueryDocument = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Search a BM25 index: one query to the screen, or a collection's queries to a TREC run."""
    from prorank.data.collection import load_collection
    from prorank.data.overlap import without_query_documents
    from prorank.data.trec import check_ids, write_run
    from prorank.first_stage.bm25 import BM25Index, bm25_run
    from prorank.util.files import refuse_file_overwrite

    if (query is None) == (collection is None):
        raise ProrankError("give either a query or --collection")
    if query is not None:
        refuse(context, "only with --collection", "split", "output", "exclude_query_document", "force")
        if not query.strip():
            raise InputError("the query is empty")
        check_argument(query, "the query")
        built = BM25Index.load(index_folder)
        print_hits(built.search({"query": query}, top_k)["query"], built.headings, as_json)
        return
    if output is None:
        raise ProrankError("--collection needs --output")
    refuse_file_overwrite(output, force)
    built, loaded = BM25Index.load(index_folder), load_collection(str(collection))
    built.check_collection(loaded)
    if exclude_query_document:
        loaded = without_query_documents(loaded)
    queries = {q: loaded.queries[q] for q in loaded.judgments(split)} if split else loaded.queries
    check_ids([*queries, *loaded.documents], str(collection))
    run = bm25_run(built, loaded, queries, top_k)
    write_run(run, output, tag="bm25")
    empty = sum(not found for found in run.values())
    if as_json:
        print_json({"queries": len(queries), "without_documents": empty, "output": str(output)})
        return
    nothing = f", {empty} of them found nothing" if empty else ""
    out.print(f"{len(queries)} queries searched{nothing}, run in {escape(str(output))}", soft_wrap=True)


def print_hits(hits: dict[str, float], headings: dict[str, str], as_json: bool) -> None:
    """One line per document: score, id, title (or how the text begins), tabs between; or JSON."""
    if not hits:
        err.print("no document shares a term with the query")
    if as_json:
        print_json([{"id": d, "score": score, "heading": headings.get(d, "")} for d, score in hits.items()])
        return
    for document, score in hits.items():
        key = one_line(document, 80)
        room = max(10, out.width - len(key) - 24)  # two tabs
        print(f"{score:.4f}\t{key}\t{one_line(headings.get(document, ''), room)}".rstrip("\t"))
