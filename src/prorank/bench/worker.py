"""One contender of the inference benchmark, alone in a process: load, warm up, score, report time and memory.

Run as a file by any interpreter that has the contender's library: `python worker.py SPEC.json RESULT.json`. So it
imports nothing but what its contender needs. The specification names the contender, folder, dtype, device, threads,
repeats, and the pairs; the result holds scores, seconds, memory over the weights, and versions.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from itertools import takewhile
from typing import Any

Pairs = list[tuple[str, str]]
Score = Callable[[Pairs], list[float]]


def places_by_query(pairs: Pairs) -> dict[str, list[int]]:
    """Where each query's pairs stand."""
    found: dict[str, list[int]] = {}
    for i, (query, _) in enumerate(pairs):
        found.setdefault(query, []).append(i)
    return found


def mxbai(spec: dict[str, Any]) -> Score:
    """The ProRank authors' library, a query's documents at a time as its `rank` wants them."""
    import torch
    from mxbai_rerank import MxbaiRerankV2

    model = MxbaiRerankV2(spec["folder"], device=spec["device"], disable_transformers_warnings=True)
    if spec["dtype"] != "default":  # the library itself turns half precision off on CPUs
        model.model.to(getattr(torch, spec["dtype"]))

    def score(pairs: Pairs) -> list[float]:
        scores = [0.0] * len(pairs)
        for query, places in places_by_query(pairs).items():
            documents = [pairs[i][1] for i in places]
            for result in model.rank(query, documents, top_k=len(documents), return_documents=False):
                scores[places[result.index]] = result.score
        return scores

    return score


def sentence_transformers(spec: dict[str, Any]) -> Score:
    """sentence-transformers' CrossEncoder."""
    import torch
    from sentence_transformers import CrossEncoder

    dtype = {} if spec["dtype"] == "default" else {"model_kwargs": {"dtype": getattr(torch, spec["dtype"])}}
    model = CrossEncoder(spec["folder"], device=spec["device"], **dtype)

    def score(pairs: Pairs) -> list[float]:
        return [float(x) for x in model.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False)]

    return score


def prorank(spec: dict[str, Any]) -> Score:
    """prorank's Reranker."""
    from prorank import Reranker

    precision: Any = {"default": "auto", "float32": "fp32", "bfloat16": "bf16"}[spec["dtype"]]
    model = Reranker.from_pretrained(
        spec["folder"], device=spec["device"], precision=precision, compile_layers=spec.get("compile", False)
    )
    return model.score


def llama_cpp(spec: dict[str, Any]) -> Score:
    """llama.cpp on a GGUF file: token ids as they are given, tokens shared with the pair before computed once."""
    import llama_cpp as library
    import numpy as np

    given = dict(zip(map(tuple, spec["pairs"]), spec["sequences"]))
    room = max(map(len, spec["sequences"]))
    model = library.Llama(
        spec["folder"],
        n_ctx=room,
        n_batch=room,
        n_ubatch=min(room, 512),
        n_threads=spec["threads"],
        n_threads_batch=spec["threads"],
        verbose=False,
    )
    no, yes = spec["answers"]

    def score(pairs: Pairs) -> list[float]:
        scores: list[float] = []
        before: list[int] = []
        for pair in pairs:
            ids = given[pair]
            shared = sum(1 for _ in takewhile(lambda two: two[0] == two[1], zip(before, ids)))
            model.n_tokens = min(shared, len(ids) - 1)  # the last is computed in any case: its logits are asked for
            model.eval(ids[model.n_tokens :])
            logits = np.ctypeslib.as_array(library.llama_get_logits_ith(model.ctx, -1), shape=(model.n_vocab(),))
            scores.append(float(logits[yes] - logits[no]))
            before = ids
        return scores

    return score


def flashrank(spec: dict[str, Any]) -> Score:
    """FlashRank, a query's documents at a time as its `rerank` wants them; its probabilities as logits again."""
    from math import log
    from pathlib import Path

    from flashrank import Ranker, RerankRequest

    folder = Path(spec["folder"])
    model = Ranker(model_name=folder.name, cache_dir=str(folder.parent), max_length=512)

    def score(pairs: Pairs) -> list[float]:
        scores = [0.0] * len(pairs)
        for query, places in places_by_query(pairs).items():
            passages = [{"id": i, "text": pairs[i][1]} for i in places]
            for passage in model.rerank(RerankRequest(query=query, passages=passages)):
                chance = float(passage["score"])
                scores[passage["id"]] = log(chance / (1 - chance))
        return scores

    return score


CONTENDERS = {
    "mxbai-rerank": mxbai,
    "sentence-transformers": sentence_transformers,
    "prorank": prorank,
    "llama.cpp": llama_cpp,
    "flashrank": flashrank,
}


class Memory:
    """Bytes that a process takes beyond what it held at the start: on the GPU, or resident on Linux."""

    def __init__(self, device: str) -> None:
        self.cuda: Any = None
        if device.startswith("cuda"):
            import torch

            self.cuda = torch.cuda
            self.cuda.reset_peak_memory_stats()
            self.start = self.cuda.memory_allocated()
            return
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # give back what loading has freed
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")  # sets the peak back to what is resident now
        except OSError:
            pass
        self.start = self._status("VmRSS")

    @staticmethod
    def _status(field: str) -> int | None:
        try:
            with open("/proc/self/status") as file:
                return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field + ":"))
        except OSError:
            return None

    def peak(self) -> int | None:
        """Bytes above the start at the highest point since then; None where the system does not tell."""
        if self.cuda is not None:
            return int(self.cuda.max_memory_allocated() - self.start)
        top = self._status("VmHWM")
        return None if top is None or self.start is None else top - self.start


def _set_up_torch(spec: dict[str, Any]) -> Callable[[], Any]:
    """Set the threads of a contender that uses torch; returns what waits until its device is idle."""
    if spec["contender"] in ("llama.cpp", "flashrank"):
        return lambda: None
    import torch

    torch.set_num_threads(spec["threads"])
    return torch.cuda.synchronize if spec["device"].startswith("cuda") else lambda: None


def main(spec_file: str, result_file: str) -> None:
    """Measure one contender."""
    with open(spec_file, encoding="utf-8") as file:
        spec = json.load(file)
    wait = _set_up_torch(spec)
    pairs = [(query, document) for query, document in spec["pairs"]]
    score = CONTENDERS[spec["contender"]](spec)
    score(pairs[: spec["warmup"]])  # also brings weights that are mapped from a file into memory
    memory = Memory(spec["device"])
    seconds, scores = [], []
    for _ in range(spec["repeats"]):
        wait()
        start = time.perf_counter()
        scores = score(pairs)
        seconds.append(time.perf_counter() - start)
    packages = ["torch", "transformers", "sentence-transformers", "mxbai-rerank", "prorank"]
    packages += ["llama-cpp-python", "flashrank", "onnxruntime"]
    found = {p.metadata["Name"].lower(): p.version for p in importlib.metadata.distributions() if p.metadata["Name"]}
    result = {
        "scores": scores,
        "seconds": seconds,
        "extra_bytes": memory.peak(),
        "versions": {name: found[name] for name in packages if name in found},
    }
    with open(result_file, "w", encoding="utf-8") as file:
        json.dump(result, file)


if __name__ == "__main__":
    sys.path.pop(0)  # this file's folder: its `profile.py` would stand in for Python's
    main(*sys.argv[1:])
