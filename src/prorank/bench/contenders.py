"""Who is measured at which shape: models, exports and the environments that peers bring. Knows nothing of time."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from rich.console import Console

from prorank.bench import models
from prorank.bench.gguf_file import write_gguf
from prorank.data.collection import Collection
from prorank.data.splits import with_splits
from prorank.export.activations import calibration_pairs
from prorank.export.export import export
from prorank.model.device import fast_bf16
from prorank.reranker import Reranker
from prorank.shipped import MINI
from prorank.util.errors import ProrankError

Shape = Literal["minilm", "smollm2-135m", "qwen2.5-0.5b"]
MAX_LENGTH = {"minilm": 512, "smollm2-135m": 8_192, "qwen2.5-0.5b": 8_192}
# Libraries that get an environment of their own: what pip installs, and what it is told.
PEERS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "mxbai-rerank": (("mxbai-rerank==0.1.6", "transformers>=4.49,<5", "torch"), {}),
    "llama.cpp": (("llama-cpp-python==0.3.36",), {"CMAKE_ARGS": "-DGGML_NATIVE=ON"}),
    "flashrank": (("flashrank==0.2.10",), {}),
}


class Contender(NamedTuple):
    """One row of the comparison.

    `more` goes to the worker as it stands: llama.cpp gets token ids in place of texts.
    """

    name: str
    library: str
    folder: Path
    dtype: str
    pairs: list[tuple[str, str]]
    python: str = sys.executable
    more: dict[str, Any] | None = None


def peer_python(library: str, work: Path, console: Console) -> str:
    """An interpreter with a peer's library, made once in the work folder.

    Raises:
        ProrankError: pip could not install it.
    """
    packages, settings = PEERS[library]
    folder = work / f"{library}-venv"
    python = folder / "bin" / "python"
    if not (folder / ".complete").is_file():
        pinned = f"torch=={torch.__version__.partition('+')[0]}"
        command = [str(python), "-m", "pip", "install", "--quiet", *(pinned if p == "torch" else p for p in packages)]
        with console.status(f"installing {packages[0]} in {folder}"):
            venv.EnvBuilder(with_pip=True, clear=True).create(folder)
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ | settings)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            raise ProrankError(f"cannot install {packages[0]}: {last}", hint=f"leave it out: --without {library}")
        (folder / ".complete").touch()
    return str(python)


def fast_dtype() -> str:
    """The type in which both sides of a causal comparison run."""
    return "bfloat16" if fast_bf16(torch.device("cpu")) or torch.cuda.is_available() else "float32"


def causal_contenders(
    shape: Shape, place: Path, collection: Collection, short: Collection, pairs: int, peers: dict[str, str]
) -> tuple[list[Contender], list[Contender]]:
    """(timed, agreement) contenders at a causal shape; the second run few pairs.

    Args:
        shape: `smollm2-135m` or `qwen2.5-0.5b`.
        place: folder for models.
        collection: of the pairs.
        short: of the pairs for the instruction-first layout.
        pairs: how many each scores.
        peers: interpreter of each library that needs its own; those that are not here are left out.
    """
    texts = [document.content for document in collection.documents.values()]
    base = models.make_causal(place / "base", shape, texts)
    length = MAX_LENGTH[shape]
    ours = models.checkpoint(base, place / "prorank", "prorank", length)
    first = models.checkpoint(base, place / "instruction-first", "instruction-first", length)
    reranker = _load(ours)
    theirs = export(reranker, "sentence-transformers", place / "st")
    theirs_first = export(_load(first), "sentence-transformers", place / "st-instruction-first")
    openvino = export(reranker, "openvino", place / "openvino")
    eight_bits = export(reranker, "openvino", place / "openvino-int8", int8=True)
    long = models.first_stage_pairs(collection, 100, pairs)
    brief = models.first_stage_pairs(short, 100, pairs)
    few, same = [*long[:4], *long[-4:]], fast_dtype()
    timed = [
        Contender("prorank", "prorank", ours, same, long),
        Contender("sentence-transformers", "sentence-transformers", theirs, same, long),
        Contender("prorank (OpenVINO)", "prorank", openvino, "default", long),
        Contender("prorank (int8, OpenVINO)", "prorank", eight_bits, "default", long),
        Contender("prorank (instruction-first, short)", "prorank", first, same, brief),
        Contender(
            "sentence-transformers (instruction-first, short)", "sentence-transformers", theirs_first, same, brief
        ),
    ]
    agreement = [
        Contender("prorank, fp32", "prorank", ours, "float32", few),
        Contender("sentence-transformers, fp32", "sentence-transformers", theirs, "float32", few),
    ]
    if python := peers.get("mxbai-rerank"):
        timed += [
            Contender("mxbai-rerank", "mxbai-rerank", ours, same, long, python),
            Contender("mxbai-rerank (defaults)", "mxbai-rerank", ours, "default", long, python),
        ]
        agreement.append(Contender("mxbai-rerank, fp32", "mxbai-rerank", ours, "float32", few, python))
    if python := peers.get("llama.cpp"):
        file = write_gguf(ours, place / "q8_0.gguf")
        timed.append(Contender("llama.cpp (Q8_0)", "llama.cpp", file, "q8_0", long, python, _ids(reranker, long)))
        agreement.append(Contender("llama.cpp, Q8_0", "llama.cpp", file, "q8_0", few, python, _ids(reranker, few)))
    return timed, agreement


def _ids(reranker: Reranker, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    sequences, _ = reranker.tokenizer.encode(pairs)
    return {"sequences": sequences, "answers": reranker.settings.answer_ids}


def minilm_contenders(
    place: Path, collection: Collection, pairs: int, peers: dict[str, str]
) -> tuple[list[Contender], list[Contender]]:
    """(timed, agreement) contenders at the MiniLM shape; as `causal_contenders`."""
    classifier = models.make_cross_encoder(place / "classifier")
    masked = models.checkpoint("embedded", place / "prorank", "prorank-short", MAX_LENGTH["minilm"])
    onnx = export(_load(masked), "onnx", place / "onnx", int8=True)
    openvino = export(_load(masked), "openvino", place / "openvino", int8=True)
    ranges = calibration_pairs(with_splits(collection))
    trained = Reranker(MINI, max_length=MAX_LENGTH["minilm"], precision="fp32", device="cpu")  # the same shape
    both = export(trained, "openvino", place / "activations", int8=True, calibration=ranges)  # refuses untrained ones
    chosen = models.first_stage_pairs(collection, 100, pairs)
    timed = [
        Contender("prorank", "prorank", classifier, "float32", chosen),
        Contender("sentence-transformers", "sentence-transformers", classifier, "float32", chosen),
        Contender("prorank (defaults)", "prorank", classifier, "default", chosen),
        Contender("prorank (int8, OpenVINO)", "prorank", openvino, "default", chosen),
        Contender("prorank (int8 with activations, OpenVINO)", "prorank", both, "default", chosen),
        Contender("prorank (int8, ONNX)", "prorank", onnx, "default", chosen),
    ]
    few = [*chosen[:16], *chosen[-16:]]
    agreement = [
        Contender("prorank, fp32", "prorank", classifier, "float32", few),
        Contender("sentence-transformers, fp32", "sentence-transformers", classifier, "float32", few),
    ]
    if python := peers.get("flashrank"):
        for dtype in ("float32", "int8"):
            folder = models.make_flashrank(classifier, place / f"flashrank-{dtype}", int8=dtype == "int8")
            timed.append(Contender(f"flashrank ({dtype})", "flashrank", folder, dtype, chosen, python))
            if dtype == "float32":
                agreement.append(Contender("flashrank, fp32", "flashrank", folder, dtype, few, python))
    return timed, agreement


def _load(folder: Path) -> Reranker:
    return Reranker.from_pretrained(folder, precision="fp32", device="cpu")
