"""Evaluate any model on any collection in one call: first stage, reranked, hybrid.

The command line's `evaluate`. Knows collections, first stages and the reranker's public face.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prorank.collection import Qrels, Run, load_collection, read_run, with_splits
from prorank.errors import DataError
from prorank.evaluation.evaluate import evaluate_run, write_evaluation
from prorank.evaluation.hybrid import hybrid_run
from prorank.evaluation.stages import lists_of, rerank_collection, row_of, sample_queries
from prorank.files import write_json
from prorank.passages import Aggregation
from prorank.provenance import hardware, versions
from prorank.reranker import Reranker
from prorank.retrieval import BM25Index


def evaluate_model(
    model: str,
    collection: str,
    *,
    split: str = "test",
    depth: int = 100,
    run_file: Path | None = None,
    hybrid: float | None = None,
    max_queries: int | None = None,
    prompt: str | None = None,
    max_length: int | None = None,
    passages: Aggregation | None = None,
    seed: int = 13,
    output: Path | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """Rerank the first stage of a split with a model and compare the two.

    Args:
        model: checkpoint folder, model folder, hub name, or `embedded`.
        collection: folder, bundled name or hub data set.
        split: whose queries; made reproducibly from `seed` where the collection lacks it.
        depth: first-stage documents that are reranked.
        run_file: first-stage TREC run; None means BM25.
        hybrid: the first stage's share of a further, hybrid row.
        max_queries: a seeded sample of the queries.
        prompt: for a model that is no prorank checkpoint.
        max_length: tokens of a pair; None takes the checkpoint's.
        passages: how documents that do not fit are scored; None cuts them.
        seed: of made splits and samples.
        output: folder for `reranked/` (run, per-query file, summary), `hybrid/` and `summary.json`.
        strict: doubtful data are errors.

    Returns:
        The summary: rows for the first stage, the model and the hybrid, and how they were made.

    Raises:
        DataError: unknown split, or a run that holds none of its queries or names unknown documents.
    """
    loaded = load_collection(collection, strict=strict)
    if split not in loaded.qrels:
        loaded = with_splits(loaded, seed=seed)
    qrels = sample_queries(loaded.judgments(split), max_queries, seed)
    lists, first = first_stage_lists(loaded.documents, {q: loaded.queries[q] for q in qrels}, qrels, run_file, depth)
    reranker = Reranker.from_pretrained(model, prompt=prompt, max_length=max_length, passages=passages)
    baseline = evaluate_run(lists, qrels)
    reranked = rerank_collection(reranker, loaded, lists, depth, f"rerank {len(qrels)} queries")
    evaluation = evaluate_run(reranked, qrels)
    rows = [row_of(first, baseline), row_of("reranked", evaluation, baseline)]
    if output:
        write_evaluation(output / "reranked", reranked, evaluation, rows[-1], force=True)
    if hybrid is not None:
        mixed = hybrid_run(lists, reranked, hybrid, depth)
        mixed_evaluation = evaluate_run(mixed, qrels)
        rows.append(row_of("hybrid", mixed_evaluation, baseline) | {"first_stage_weight": hybrid})
        if output:
            write_evaluation(output / "hybrid", mixed, mixed_evaluation, rows[-1], force=True)
    summary = {
        "model": model,
        "collection": loaded.name,
        "split": split,
        "queries": len(qrels),
        "depth": depth,
        "rows": rows,
        "seed": seed,
        "versions": versions(),
        "hardware": hardware(),
        "data_fingerprint": loaded.fingerprint,
    }
    if output:
        write_json(output / "summary.json", summary)
    return summary


def first_stage_lists(
    documents: Any, queries: dict[str, str], qrels: Qrels, run_file: Path | None, depth: int
) -> tuple[Run, str]:
    """(lists, name) of the first stage: BM25 to at least rank 100, or the run in a file."""
    if run_file is None:
        run = BM25Index.build(documents).search(queries, top_k=max(100, depth), progress=True)
        return lists_of(run, qrels), "BM25"
    run = read_run(run_file)
    if not run.keys() & qrels.keys():
        raise DataError(f"{run_file} holds none of the {len(qrels)} queries of this split")
    unknown = next((d for q in qrels for d in run.get(q, {}) if d not in documents), None)
    if unknown is not None:
        raise DataError(f"{run_file}: document '{unknown}' is not in the collection")
    return lists_of(run, qrels), run_file.name
