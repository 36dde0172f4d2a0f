"""A score-learning step beside sentence-transformers: seconds and memory on the same lists of texts.

Each contender runs alone in a process. A masked model learns in sentence-transformers as its users train one, with a
new head over the first token; a causal model by the logits of the two answers, as prorank exports it. It says nothing
of what the steps teach: that is `prorank bench training`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from prorank.bench.alone import measured_alone, memory_share
from prorank.bench.memory import GIGABYTE
from prorank.bench.models import first_stage_pairs
from prorank.bench.worker import places_by_query
from prorank.data.collection import Collection
from prorank.evaluation.tables import markdown_lines
from prorank.export.export import export
from prorank.model.checkpoint import read_settings
from prorank.model.device import resolve_device
from prorank.model.loading import family_of, resolve_source
from prorank.reranker import Reranker
from prorank.util.errors import CheckpointError, DataError
from prorank.util.provenance import hardware, versions

CONTENDERS = ("prorank", "sentence-transformers")
Lists = list[tuple[str, list[str], list[int]]]  # query, texts, grades


def lists_of_texts(collection: Collection, queries: int, documents: int) -> Lists:
    """BM25's first documents of some queries; the first counts as relevant, since grades change no time.

    Raises:
        DataError: not enough queries find so many documents.
    """
    pairs = first_stage_pairs(collection, documents, 2 * queries * documents)
    found = [(query, [pairs[i][1] for i in places]) for query, places in places_by_query(pairs).items()]
    whole = [(query, texts, [1] + [0] * (documents - 1)) for query, texts in found if len(texts) == documents]
    if len(whole) < queries:
        raise DataError(f"{collection.name}: {len(whole)} of {queries} queries find {documents} documents")
    return list(islice(whole, queries))


def folders(model: str, length: int, place: Path) -> dict[str, tuple[str, bool]]:
    """Each contender's model, and whether it gets a new head; prorank's is a checkpoint."""
    if family_of(model) == "classifier":
        raise CheckpointError(f"'{model}' is a classifier", hint="a step is one of a language model, or of an encoder")
    own = read_settings(resolve_source(model))
    reranker = Reranker.from_pretrained(
        model, prompt=None if own else "prorank-short", max_length=length, precision="fp32", device="cpu"
    )
    reranker.save_pretrained(place / "prorank")
    if reranker.backbone.family == "masked":
        return {"prorank": (str(place / "prorank"), False), "sentence-transformers": (str(place / "prorank"), True)}
    theirs = export(reranker, "sentence-transformers", place / "sentence-transformers")
    return {"prorank": (str(place / "prorank"), False), "sentence-transformers": (str(theirs), False)}


def run_step_bench(
    model: str,
    collection: Collection,
    *,
    queries: int,
    documents: int,
    length: int,
    lora: Sequence[int],
    steps: int,
    device: str,
    console: Console,
) -> dict[str, Any]:
    """Both libraries with every rank of LoRA.

    Args:
        model: folder or name.
        collection: of the texts.
        queries, documents: lists of a step, and texts of a list.
        length: most tokens of a pair.
        lora: ranks; 0 trains every weight.
        steps: timed steps; the median counts, the first is left out.
        device: where.
        console: where progress goes.

    Returns:
        `rows`, and by rank `speed_ratio` (theirs over ours) and `memory_ratio` (ours over theirs, beyond the weights;
        None where that cannot be told).

    Raises:
        CheckpointError: the model is a classifier.
        DataError: not enough queries find so many documents.
        ProrankError: a contender failed.
    """
    setting: dict[str, Any] = {"model": model, "collection": collection.name}
    setting |= {"queries": queries, "documents": documents}
    setting |= {"length": length, "steps": steps, "device": str(resolve_device(device))}
    lists = lists_of_texts(collection, queries, documents)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        places = folders(model, length, Path(folder))
        for rank in dict.fromkeys(lora):
            for contender in CONTENDERS:
                source, new_head = places[contender]
                spec = {"contender": contender, "folder": source, "new_head": new_head, "lora": rank, "lists": lists}
                spec |= {key: setting[key] for key in ("length", "steps", "device")}
                with console.status(f"{contender}, LoRA {rank}"):
                    worker = [sys.executable, "-m", "prorank.bench.step_worker"]
                    found = measured_alone(worker, spec, f"a step of {contender}")
                rows.append({"contender": contender, "lora": rank} | found)
                console.print(f"{contender}, LoRA {rank}: {found['seconds']:.2f} s per step, {held(found)}")
    ours, theirs = rows[::2], rows[1::2]
    return {
        "speed_ratio": {str(a["lora"]): b["seconds"] / a["seconds"] for a, b in zip(ours, theirs)},
        "memory_ratio": {
            str(a["lora"]): memory_share(a["extra_bytes"], b["extra_bytes"]) for a, b in zip(ours, theirs)
        },
        "rows": rows,
        "setting": setting,
        "threads": torch.get_num_threads(),
        "hardware": hardware(),
        "versions": versions(),
    }


def step_markdown(*found: dict[str, Any]) -> str:
    """Results of several models as one table: seconds and GB of a step, and what they are of sentence-transformers'."""
    lines = []
    for one in found:
        for ours, theirs in zip(one["rows"][::2], one["rows"][1::2]):
            rank = str(ours["lora"])
            sizes = [
                row["extra_bytes"] / GIGABYTE if row["extra_bytes"] is not None else None for row in (ours, theirs)
            ]
            cells = [ours["seconds"], theirs["seconds"], one["speed_ratio"][rank], *sizes, one["memory_ratio"][rank]]
            trained = "every weight" if rank == "0" else f"LoRA {rank}"
            shown = ["" if cell is None else f"{cell:.2f}" for cell in cells]
            lines.append([one["setting"]["model"], trained, *shown])
    names = ["prorank", "sentence-transformers"]
    head = [*(f"{name}, s" for name in names), "speed", *(f"{name}, GB" for name in names), "memory"]
    return markdown_lines(["model", "trained", *head], lines)


def held(found: dict[str, Any]) -> str:
    """Memory beyond the weights, for readers."""
    return (
        "memory unknown"
        if found["extra_bytes"] is None
        else f"{found['extra_bytes'] / GIGABYTE:.2f} GB beyond the weights"
    )
