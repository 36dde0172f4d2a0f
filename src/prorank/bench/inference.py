"""Inference beside other libraries: same weights, same pairs, one process after another in one run.

Every contender runs in a process of its own (`worker.py`), so that memory is its own and a peer can bring what it
needs (the ProRank authors' library an older transformers). Ratios are of seconds: peer over prorank, above 1 is faster.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from prorank.bench import worker
from prorank.bench.alone import measured_alone
from prorank.bench.contenders import PEERS, Contender, Shape, causal_contenders, minilm_contenders, peer_python
from prorank.bench.profile import product_rate
from prorank.data.collection import load_collection
from prorank.engine.runtime import is_exported
from prorank.engine.scorer import token_budget
from prorank.model.device import fast_bf16
from prorank.reranker import Reranker
from prorank.util.errors import InputError, require
from prorank.util.files import write_json
from prorank.util.provenance import hardware, versions

PEERS_OF: dict[Shape, tuple[str, ...]] = {
    "minilm": ("flashrank",),
    "smollm2-135m": ("llama.cpp",),
    "qwen2.5-0.5b": ("mxbai-rerank", "llama.cpp"),
}
ONLY_CPU = ("llama.cpp", "flashrank")  # as they install without a word
CANDIDATES = (10, 30, 100, 300, 1_000)
LENGTHS = (64, 128, 256, 512, 1_024, 2_048, 4_096)


def measure(contender: Contender, device: str, repeats: int, console: Console) -> dict[str, Any]:
    """Run one contender in its own process.

    Returns:
        Its name, library, dtype, best seconds, pairs per second, memory over the weights, scores and versions.

    Raises:
        ProrankError: the process failed; the message ends with what it printed last.
    """
    spec = {
        "contender": contender.library,
        "folder": str(contender.folder.resolve()),
        "dtype": contender.dtype,
        "device": device,
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "warmup": 4,
        "pairs": contender.pairs,
        **(contender.more or {}),
    }
    with console.status(f"{contender.name} ({len(contender.pairs)} pairs)"):
        command = [contender.python, str(Path(worker.__file__))]
        found = measured_alone(command, spec, f"benchmark of {contender.name}")
    best = min(found["seconds"])
    row = {"name": contender.name, "library": contender.library, "dtype": contender.dtype}
    row |= {"seconds": best, "pairs_per_second": len(contender.pairs) / best}
    console.print(f"{contender.name}: {row['pairs_per_second']:.2f} pairs/s")
    return row | {key: found[key] for key in ("extra_bytes", "scores", "versions")}


def runs_on(contender: Contender, device: str) -> bool:
    """Whether a contender can use the device: exported graphs and some peers know the CPU alone."""
    return device == "cpu" or not (contender.library in ONLY_CPU or is_exported(contender.folder))


# name of a ratio -> (the peer's row, our row it is compared with)
COMPARED = {
    "mxbai-rerank": ("mxbai-rerank", "prorank"),
    "mxbai-rerank-defaults": ("mxbai-rerank (defaults)", "prorank (defaults)"),
    "sentence-transformers": ("sentence-transformers", "prorank"),
    "sentence-transformers-defaults": ("sentence-transformers (defaults)", "prorank (defaults)"),
    "sentence-transformers-instruction-first": (
        "sentence-transformers (instruction-first, short)",
        "prorank (instruction-first, short)",
    ),
    "llama.cpp": ("llama.cpp (Q8_0)", "prorank"),
    "torch": ("prorank (defaults)", "prorank (OpenVINO)"),
    "torch-int8": ("prorank (defaults)", "prorank (int8, OpenVINO)"),
    "flashrank": ("flashrank (float32)", "prorank"),
    "flashrank-int8": ("flashrank (int8)", "prorank (int8, OpenVINO)"),
    "sentence-transformers-int8": ("sentence-transformers (defaults)", "prorank (int8, OpenVINO)"),
    "sentence-transformers-int8-activations": (
        "sentence-transformers (defaults)",
        "prorank (int8 with activations, OpenVINO)",
    ),
    "sentence-transformers-int8-onnx": ("sentence-transformers (defaults)", "prorank (int8, ONNX)"),
}


def ratios(rows: Sequence[dict[str, Any]], key: str = "seconds") -> dict[str, float]:
    """Peer over prorank for each compared pair of rows that were measured; for `extra_bytes` prorank over peer.

    >>> ratios([{"name": "prorank", "seconds": 2.0}, {"name": "mxbai-rerank", "seconds": 5.0}])
    {'mxbai-rerank': 2.5}
    """
    by_name = {row["name"]: row[key] for row in rows if row.get(key)}
    found = {}
    for name, (theirs, ours) in COMPARED.items():
        if theirs in by_name and ours in by_name:
            a, b = by_name[theirs], by_name[ours]
            found[name] = a / b if key == "seconds" else b / a
    return found


def _is_default(row: dict[str, Any], rows: Sequence[dict[str, Any]], device: str) -> bool:
    """Whether a row already shows what a library does by default, so that it need not run twice.

    prorank's default is bf16 where that is fast; sentence-transformers takes the checkpoint's type.
    """
    if f"{row['name']} (defaults)" in {other["name"] for other in rows}:
        return False
    fast = "bfloat16" if fast_bf16(torch.device(device)) else "float32"
    return row["dtype"] == {"prorank": fast, "sentence-transformers": "float32"}.get(row["name"])


def difference(rows: Sequence[dict[str, Any]]) -> float:
    """Largest difference between the first row's scores and any other's of the same type."""
    first = np.array(rows[0]["scores"])
    others = [row["scores"] for row in rows[1:] if row["dtype"] == rows[0]["dtype"]]
    return max(float(np.abs(np.array(scores) - first).max()) for scores in others)


def correlations(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Pearson's correlation of the first row's scores with those of each row in fewer bits, by its name."""
    first, others = rows[0], [row for row in rows[1:] if row["dtype"] != rows[0]["dtype"]]
    return {row["name"]: float(np.corrcoef(first["scores"], row["scores"])[0, 1]) for row in others}


def share_of_limit(row: dict[str, Any], reranker: Reranker, pairs: Sequence[tuple[str, str]]) -> float:
    """Share of a row's seconds that the layers' matrix products take at the rate that the machine reaches on them.

    Every pair's tokens count, so sharing prefixes shows as a larger share.
    """
    sequences, _ = reranker.tokenizer.encode(pairs)
    core, tokens = reranker.backbone.core, sum(map(len, sequences))
    weights = sum(p.numel() for p in core.base_model.parameters()) - core.get_input_embeddings().weight.numel()
    rate = product_rate(reranker.backbone, min(tokens, token_budget(reranker.backbone)))
    return float(2.0 * weights * tokens / rate / row["seconds"])


def scaling(reranker: Reranker, seconds_budget: float = 60.0) -> dict[str, list[list[float]]]:
    """Seconds against candidates of 64 tokens, and against the length of 8 documents (by passages where too long).

    A point that would go beyond the budget, judged by the one before, is left out.

    Returns:
        `candidates` and `lengths`: [[x, seconds], ...].
    """
    word = " stone"
    curves: dict[str, list[list[float]]] = {"candidates": [], "lengths": []}
    plans = {
        "candidates": [(count, count, 64) for count in CANDIDATES],
        "lengths": [(length, 8, length) for length in LENGTHS],
    }
    for curve, points in plans.items():
        cost = 0.0
        for x, count, length in points:
            if cost * count * length > seconds_budget:
                continue
            texts = [f"{i}" + word * (length - 2) for i in range(count)]
            start = time.perf_counter()
            reranker.rank("which stone is it", texts)
            taken = time.perf_counter() - start
            cost = taken / (count * length)
            curves[curve].append([x, taken])
    return curves


def run_inference_bench(
    shape: Shape,
    collection: str,
    short_collection: str,
    work: Path,
    *,
    pairs: int,
    repeats: int,
    without: Sequence[str] = (),
    console: Console,
) -> dict[str, Any]:
    """The whole comparison at one shape.

    Args:
        shape: which published shape.
        collection: pairs come from BM25's top 100 of its first test queries.
        short_collection: short documents, for the instruction-first layout.
        work: folder for models and the environments of peers.
        pairs: pairs scored by each contender.
        repeats: times each contender scores them; the best counts.
        without: peers that are left out.
        console: where progress goes.

    Returns:
        `ratios` and `memory_ratio` by peer, `limit_share`, `max_score_difference`, `correlations`, `rows`, `scaling`,
        and the same for CUDA under `cuda` (None where there is none).
    """
    require("sentence_transformers", "bench")
    if unknown := [name for name in without if name not in PEERS]:
        raise InputError(f"no peer '{unknown[0]}' to leave out", hint=f"there are: {', '.join(PEERS)}")
    loaded = load_collection(collection)
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        place = Path(folder)
        peers = {name: peer_python(name, work, console) for name in PEERS_OF[shape] if name not in without}
        if shape == "minilm":
            timed, agreement = minilm_contenders(place, loaded, pairs, peers)
        else:
            short = load_collection(short_collection)
            timed, agreement = causal_contenders(shape, place, loaded, short, pairs, peers)
        results: dict[str, Any] = {"shape": shape, "collection": loaded.name, "pairs": pairs, "repeats": repeats}
        for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
            rows = [measure(one, device, repeats, console) for one in timed if runs_on(one, device)]
            rows += [row | {"name": f"{row['name']} (defaults)"} for row in rows if _is_default(row, rows, device)]
            agreeing = [measure(one, device, 1, console) for one in agreement if runs_on(one, device)]
            reranker = Reranker.from_pretrained(timed[0].folder, device=device, passages="max")
            found: dict[str, Any] = {
                "ratios": ratios(rows),
                "memory_ratio": ratios(rows, "extra_bytes"),
                "max_score_difference": difference(agreeing),
                "correlations": correlations(agreeing),
                "rows": [{k: v for k, v in row.items() if k != "scores"} for row in rows],
                "scaling": scaling(reranker),
            }
            ours = next((row for row in rows if row["name"] == "prorank (defaults)"), rows[0])
            found["limit_share"] = share_of_limit(ours, reranker, timed[0].pairs)
            if device == "cpu":
                results |= found | {"cuda": None, "cuda_note": "needs a CUDA device: none was found"}
            else:
                results["cuda"] = found
                del results["cuda_note"]
    return results | {"hardware": hardware(), "versions": versions(), "threads": torch.get_num_threads()}


def table(results: dict[str, Any], title: str = "") -> Table:
    """The comparison as a table."""
    shown = Table("library", "dtype", "pairs/s", "memory over weights", title=title or results.get("shape"))
    for row in results["rows"]:
        memory = "" if row["extra_bytes"] is None else f"{row['extra_bytes'] / 2**20:,.0f} MiB"
        shown.add_row(row["name"], row["dtype"], f"{row['pairs_per_second']:.2f}", memory)
    return shown


def plot(results: dict[str, Any], file: Path) -> None:
    """Bars of pairs per second, and cost against candidates and document length, as PNG."""
    pyplot = require("matplotlib.pyplot", "eval")
    figure, (bars, candidates, lengths) = pyplot.subplots(1, 3, figsize=(15, 4.2))
    rows = results["rows"][::-1]
    colours = ["#3b6ea5" if row["library"] == "prorank" else "#b0b0b0" for row in rows]
    bars.barh([row["name"] for row in rows], [row["pairs_per_second"] for row in rows], color=colours)
    bars.set_xlabel("pairs per second")
    bars.set_title(f"{results['shape']}, {results['collection']}")
    curves = ((candidates, "candidates", "candidates of 64 tokens"), (lengths, "lengths", "tokens, 8 documents"))
    for axis, key, label in curves:
        points = np.array(results["scaling"][key])
        axis.loglog(points[:, 0], points[:, 1], "o-", color="#3b6ea5", label="measured")
        axis.loglog(points[:, 0], points[-1, 1] * points[:, 0] / points[-1, 0], ":", color="gray", label="linear")
        axis.set_xlabel(label)
        axis.set_ylabel("seconds per query")
        axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def save(results: dict[str, Any], file: Path) -> None:
    """Write JSON, and the plot beside it."""
    write_json(file, results)
    plot(results, file.with_suffix(".png"))
