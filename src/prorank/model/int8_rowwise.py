"""Weights in 8 bits by rows: a quarter of float32 on disk, float32 again when loaded.

Each row of a matrix is stored as whole numbers from -127 to 127 and one scale; vectors stay float16. Knows tensors and
one file format (safetensors); nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from prorank.util.errors import CheckpointError

INT8_ROWWISE_FILE = "model.rows8.safetensors"  # prorank-mini ships under this name
SCALE = "::scale"  # suffix of a matrix's scales


def to_int8_rowwise(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(R, C) -> int8 (R, C) and float32 scales (R, 1): a row is its whole numbers times its largest value / 127.

    >>> whole, scale = to_int8_rowwise(torch.tensor([[0.5, -1.0], [0.0, 0.0]]))
    >>> whole.tolist(), [round(value, 4) for value in scale.flatten().tolist()]
    ([[64, -127], [0, 0]], [0.0079, 0.0])
    """
    scale = matrix.float().abs().amax(-1, keepdim=True) / 127
    whole = (matrix.float() / scale.clamp(min=torch.finfo(torch.float32).tiny)).round().clamp(-127, 127)
    return whole.to(torch.int8), scale


def save_int8_rowwise(weights: Mapping[str, torch.Tensor], file: Path, metadata: dict[str, str] | None = None) -> None:
    """Write weights: matrices by rows in 8 bits, everything else in float16; and words about them."""
    packed: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        if tensor.ndim == 2 and tensor.is_floating_point():
            packed[name], packed[name + SCALE] = to_int8_rowwise(tensor.cpu())
        else:
            packed[name] = tensor.cpu().half() if tensor.is_floating_point() else tensor.cpu()
    save_file({name: tensor.contiguous() for name, tensor in packed.items()}, file, metadata)


def load_int8_rowwise(file: Path) -> dict[str, torch.Tensor]:
    """Read what `save_int8_rowwise` wrote, in float32.

    Raises:
        CheckpointError: a matrix without the scales of its rows.
    """
    packed = load_file(file)
    weights = {}
    for name, tensor in packed.items():
        if name.endswith(SCALE):
            continue
        scale = packed.get(name + SCALE)
        if tensor.dtype == torch.int8 and (scale is None or scale.shape != (len(tensor), 1)):
            raise CheckpointError(f"{file}: {name} has no scale for each row", hint="copy or download the file again")
        weights[name] = tensor.float() * scale if scale is not None else tensor.float()
    return weights
