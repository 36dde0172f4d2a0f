"""Evaluate any model on any collection in one call: first stage, bi-encoder, reranked, hybrid.

The command line's `evaluate`. Knows collections, first stages and the reranker's public face.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prorank.data.collection import Collection
from prorank.data.overlap import without_query_documents
from prorank.data.runs import Qrels, Run, lists_of, rerank_run, top, unknown_document, without_relevant
from prorank.data.splits import load_with_split, require_relevant
from prorank.data.trec import check_ids, read_run_of
from prorank.engine.load import RerankerOptions
from prorank.evaluation.judged import KEY, judged_by
from prorank.evaluation.metrics import SUMMARY, Evaluation, evaluate_run, remove_evaluation, write_evaluation
from prorank.evaluation.p_mrr import p_mrr
from prorank.evaluation.rerank import PRIMARY, rerank_collection, row_of, sample_queries
from prorank.evaluation.rerank_file import JOURNAL, made_from, rerank_through, run_fingerprint
from prorank.evaluation.significance import compare
from prorank.evaluation.streaming import Journal
from prorank.first_stage.bm25 import BM25Index, bm25_run, candidate_run, tell_no_candidates, without_excluded
from prorank.first_stage.dense import biencoder_scores, biencoder_source
from prorank.first_stage.fusion import Scale, hybrid_run
from prorank.model.loading import resolve_source
from prorank.reranker import Reranker, model_facts
from prorank.types import Passages, Precision
from prorank.util.errors import DataError
from prorank.util.files import write_json
from prorank.util.live import locked
from prorank.util.provenance import hardware, versions
from prorank.util.study import Study, file_fingerprint, model_fingerprint


def evaluate_model(
    model: str,
    collection: str,
    *,
    split: str = "test",
    depth: int = 100,
    run_file: Path | None = None,
    candidates: bool = False,
    dense: str | None = None,
    hybrid: float | None = None,
    hybrid_scale: Scale = "z-score",
    relevant_from: int = 1,
    max_queries: int | None = None,
    prompt: str | None = None,
    max_length: int | None = None,
    passages: Passages | None = None,
    cascade: bool = False,
    device: str = "auto",
    precision: Precision = "auto",
    seed: int = 13,
    output: Path | None = None,
    strict: bool = False,
    exclude_query_document: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Rerank the first stage of a split with a model and compare the two.

    Args:
        model: checkpoint folder, model folder, hub name, or a shipped model's name.
        collection: folder, bundled name or hub data set.
        split: whose queries; made reproducibly from `seed` where the collection lacks it.
        depth: first-stage documents that are reranked.
        run_file: first-stage TREC run; None means BM25.
        candidates: the first stage is the collection's own candidate lists, ordered by BM25.
        dense: a bi-encoder that reranks the same lists, for comparison.
        hybrid: the first stage's share of a further, hybrid row.
        hybrid_scale: what makes the two scores of a query comparable.
        relevant_from: least grade that counts as relevant in metrics that know no grades; TREC Deep Learning's is 2.
        max_queries: a seeded sample of the queries.
        prompt: for a model that is no prorank checkpoint.
        max_length: tokens of a pair; None takes the checkpoint's.
        passages: how documents that do not fit are read; None cuts them.
        cascade: read lists by the checkpoint's cascade.
        device, precision: as for `Reranker`; the bi-encoder runs on the same device.
        seed: of made splits and samples.
        output: folder for `reranked/` (run, per-query file, summary), `bi-encoder/`, `hybrid/` and `summary.json`.
        strict: doubtful data are errors.
        exclude_query_document: leave the document of a query's own id out of its list, as BEIR's evaluation does.
        force: do not resume an evaluation that was interrupted.

    Returns:
        The summary: rows for the first stage, the bi-encoder, the model and the hybrid, `versus_dense` (paired
        comparison of model and bi-encoder, or None), and how they were made.

    Raises:
        ProrankError: `output` holds a training run.
        DataError: unknown split, nothing relevant in it, no candidates, a run that holds none of its queries or names
            unknown documents, or ids that `output` cannot hold.
    """
    if output:
        Study(output).refuse_run()
    resolve_source(model)  # a mistyped name is told before the first stage is built
    if dense is not None:
        biencoder_source(dense)
    loaded = load_with_split(collection, split, seed=seed, strict=strict)
    if exclude_query_document:
        loaded = without_query_documents(loaded)
    qrels = sample_queries(loaded.judgments(split), max_queries, seed)
    require_relevant(qrels, f"split '{split}' of {loaded.name}", relevant_from)
    if output:
        check_ids([*qrels, *(loaded.documents if run_file is None else ())], loaded.name)
    lists, first = first_stage_lists(loaded, split, qrels, run_file, candidates, depth)
    options: RerankerOptions = {"prompt": prompt, "max_length": max_length, "passages": passages, "cascade": cascade}
    options |= {"device": device, "precision": precision}
    reranker = Reranker.from_pretrained(model, **options)
    baseline = evaluate_run(lists, qrels, relevant_from=relevant_from)
    judged = judged_by(loaded, split, relevant_from, exclude_query_document)
    rows = [row_of(first, baseline)]

    def add(stage: str, run: Run, **more: float) -> Evaluation:
        evaluation = evaluate_run(run, qrels, relevant_from=relevant_from)
        if changes := p_mrr(run, qrels):
            more["p_mrr"] = sum(changes.values()) / len(changes)
        rows.append(row_of(stage, evaluation, baseline) | more)
        if output:
            (output / SUMMARY).unlink(missing_ok=True)  # written last, it stands for what lies beside it
            write_evaluation(output / stage, run, evaluation, rows[-1] | {KEY: judged}, force=True)
        return evaluation

    rival = None if dense is None else add("bi-encoder", rerank_dense(dense, loaded, lists, depth, device))
    title, facts = f"rerank {len(qrels)} queries", model_facts(reranker, model)
    reranked, journal = reranked_lists(reranker, facts, loaded, lists, depth, title, output, force)
    evaluation = add("reranked", reranked)
    if hybrid is not None:
        add("hybrid", hybrid_run(lists, reranked, hybrid, depth, hybrid_scale), first_stage_weight=hybrid)
    summary = {
        "model": model,
        "collection": loaded.name,
        "split": split,
        "queries": len(qrels),
        "depth": depth,
        "rows": rows,
        "versus_dense": None if rival is None else compare(evaluation, rival, PRIMARY)._asdict(),
        "dense": dense,
        "dense_fingerprint": None if dense is None else model_fingerprint(biencoder_source(dense)),
        "first_stage": first_stage_part(first, lists, run_file),
        "hybrid_scale": None if hybrid is None else hybrid_scale,
        "relevant_from": relevant_from,
        "max_queries": max_queries,
        "seed": seed,
        "exclude_query_document": exclude_query_document,
    }
    summary |= data_part(loaded, split) | model_part(reranker, facts)
    if output:
        remove_earlier(output, rows)
        write_json(output / SUMMARY, summary)
    if journal is not None:
        journal.discard()
    return summary


def remove_earlier(output: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Delete the stages of an earlier evaluation, replaced by force, that these rows do not have."""
    for stage in {"bi-encoder", "hybrid"} - {row["stage"] for row in rows}:
        remove_evaluation(output / stage)


def data_part(collection: Collection, split: str) -> dict[str, Any]:
    """What a summary says of the data besides the collection's name and the split's."""
    return {
        "queries_without_relevant": len(without_relevant(collection.judgments(split))),
        "data_fingerprint": collection.fingerprint,
        "carved_splits": collection.carved,
    }


def model_part(reranker: Reranker, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a summary says of the model besides its name: fingerprints, how it reads a pair, and on which machine.

    Args:
        reranker: as it is loaded; what was left open is filled in.
        facts: of it, see `model_facts`.
    """
    prompt = reranker.settings.prompt
    return {
        "model_fingerprint": facts["the model's files"],
        "model_settings_fingerprint": facts["the model's settings"],
        "prompt": None if prompt is None else prompt.name,
        "max_length": reranker.settings.max_length,
        "passages": facts["passages"],
        "cascade": facts["cascade"],
        "precision": facts["precision"],
        "versions": versions(),
        "hardware": hardware(),
    }


def first_stage_part(name: str, lists: Run, run_file: Path | None) -> dict[str, Any]:
    """What a summary says of the lists that were reranked; a pipe is read once and has no fingerprint of its own."""
    return {
        "name": name,
        "run": None if run_file is None else str(run_file),
        "run_fingerprint": file_fingerprint(run_file) if run_file is not None and run_file.is_file() else None,
        "lists_fingerprint": run_fingerprint(lists),
    }


def reranked_lists(
    reranker: Reranker,
    facts: Mapping[str, Any],
    collection: Collection,
    lists: Run,
    depth: int,
    title: str,
    output: Path | None,
    force: bool,
) -> tuple[Run, Journal | None]:
    """The lists as the model orders them; with an output folder, the journal from which a killed evaluation resumes."""
    if output is None:
        return rerank_collection(reranker, collection, lists, depth, title), None
    depends_on = made_from(facts, collection, depth) | {"the first stage": run_fingerprint(lists)}
    with locked(output, JOURNAL):
        journal = Journal(output / JOURNAL, depends_on, force)
        return rerank_through(journal, reranker, collection, lists, depth, title), journal


def rerank_dense(model: str, collection: Collection, lists: Run, depth: int, device: str = "auto") -> Run:
    """First-stage lists with their first `depth` documents reordered by a bi-encoder's similarity."""
    heads = {query: list(documents) for query, documents in top(lists, depth).items()}
    texts = {d: collection.documents[d].content for documents in heads.values() for d in documents}
    return rerank_run(lists, biencoder_scores(model, collection.queries, texts, heads, device=device), depth)


def first_stage_lists(
    collection: Collection, split: str, qrels: Qrels, run_file: Path | None, candidates: bool, depth: int
) -> tuple[Run, str]:
    """(lists, name) of the first stage: BM25 to at least rank 100, own candidate lists, or the run in a file."""
    if run_file is None and candidates:
        tell_no_candidates(collection, split, qrels)
        return lists_of(candidate_run(collection, split), qrels), "candidates (BM25)"
    if run_file is None:
        queries = {query: collection.queries[query] for query in qrels}
        run = bm25_run(BM25Index.build(collection.documents), collection, queries, max(100, depth))
        return lists_of(run, qrels), "BM25"
    run = read_run_of(run_file, qrels, "they score 0")
    if (unknown := unknown_document(run, qrels, collection.documents)) is not None:
        raise DataError(f"{run_file}: document '{unknown}' is not in the collection")
    return lists_of(without_excluded(run, collection), qrels), run_file.name
