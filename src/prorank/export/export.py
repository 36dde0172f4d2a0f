"""Write a checkpoint for another runtime, read it back, compare, and keep it only if the scores agree."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch

from prorank.export.activations import checked_calibration
from prorank.export.check import as_it_was, save_without_weights
from prorank.export.classifier import to_sequence_classification
from prorank.export.graph import to_graph
from prorank.export.low_rank import named_base, to_low_rank
from prorank.export.sentence_transformers import to_sentence_transformers
from prorank.model.backbone import Backbone
from prorank.model.int8_rowwise import INT8_ROWWISE_FILE, save_int8_rowwise
from prorank.model.saved_files import refuse_model_overwrite
from prorank.reranker import Reranker
from prorank.util.errors import CheckpointError
from prorank.util.files import put_in_place

Target = Literal["sentence-transformers", "sequence-classification", "onnx", "openvino", "int8-rowwise", "low-rank"]


def export(
    reranker: Reranker,
    target: Target,
    folder: str | Path,
    *,
    int8: bool = False,
    calibration: Iterable[tuple[str, str]] | None = None,
    base: str | Path | None = None,
    rank: int = 32,
    force: bool = False,
) -> Path:
    """Write a reranker for another runtime, and check that its scores there are the same.

    Args:
        reranker: a causal or masked reranker, loaded in fp32 on the CPU.
        target: `sentence-transformers` (a CrossEncoder folder) and `sequence-classification` (one label) for causal
            models; `onnx` and `openvino` (a graph to the answers' logits, loaded by `Reranker.from_pretrained`) for
            both families; `int8-rowwise` (a checkpoint with 8-bit rows, a quarter of float32's size) and `low-rank`
            (what training changed, loaded on top of the base model) for both too.
        folder: where to write.
        int8: 8-bit weights; `onnx` and `openvino` only. Scores then differ a little; ranks hardly.
        calibration: (query, document) pairs like those to come, 40 or more; int8 for `openvino` then has 8-bit
            activations too, which is faster where the processor has VNNI (`prorank.export.activations`).
        base: of `low-rank`: name or folder of the model that the training began with, as it will be there.
        rank: of `low-rank`; that of the adapters that were trained, or as high as the scores need.
        force: replace an earlier export or checkpoint.

    Returns:
        The folder.

    Raises:
        CheckpointError: this model cannot be written so, or would score otherwise; the folder is no export.
        ProrankError: the folder is taken, or holds files that no export has; they are named.
        InputError, InputTypeError: too few calibration pairs, or what are no pairs.
        MissingExtraError: the runtime is not installed.
    """
    folder = Path(folder)
    if int8 and target not in ("onnx", "openvino"):
        raise CheckpointError(f"int8 is for onnx and openvino, not for {target}")
    if calibration is not None and not (int8 and target == "openvino"):
        raise CheckpointError("calibration pairs are for int8 in openvino", hint="leave them out")
    pairs = [] if calibration is None else checked_calibration(calibration)
    if (target == "low-rank") != (base is not None):
        raise CheckpointError("low-rank needs the base model, and nothing else takes one", hint='base="smollm2-135m"')
    if not isinstance(reranker.backend, Backbone):
        raise CheckpointError("this is an export already", hint="export from the checkpoint it was made from")
    backbone, tokenizer = reranker.backbone, reranker.pair_tokenizer
    if backbone.device.type != "cpu" or backbone.compute_dtype != torch.float32:
        raise CheckpointError("export needs the model in fp32 on the CPU", hint='precision="fp32", device="cpu"')
    if backbone.has_lora:
        raise CheckpointError("the model has LoRA adapters attached", hint="save the checkpoint and export that")
    if Path(str(backbone.config._name_or_path)).resolve() == folder.resolve():
        raise CheckpointError(f"{folder} is the model's own folder", hint="export to another one")
    name = None if base is None else named_base(str(base), folder, reranker.settings.family, rank)
    refuse_model_overwrite(folder, force)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as place:
        fresh = Path(place) / "export"
        if target == "sentence-transformers":
            to_sentence_transformers(reranker, fresh)
        elif target == "sequence-classification":
            to_sequence_classification(reranker, backbone, fresh)
        elif target == "int8-rowwise":
            _to_int8_rowwise(reranker, backbone, fresh)
        elif name is not None:
            to_low_rank(reranker, backbone, fresh, name, rank)
        else:
            to_graph(reranker, backbone, tokenizer, target, fresh, int8, pairs)
        put_in_place(fresh, folder)  # only now, with the new one whole and verified
    return folder


def _to_int8_rowwise(reranker: Reranker, backbone: Backbone, folder: Path) -> None:
    """A checkpoint whose matrices are stored in 8 bits by rows; read back it gives nearly the same scores."""
    save_without_weights(reranker, folder)
    save_int8_rowwise(dict(backbone.model.named_parameters()), folder / INT8_ROWWISE_FILE)
    as_it_was(reranker, folder, "a checkpoint of 8-bit rows", "keep the checkpoint as it is")
