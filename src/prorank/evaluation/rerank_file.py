"""A TREC run reranked into another, of any length: checked first, then block by block, resumable after a kill.

Knows runs, collections and the reranker's public face.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from prorank.data.collection import Collection, load_collection
from prorank.data.runs import Run, lists_of, pairs_within
from prorank.data.trec import read_run, run_lines
from prorank.evaluation.streaming import Journal, Scorer, lists_of_file, rerank_lists, survey
from prorank.evaluation.workers import Ready, Workers
from prorank.model.loading import resolve_source
from prorank.reranker import Reranker, model_facts
from prorank.util.errors import require
from prorank.util.files import refuse_file_overwrite
from prorank.util.live import locked
from prorank.util.provenance import fingerprint, hardware
from prorank.util.study import file_fingerprint

JOURNAL = "reranked.run"  # of an evaluation, inside its folder


def interrupted(output: Path) -> bool:
    """Whether a folder holds an evaluation that was interrupted while it reranked, or soon after."""
    return Journal.lies_at(output / JOURNAL)


def run_fingerprint(run: Run) -> str:
    """SHA-256 of a run's lists, in hexadecimal."""
    return fingerprint("".join(run_lines(query, listed, "x") for query, listed in run.items()))


def ready(reranker: Reranker, model: str, warnings: Sequence[str] = ()) -> Ready:
    """What is to be known of a model that is loaded."""
    facts = model_facts(reranker, model)
    return Ready(facts, hardware(), reranker.settings.max_length, reranker.passages is not None, warnings)


def made_from(facts: Mapping[str, Any], collection: Collection, depth: int) -> dict[str, Any]:
    """What a reranked run depends on besides its first stage, by names that a reader knows.

    Args:
        facts: of the model, see `model_facts`.
        collection, depth: of the run.
    """
    return {**facts, "the collection": collection.fingerprint, "depth": depth}


class Reranked(NamedTuple):
    """What reranking a file did.

    Attributes:
        queries, pairs: of the run, within the depth.
        scored: pairs that this call scored; the others were scored before an interruption.
        seconds: from the first block to the last, without loading.
        cpu_seconds: of this process on all cores in that time; where a cluster scored, of reading, sending and writing.
        workers: at the end, those that were starting among them; 1 without a cluster.
        hardware: of the first of them.
    """

    queries: int
    pairs: int
    scored: int
    seconds: float
    cpu_seconds: float
    workers: int
    hardware: Mapping[str, Any]


def rerank_through(
    journal: Journal, scorer: Scorer, collection: Collection, lists: Run, depth: int, progress: str
) -> Run:
    """`rerank_collection` by way of a journal, behind what that holds already."""
    total = pairs_within(lists.values(), depth)
    rerank_lists(scorer, collection, lists.items(), depth, journal, progress, total)
    return lists_of(read_run(journal.part) if journal.bytes else {}, lists)


@contextmanager
def _scoring(model: str, options: dict[str, Any], ray: str | None) -> Iterator[tuple[Scorer | Workers, Ready]]:
    """What scores, here or on a Ray cluster, and what that depends on."""
    if ray is None:
        reranker = Reranker.from_pretrained(model, **options)
        yield reranker, ready(reranker, model)
        return
    from prorank.evaluation.on_ray import ray_workers

    with ray_workers(ray, model, options) as workers:
        yield workers, workers.ready


def rerank_file(
    model: str,
    collection: str,
    run: Path,
    output: Path,
    depth: int,
    *,
    force: bool = False,
    ray: str | None = None,
    **options: Any,
) -> Reranked:
    """Rerank a TREC run of any length into another, in bounded memory; after a kill the same call resumes.

    Args:
        model: checkpoint folder, model folder, hub name, or a shipped model's name.
        collection: texts of the run's ids.
        run: the TREC run, plain or .gz.
        output: the run to write; until it is whole, `OUTPUT.part` and `OUTPUT.part.json` stand in its place.
        depth: documents per query that are reranked.
        force: replace the output, and start over where an interrupted one was made from something else.
        ray: address of a Ray cluster whose machines score in place of this process.
        options: of `Reranker`.

    Raises:
        DataError: a malformed row or an unknown id, before the model is loaded.
        ProrankError: the output is taken, is no file, or what is there was made from something else or is being made;
            no Ray cluster, or none of its workers can go on.
    """
    refuse_file_overwrite(output, force)
    if ray is None:
        resolve_source(model)
    else:
        require("ray", "ray")
    texts = load_collection(collection)
    shape = survey(run, texts, depth)
    lists = lists_of_file(run, shape.together)
    with _scoring(model, options, ray) as (scorer, loaded), locked(output.parent, output.name):
        depends_on = made_from(loaded.facts, texts, depth) | {"the run": file_fingerprint(run)}
        refuse_file_overwrite(output, force)  # another process may have finished it meanwhile
        journal = Journal(output, depends_on, force)
        begin, cpu_begin = time.perf_counter(), time.process_time()
        scored = rerank_lists(scorer, texts, lists, depth, journal, f"rerank {shape.queries} queries", shape.pairs)
        seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
        journal.finish()
        workers = scorer.count if isinstance(scorer, Workers) else 1
    return Reranked(shape.queries, shape.pairs, scored, seconds, cpu_seconds, workers, loaded.hardware)
