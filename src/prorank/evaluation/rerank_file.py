"""A TREC run reranked into another, of any length: checked first, then block by block, resumable after a kill.

Knows runs, collections and the reranker's public face.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prorank.data.collection import Collection, load_collection
from prorank.data.runs import Run, pairs_within
from prorank.data.trec import read_run, run_lines
from prorank.evaluation.streaming import Journal, RunShape, lists_of_file, rerank_lists, survey
from prorank.model.loading import resolve_source
from prorank.reranker import Reranker
from prorank.util.files import refuse_file_overwrite
from prorank.util.live import locked
from prorank.util.provenance import fingerprint
from prorank.util.study import file_fingerprint, model_fingerprint
from prorank.util.version import VERSION

JOURNAL = "reranked.run"  # of an evaluation, inside its folder


def interrupted(output: Path) -> bool:
    """Whether a folder holds an evaluation that was interrupted while it reranked, or soon after."""
    return Journal.lies_at(output / JOURNAL)


def run_fingerprint(run: Run) -> str:
    """SHA-256 of a run's lists, in hexadecimal."""
    return fingerprint("".join(run_lines(query, listed, "x") for query, listed in run.items()))


def made_from(reranker: Reranker, model: str, collection: Collection, depth: int) -> dict[str, Any]:
    """What a reranked run depends on besides its first stage, by names that a reader knows."""
    return {
        "prorank": VERSION,
        "the model's files": model_fingerprint(resolve_source(model)) or model,
        "the model's settings": fingerprint(reranker.settings.model_dump_json()),
        "passages": reranker.passages,
        "max_new_tokens": reranker.max_new_tokens,
        "precision": str(reranker.backend.compute_dtype),
        "the collection": collection.fingerprint,
        "depth": depth,
    }


def rerank_through(
    journal: Journal, reranker: Reranker, collection: Collection, lists: Run, depth: int, progress: str
) -> Run:
    """`rerank_collection` by way of a journal, behind what that holds already."""
    total = pairs_within(lists.values(), depth)
    rerank_lists(reranker, collection, lists.items(), depth, journal, progress, total)
    found = read_run(journal.part) if journal.bytes else {}
    return {query: found.get(query, {}) for query in lists}


def rerank_file(
    model: str, collection: str, run: Path, output: Path, depth: int, *, force: bool = False, **options: Any
) -> RunShape:
    """Rerank a TREC run of any length into another, in bounded memory; after a kill the same call goes on.

    Args:
        model: checkpoint folder, model folder, hub name, or a shipped model's name.
        collection: texts of the run's ids.
        run: the TREC run, plain or .gz.
        output: the run to write; until it is whole, `OUTPUT.part` and `OUTPUT.part.json` stand in its place.
        depth: documents per query that are reranked.
        force: replace the output, and start over where an interrupted one was made from something else.
        options: of `Reranker`.

    Returns:
        Queries and pairs of the run.

    Raises:
        DataError: a malformed row or an unknown id, before the model is loaded.
        ProrankError: the output is taken, is no file, or what is there was made from something else or is being made.
    """
    refuse_file_overwrite(output, force)
    resolve_source(model)
    texts = load_collection(collection)
    shape = survey(run, texts, depth)
    lists = lists_of_file(run, shape.together)
    reranker = Reranker.from_pretrained(model, **options)
    depends_on = made_from(reranker, model, texts, depth) | {"the run": file_fingerprint(run)}
    with locked(output.parent, output.name):
        refuse_file_overwrite(output, force)  # another process may have finished it meanwhile
        journal = Journal(output, depends_on, force)
        rerank_lists(reranker, texts, lists, depth, journal, f"rerank {shape.queries} queries", shape.pairs)
        journal.finish()
    return shape
