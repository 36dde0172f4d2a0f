"""`prorank index` and `prorank search`: BM25. Parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prorank.cli_shared import CollectionArgument, Force, out
from prorank.errors import ProrankError


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
