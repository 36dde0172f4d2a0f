"""How good a model is on many collections, and how fast: BM25, a bi-encoder, the model and the hybrid on one list each.

Every collection's metrics are kept in a folder of its own, so that an interrupted benchmark can be resumed. Knows the
evaluator and the reranker's public face.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from prorank.data.collection import load_collection
from prorank.evaluation.evaluator import evaluate_model
from prorank.evaluation.rerank import carved_sentence, few_queries
from prorank.evaluation.significance import holm
from prorank.reranker import Reranker
from prorank.training.inputs import data_files, model_files
from prorank.util.files import distinct_names, read_json
from prorank.util.live import locked
from prorank.util.provenance import hardware, versions
from prorank.util.study import Inputs, Study

SUMMARY = "summary.json"


def run_quality_bench(
    model: str,
    collections: Sequence[str],
    output: Path,
    *,
    dense: str,
    hybrid: float,
    depth: int,
    max_queries: int | None,
    max_length: int | None,
    console: Console,
    force: bool = False,
) -> dict[str, Any]:
    """Measure a model on the test queries of several collections.

    A collection that brings candidate lists for its test queries is measured on those.

    Args:
        model: checkpoint folder or name.
        collections: folders in BEIR layout.
        output: one folder per collection; those that are done are not repeated.
        dense: bi-encoder that reranks the same lists.
        hybrid: the first stage's share in the hybrid, 0..1.
        depth: first-stage documents that are reranked.
        max_queries: a seeded sample of each collection's test queries; None takes all.
        max_length: tokens of a pair; None takes the checkpoint's.
        console: where progress goes.
        force: measure again what was measured with other settings, data or models; refused without.

    Returns:
        `collections` (one summary each), `adjusted` (Holm's p-values over the collections, by comparison), `passages`
        (seconds for 100 passages) and how it was made.

    Raises:
        ProrankError: a folder holds metrics of other settings, data or models; the difference is named.
    """
    settings: dict[str, Any] = {
        "depth": depth,
        "dense": dense,
        "hybrid": hybrid,
        "max_queries": max_queries,
        "max_length": max_length,
    }
    models = model_files({"model": model, "dense": dense})
    found = []
    for collection, name in zip(collections, distinct_names(collections)):
        loaded, study = load_collection(collection), Study(output / name)
        inputs = Inputs({"model": model, **settings}, data_files([loaded]) | models)
        if not study.reusable(SUMMARY, inputs, force):
            with locked(study.folder):
                console.print(f"[bold]{name}[/bold]")
                other = bool(study.differences(inputs))  # else an interrupted evaluation is gone on with
                study.begin(inputs)
                listed = "test" in loaded.candidates
                evaluate_model(model, collection, candidates=listed, output=study.folder, force=other, **settings)
                study.keep(SUMMARY)
        summary = dict(read_json(study.folder / SUMMARY)) | {"collection": name}
        for note in filter(None, (few_queries(summary["queries"]), carved_sentence(summary["carved_splits"]))):
            console.print(f"{name}: {note}")
        found.append(summary)
    return {
        "model": model,
        "dense": dense,
        "hybrid_weight": hybrid,
        "depth": depth,
        "collections": found,
        "adjusted": adjusted(found),
        "passages": passage_seconds(Reranker.from_pretrained(model, max_length=max_length)),
        "versions": versions(),
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
    }


def adjusted(summaries: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """p-values of each comparison adjusted for the number of collections, in their order."""

    def of(stage: str) -> list[float]:
        return [next(row["p_value"] for row in summary["rows"] if row["stage"] == stage) for summary in summaries]

    return {
        "reranked over first stage": holm(of("reranked")),
        "hybrid over first stage": holm(of("hybrid")),
        "reranked over bi-encoder": holm([summary["versus_dense"]["p_value"] for summary in summaries]),
    }


def passage_texts(tokenizer: Any, passages: int, tokens: int) -> list[str]:
    """Texts that a model's own tokenizer cuts into `tokens` tokens each (a word that the cut divides may add one).

    Args:
        tokenizer: of transformers.
        passages: how many texts.
        tokens: of each, without special tokens.
    """
    words = "the owl hunts mice at night in the wood near a river and sleeps by day on a high branch of an old tree"
    texts = [f"{i} {f'{words} ' * (tokens // 20 + 1)}" for i in range(passages)]
    ids = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:tokens] for text in texts]
    return [tokenizer.decode(row) for row in ids]


def passage_seconds(reranker: Reranker, passages: int = 100, tokens: int = 200, repeats: int = 5) -> dict[str, Any]:
    """Seconds that ranking passages takes, the least and the median of some repeats after one that does not count.

    Args:
        reranker: the model.
        passages: how many documents.
        tokens: of each document alone; query and prompt come on top.
        repeats: timed rankings.
    """
    texts = passage_texts(reranker.tokenizer.tokenizer, passages, tokens)
    taken = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        reranker.rank("which stone is it", texts)
        taken.append(time.perf_counter() - start)
    counted = sorted(taken[1:])
    sequences, _ = reranker.tokenizer.encode([("which stone is it", texts[0])])
    return {
        "passages": passages,
        "tokens": tokens,
        "tokens_of_a_pair": len(sequences[0]),
        "least_seconds": counted[0],
        "median_seconds": counted[repeats // 2],
    }
