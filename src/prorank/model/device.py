"""Which device and which number format a model computes in. Knows hardware only."""

from __future__ import annotations

import torch

from prorank.types import Precision
from prorank.util.errors import InputError
from prorank.util.provenance import processor


def resolve_device(device: str = "auto") -> torch.device:
    """The device of this name, if torch can put a tensor there; `auto` means CUDA, then Apple's MPS, then the CPU.

    Raises:
        InputError: no such device here.

    >>> resolve_device("cpu")
    device(type='cpu')
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    here = ["auto", "cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    here += ["mps"] if torch.backends.mps.is_available() else []
    try:
        found = torch.device(device)
        torch.empty(1, device=found).tolist()  # the device `meta` holds no values
    except (RuntimeError, AssertionError, TypeError, NotImplementedError, ImportError) as error:
        raise InputError(f"no device {device!r} here", hint=f"one of {', '.join(here)}") from error
    return found


def fast_bf16(device: torch.device) -> bool:
    """Whether this device multiplies bfloat16 matrices faster than float32 ones.

    True on GPUs with native bf16, on CPUs with AMX, and on AMD's with AVX512-BF16: Intel's AVX512-BF16 without AMX, as
    many virtual machines show it, is slower at it than at fp32 (docs/log.md), and a CPU without either emulates.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        amd = "AMD" in processor()
        return bool(torch.cpu._is_amx_tile_supported() or (amd and torch.cpu._is_avx512_bf16_supported()))
    return False


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The compute dtype: as asked, or for `auto` bf16 where it is fast and fp32 elsewhere. Never fp16."""
    if precision == "auto":
        return torch.bfloat16 if fast_bf16(device) else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
