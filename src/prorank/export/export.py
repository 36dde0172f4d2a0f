"""Write a checkpoint for another runtime, read it back, compare, and keep it only if the scores agree."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from prorank.export.check import INT8_ROWWISE_TOLERANCE, PROBES, expected_scores
from prorank.export.classifier import to_sequence_classification
from prorank.export.graph import to_graph
from prorank.export.sentence_transformers import to_sentence_transformers
from prorank.model.backbone import Backbone
from prorank.model.int8_rowwise import INT8_ROWWISE_FILE, save_int8_rowwise
from prorank.reranker import Reranker
from prorank.util.errors import CheckpointError
from prorank.util.files import refuse_overwrite

Target = Literal["sentence-transformers", "sequence-classification", "onnx", "openvino", "int8-rowwise"]


def export(reranker: Reranker, target: Target, folder: str | Path, *, int8: bool = False, force: bool = False) -> Path:
    """Write a reranker for another runtime, and check that its scores there are the same.

    Args:
        reranker: a causal or masked reranker, loaded in fp32 on the CPU.
        target: `sentence-transformers` (a CrossEncoder folder) and `sequence-classification` (one label) for causal
            models; `onnx` and `openvino` (a graph to the answers' logits, loaded by `Reranker.from_pretrained`) for
            both families; `int8-rowwise` (a checkpoint with 8-bit rows, a quarter of float32's size) for both too.
        folder: where to write.
        int8: 8-bit weights; `onnx` and `openvino` only. Scores then differ a little; ranks hardly.
        force: replace what is in the folder.

    Returns:
        The folder.

    Raises:
        CheckpointError: this model cannot be written so, or would score otherwise.
        MissingExtraError: the runtime is not installed.
    """
    folder = Path(folder)
    if int8 and target not in ("onnx", "openvino"):
        raise CheckpointError(f"int8 is for onnx and openvino, not for {target}")
    if not isinstance(reranker.backend, Backbone):
        raise CheckpointError("this is an export already", hint="export from the checkpoint it was made from")
    backbone, tokenizer = reranker.backbone, reranker.pair_tokenizer
    if backbone.device.type != "cpu" or backbone.compute_dtype != torch.float32:
        raise CheckpointError("export needs the model in fp32 on the CPU", hint='precision="fp32", device="cpu"')
    if backbone.has_lora:
        raise CheckpointError("the model has LoRA adapters attached", hint="save the checkpoint and export that")
    if Path(str(backbone.config._name_or_path)).resolve() == folder.resolve():
        raise CheckpointError(f"{folder} is the model's own folder", hint="export to another one")
    refuse_overwrite(folder, force)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as place:
        fresh = Path(place) / "export"
        if target == "sentence-transformers":
            to_sentence_transformers(reranker, fresh)
        elif target == "sequence-classification":
            to_sequence_classification(reranker, backbone, fresh)
        elif target == "int8-rowwise":
            _to_int8_rowwise(reranker, backbone, fresh)
        else:
            to_graph(reranker, backbone, tokenizer, target, fresh, int8)
        if folder.exists():  # only now, with the new one whole and verified
            folder.rename(Path(place) / "old")
        fresh.rename(folder)
    return folder


def _to_int8_rowwise(reranker: Reranker, backbone: Backbone, folder: Path) -> None:
    """A checkpoint whose matrices are stored in 8 bits by rows; read back it gives nearly the same scores."""
    reranker.save_pretrained(folder)
    for file in folder.glob("model*.safetensors*"):
        file.unlink()
    save_int8_rowwise(dict(backbone.model.named_parameters()), folder / INT8_ROWWISE_FILE)
    again = Reranker.from_pretrained(folder, precision="fp32", device="cpu")
    found, expected = again.score(PROBES), expected_scores(reranker)
    spread = float(np.ptp(expected))
    if not float(np.abs(np.asarray(found) - expected).max()) <= INT8_ROWWISE_TOLERANCE * max(spread, 1.0):
        raise CheckpointError("8-bit rows give other scores", hint="keep the checkpoint as it is")
