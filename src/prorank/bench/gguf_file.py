"""A Llama or Qwen2 checkpoint as a GGUF file with 8-bit matrices (Q8_0), for llama.cpp. Knows tensors' names only.

The file holds no tokenizer: whoever reads it gives token ids.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from prorank.util.errors import ProrankError, require
from prorank.util.files import read_json

ARCHITECTURES = {"llama": "LLAMA", "qwen2": "QWEN2"}  # transformers' model type -> gguf's name


def write_gguf(folder: Path, file: Path) -> Path:
    """Write a checkpoint's configuration and weights; matrices in Q8_0, vectors in 32 bits.

    Args:
        folder: with `config.json` and `model.safetensors`; matrices have rows of a multiple of 32 numbers.
        file: is written.

    Returns:
        The file.

    Raises:
        ProrankError: another architecture, or a tensor that GGUF has no name for.
    """
    gguf = require("gguf", "gguf")
    config = read_json(folder / "config.json")
    if (kind := config["model_type"]) not in ARCHITECTURES:
        raise ProrankError(f"{folder}: model type '{kind}'", hint=f"GGUF is written of {', '.join(ARCHITECTURES)}")
    architecture = gguf.MODEL_ARCH[ARCHITECTURES[kind]]
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[architecture])
    _describe(writer, config, gguf)
    for name, tensor in load_file(folder / "model.safetensors").items():
        if (known := names.get_name(name, try_suffixes=(".weight", ".bias"))) is None:
            raise ProrankError(f"{folder}: GGUF has no name for the tensor '{name}'")
        if kind == "llama":
            tensor = _interleaved(tensor, name, config)
        values = tensor.to(torch.float32).numpy()
        if values.ndim == 1:
            writer.add_tensor(known, values)
        else:
            q8 = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(known, gguf.quants.quantize(np.ascontiguousarray(values), q8), raw_dtype=q8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _describe(writer: Any, config: dict[str, Any], gguf: Any) -> None:
    """The configuration in GGUF's keys, and that there is no vocabulary but for its size."""
    heads = config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(_rope_base(config))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config["vocab_size"])


def _rope_base(config: dict[str, Any]) -> float:
    """transformers 5 keeps it in `rope_parameters`."""
    return float(config.get("rope_theta") or config["rope_parameters"]["rope_theta"])


def _interleaved(tensor: torch.Tensor, name: str, config: dict[str, Any]) -> torch.Tensor:
    """Queries' and keys' rows in llama.cpp's order for Llama: the two halves of a head's rotation row by row."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    found = next((heads[part] for part in heads if f".{part}." in name), None)
    if found is None:
        return tensor
    rows, *rest = tensor.shape
    return tensor.reshape(found, 2, rows // found // 2, *rest).transpose(1, 2).reshape(rows, *rest).contiguous()
