"""Exported checkpoints: ONNX Runtime and OpenVINO as a backend of the engine.

An export holds one graph, (input_ids, attention_mask) -> answer logits (B, K), beside the tokenizer and
`prorank.json`. This module runs such graphs; it knows nothing of prompts, scores or how they were made.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prorank.model.backbone import first_position
from prorank.model.device import resolve_device
from prorank.model.packing import Pack
from prorank.model.sharing import ModelLock
from prorank.model.weights import load_tokenizer, reading
from prorank.prompts.tokenization import Batch
from prorank.types import Family, Precision
from prorank.util.errors import CheckpointError, require

ONNX_FILE, OPENVINO_FILE = "model.onnx", "openvino_model.xml"
INT8_GROUP = 128  # at most so many activations share a scale beside 8-bit weights (OpenVINO; docs/log.md compares)
LEAST_GROUP = 32  # the smallest that was tried; of fewer than 16 OpenVINO makes no groups
Graph = Callable[[np.ndarray, np.ndarray], np.ndarray]  # any number of threads may call it


def is_exported(folder: str | Path) -> bool:
    """Whether a folder holds an exported graph."""
    return any((Path(folder) / name).is_file() for name in (ONNX_FILE, OPENVINO_FILE))


def onnx_graph(file: Path) -> Graph:
    """A graph run by ONNX Runtime on the CPU, with as many threads as torch uses."""
    runtime = require("onnxruntime", "export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda ids, mask: session.run(None, {"input_ids": ids, "attention_mask": mask})[0]


def activation_group(config: Any) -> int:
    """How many activations share a scale: a power of two that divides the model's width, where one is large enough.

    >>> from types import SimpleNamespace as Config
    >>> [activation_group(Config(hidden_size=width)) for width in (384, 576, 312)]
    [128, 64, 128]
    """
    group = math.gcd(INT8_GROUP, getattr(config, "hidden_size", INT8_GROUP))
    return group if group >= LEAST_GROUP else INT8_GROUP


def openvino_graph(file: Path, config: Any, precision: str = "auto") -> Graph:
    """A graph run by OpenVINO on the CPU; `fp32` keeps it from computing in bf16 where that is fast."""
    openvino = require("openvino", "export")
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": activation_group(config),
    }
    if precision == "fp32":
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(str(file)), "CPU", settings)
    own = threading.local()  # a request holds its inputs and outputs: each thread has one of its own

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        logits: np.ndarray = own.request.infer({"input_ids": ids, "attention_mask": mask})[0]
        return logits.copy()

    return run


def scores_only(path_or_name: str | Path, *, device: str, compile_layers: bool, for_training: bool) -> None:
    """Refuse what an exported graph cannot do.

    Raises:
        CheckpointError: training, compiled layers, or another device than the CPU.
    """
    if for_training:
        raise CheckpointError(f"{path_or_name} is an export: it can score, but not be trained")
    if compile_layers:
        raise CheckpointError(f"{path_or_name} is an export without layers", hint="leave out `compile_layers`")
    if device != "auto" and resolve_device(device).type != "cpu":
        raise CheckpointError(
            f"{path_or_name} is an export: it runs on the CPU, not on '{device}'", hint="leave out `device`"
        )


class RuntimeBackend:
    """A `ScorerBackend` that runs an exported graph: it scores, and does nothing else.

    Threads run it side by side. A copied or unpickled one opens the graph in its folder again.

    Args:
        folder: what `prorank export --to onnx` or `openvino` wrote.
        family: of the model that was exported.
        precision: `auto` or `fp32`.
        built_in: ids that every sequence must begin with, since the graph has their keys and values; None for none.

    Raises:
        CheckpointError: bf16 was asked for (a graph has the precision it was written with), or a damaged file.
    """

    supports_packing = False  # the graph takes padded batches
    compute_dtype = torch.float32
    device = torch.device("cpu")

    def __init__(
        self, folder: str | Path, family: Family, precision: Precision = "auto", built_in: list[int] | None = None
    ) -> None:
        from transformers import AutoConfig

        folder = Path(folder).resolve()
        if precision == "bf16":
            raise CheckpointError(f"{folder} is an exported graph", hint="use precision auto or fp32")
        self.tokenizer, self.family = load_tokenizer(folder), family
        self.token_budget: int | None = None
        self.lock = ModelLock()
        with reading(folder / "config.json"):
            self.config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        onnx, openvino = folder / ONNX_FILE, folder / OPENVINO_FILE
        with reading(onnx if onnx.is_file() else openvino):
            self.graph = onnx_graph(onnx) if onnx.is_file() else openvino_graph(openvino, self.config, precision)
        self.built_in = torch.tensor(built_in or [], dtype=torch.long)
        self.opened_as = folder, family, precision, built_in

    def __reduce__(self) -> Any:
        return _opened_again, (*self.opened_as, self.token_budget)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Graphs have no modes, and take any number of threads; only a forked process is refused."""
        self.lock.check_process()
        yield

    @property
    def position_offset(self) -> int:
        """The position of a sequence's first token, which the graph counts itself."""
        return first_position(self.config)

    def read(self, work: Pack | Batch, rows: Sequence[int] | None) -> torch.Tensor:
        """Answer logits (B, K), float32; the graph knows slot and answers.

        Raises:
            CheckpointError: a sequence does not begin with what is built in.
        """
        assert isinstance(work, Batch)
        begun = work.input_ids[:, : len(self.built_in)]
        if begun.shape[1] < len(self.built_in) or bool((begun != self.built_in).any()):
            raise CheckpointError(
                f"{self.opened_as[0]} has another beginning of the prompt built in than the texts come with",
                hint="export again from a checkpoint with this prompt, frame and tokenizer",
            )
        self.lock.check_process()
        logits = self.graph(work.input_ids.numpy(), work.attention_mask.numpy())
        return torch.from_numpy(np.asarray(logits, dtype=np.float32))


def _opened_again(
    folder: Path, family: Family, precision: Precision, built_in: list[int] | None, token_budget: int | None
) -> RuntimeBackend:
    """What a copy or a pickle of a graph becomes.

    Raises:
        CheckpointError: the folder is not there any more.
    """
    if not is_exported(folder):
        raise CheckpointError(
            f"{folder} holds no exported graph any more; a pickled reranker reads it from there",
            hint="pickle the folder's path, and load a Reranker from it where it is used",
        )
    backend = RuntimeBackend(folder, family, precision, built_in)
    backend.token_budget = token_budget
    return backend
