"""Inference beside other libraries: same weights, same pairs, one process after another in one run.

Every contender runs in a process of its own (`worker.py`), so that memory is its own and the ProRank authors'
library can bring the older transformers it needs. Ratios are of seconds: peer over prorank, above 1 is faster.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from prorank.bench import models, worker
from prorank.bench.alone import measured_alone
from prorank.data.collection import Collection, load_collection
from prorank.export.export import export
from prorank.model.device import fast_bf16
from prorank.reranker import Reranker
from prorank.util.errors import ProrankError, require
from prorank.util.files import write_json
from prorank.util.provenance import hardware, versions

Shape = Literal["minilm", "qwen2.5-0.5b"]
PEER_PACKAGES = ("mxbai-rerank==0.1.6", "transformers>=4.49,<5")
MAX_LENGTH = {"minilm": 512, "qwen2.5-0.5b": 8_192}
CANDIDATES = (10, 30, 100, 300, 1_000)
LENGTHS = (64, 128, 256, 512, 1_024, 2_048, 4_096)


class Contender(NamedTuple):
    """One row of the comparison."""

    name: str
    library: str
    folder: Path
    dtype: str
    pairs: list[tuple[str, str]]
    python: str = sys.executable


def measure(contender: Contender, device: str, repeats: int, console: Console) -> dict[str, Any]:
    """Run one contender in its own process.

    Returns:
        Its name, library, dtype, best seconds, pairs a second, memory over the weights, scores and versions.

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
    }
    with console.status(f"{contender.name} ({len(contender.pairs)} pairs)"):
        command = [contender.python, str(Path(worker.__file__))]
        found = measured_alone(command, spec, f"benchmark of {contender.name}")
    best = min(found["seconds"])
    row = {"name": contender.name, "library": contender.library, "dtype": contender.dtype}
    row |= {"seconds": best, "pairs_per_second": len(contender.pairs) / best}
    console.print(f"{contender.name}: {row['pairs_per_second']:.2f} pairs/s")
    return row | {key: found[key] for key in ("extra_bytes", "scores", "versions")}


def peer_python(folder: Path, console: Console) -> str:
    """An interpreter with the ProRank authors' library, made once in `folder`.

    Raises:
        ProrankError: pip could not install it.
    """
    python = folder / "bin" / "python"
    if not (folder / ".complete").is_file():
        with console.status(f"installing {PEER_PACKAGES[0]} and an older transformers in {folder}"):
            venv.EnvBuilder(with_pip=True, clear=True).create(folder)
            torch_version = torch.__version__.partition("+")[0]
            command = [str(python), "-m", "pip", "install", "--quiet", f"torch=={torch_version}", *PEER_PACKAGES]
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise ProrankError(
                f"cannot install {PEER_PACKAGES[0]}: {(done.stderr.strip().splitlines() or ['pip failed'])[-1]}",
                hint="give an interpreter that has it: --peer-python",
            )
        (folder / ".complete").touch()
    return str(python)


def qwen_contenders(
    work: Path, collection: Collection, short: Collection, pairs: int, peer: str
) -> tuple[list[Contender], list[Contender]]:
    """(timed, agreement) contenders at the Qwen2.5-0.5B shape; the second run few pairs in fp32."""
    texts = [document.content for document in collection.documents.values()]
    base = models.make_qwen(work / "qwen", texts)
    length = MAX_LENGTH["qwen2.5-0.5b"]
    ours = models.checkpoint(base, work / "prorank", "prorank", length)
    first = models.checkpoint(base, work / "instruction-first", "instruction-first", length)
    theirs = export(_load(ours), "sentence-transformers", work / "st")
    theirs_first = export(_load(first), "sentence-transformers", work / "st-instruction-first")
    long = models.first_stage_pairs(collection, 100, pairs)
    brief = models.first_stage_pairs(short, 100, pairs)
    same = "bfloat16" if fast_bf16(torch.device("cpu")) or torch.cuda.is_available() else "float32"
    timed = [
        Contender("prorank", "prorank", ours, same, long),
        Contender("mxbai-rerank", "mxbai-rerank", ours, same, long, peer),
        Contender("mxbai-rerank (defaults)", "mxbai-rerank", ours, "default", long, peer),
        Contender("sentence-transformers", "sentence-transformers", theirs, same, long),
        Contender("prorank (instruction-first, short)", "prorank", first, same, brief),
        Contender(
            "sentence-transformers (instruction-first, short)", "sentence-transformers", theirs_first, same, brief
        ),
    ]
    few = [*long[:4], *long[-4:]]
    agreement = [
        Contender("prorank, fp32", "prorank", ours, "float32", few),
        Contender("mxbai-rerank, fp32", "mxbai-rerank", ours, "float32", few, peer),
        Contender("sentence-transformers, fp32", "sentence-transformers", theirs, "float32", few),
    ]
    return timed, agreement


def minilm_contenders(work: Path, collection: Collection, pairs: int) -> tuple[list[Contender], list[Contender]]:
    """(timed, agreement) contenders at the MiniLM shape."""
    classifier = models.make_cross_encoder(work / "classifier")
    masked = models.checkpoint("embedded", work / "prorank", "prorank-short", MAX_LENGTH["minilm"])
    onnx = export(_load(masked), "onnx", work / "onnx", int8=True)
    openvino = export(_load(masked), "openvino", work / "openvino", int8=True)
    chosen = models.first_stage_pairs(collection, 100, pairs)
    timed = [
        Contender("prorank", "prorank", classifier, "float32", chosen),
        Contender("sentence-transformers", "sentence-transformers", classifier, "float32", chosen),
        Contender("prorank (defaults)", "prorank", classifier, "default", chosen),
        Contender("prorank (int8, OpenVINO)", "prorank", openvino, "default", chosen),
        Contender("prorank (int8, ONNX)", "prorank", onnx, "default", chosen),
    ]
    few = [*chosen[:16], *chosen[-16:]]
    agreement = [
        Contender("prorank, fp32", "prorank", classifier, "float32", few),
        Contender("sentence-transformers, fp32", "sentence-transformers", classifier, "float32", few),
    ]
    return timed, agreement


def _load(folder: Path) -> Reranker:
    return Reranker.from_pretrained(folder, precision="fp32", device="cpu")


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
    "sentence-transformers-int8": ("sentence-transformers (defaults)", "prorank (int8, OpenVINO)"),
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
    """Largest difference between the first row's scores and any other's."""
    first = np.array(rows[0]["scores"])
    return max(float(np.abs(np.array(row["scores"]) - first).max()) for row in rows[1:])


def scaling(reranker: Reranker, seconds_budget: float = 60.0) -> dict[str, list[list[float]]]:
    """Seconds against candidates of 64 tokens, and against the length of 8 documents (by passages where too long).

    A point that would go beyond the budget, judged by the one before, is left out.

    Returns:
        `candidates` and `lengths`: [[x, seconds], ...].
    """
    import time

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


def matmul_rate(device: str) -> float:
    """Measured bf16 matrix-product rate of the device, in operations a second: the ceiling for the engine."""
    import time

    size = 8_192 if device == "cuda" else 2_048
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    best = 0.0
    for _ in range(8):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(4):
            a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 4 * 2 * size**3 / (time.perf_counter() - start))
    return best


def achieved_rate(row: dict[str, Any], reranker: Reranker, pairs: Sequence[tuple[str, str]]) -> float:
    """Operations a second of the layers' matrix products, as if every pair's tokens were computed."""
    sequences, _ = reranker.tokenizer.encode(pairs)
    base = reranker.backbone.core.base_model
    embeddings = reranker.backbone.core.get_input_embeddings().weight.numel()
    weights = sum(parameter.numel() for parameter in base.parameters()) - embeddings
    return 2.0 * weights * sum(map(len, sequences)) / float(row["seconds"])


def run_inference_bench(
    shape: Shape,
    collection: str,
    short_collection: str,
    work: Path,
    *,
    pairs: int,
    repeats: int,
    peer_interpreter: str | None,
    console: Console,
) -> dict[str, Any]:
    """The whole comparison at one shape.

    Args:
        shape: which published shape.
        collection: pairs come from BM25's top 100 of its first test queries.
        short_collection: short documents, for the instruction-first layout.
        work: folder for models and the authors' library.
        pairs: pairs scored by each contender.
        repeats: times each contender scores them; the best counts.
        peer_interpreter: a Python with mxbai-rerank, or None to make one in `work`.
        console: where progress goes.

    Returns:
        `ratios` and `memory_ratio` by peer, `max_score_difference`, `rows`, `scaling`, and the same for CUDA under
        `cuda` (None where there is none).
    """
    require("sentence_transformers", "bench")
    loaded = load_collection(collection)
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        place = Path(folder)
        if shape == "minilm":
            timed, agreement = minilm_contenders(place, loaded, pairs)
        else:
            peer = peer_interpreter or peer_python(work / "mxbai-venv", console)
            timed, agreement = qwen_contenders(place, loaded, load_collection(short_collection), pairs, peer)
        results: dict[str, Any] = {"shape": shape, "collection": loaded.name, "pairs": pairs, "repeats": repeats}
        for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
            rows = [measure(contender, device, repeats, console) for contender in timed]
            rows += [row | {"name": f"{row['name']} (defaults)"} for row in rows if _is_default(row, rows, device)]
            agreeing = [measure(contender, device, 1, console) for contender in agreement]
            reranker = Reranker.from_pretrained(timed[0].folder, device=device, passages="max")
            found: dict[str, Any] = {
                "ratios": ratios(rows),
                "memory_ratio": ratios(rows, "extra_bytes"),
                "max_score_difference": difference(agreeing),
                "rows": [{k: v for k, v in row.items() if k != "scores"} for row in rows],
                "scaling": scaling(reranker),
            }
            if fast_bf16(torch.device(device)):
                peak = matmul_rate(device)
                found["bf16_matmul_per_second"] = peak
                ours = rows[0] if rows[0]["dtype"] == "bfloat16" else rows[2]
                found["bf16_share"] = achieved_rate(ours, reranker, timed[0].pairs) / peak
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
    """Bars of pairs a second, and cost against candidates and document length, as PNG."""
    pyplot = require("matplotlib.pyplot", "eval")
    figure, (bars, candidates, lengths) = pyplot.subplots(1, 3, figsize=(15, 4.2))
    rows = results["rows"][::-1]
    colours = ["#3b6ea5" if row["library"] == "prorank" else "#b0b0b0" for row in rows]
    bars.barh([row["name"] for row in rows], [row["pairs_per_second"] for row in rows], color=colours)
    bars.set_xlabel("pairs a second")
    bars.set_title(f"{results['shape']}, {results['collection']}")
    curves = ((candidates, "candidates", "candidates of 64 tokens"), (lengths, "lengths", "tokens, 8 documents"))
    for axis, key, label in curves:
        points = np.array(results["scaling"][key])
        axis.loglog(points[:, 0], points[:, 1], "o-", color="#3b6ea5", label="measured")
        axis.loglog(points[:, 0], points[-1, 1] * points[:, 0] / points[-1, 0], ":", color="gray", label="linear")
        axis.set_xlabel(label)
        axis.set_ylabel("seconds a query")
        axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def save(results: dict[str, Any], file: Path) -> None:
    """Write JSON, and the plot beside it."""
    write_json(file, results)
    plot(results, file.with_suffix(".png"))
