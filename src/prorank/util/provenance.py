"""What is written beside every result: versions, seed, machine kind, fingerprints.

Knows nothing of recipes or collections beyond their fingerprints.
"""

from __future__ import annotations

import hashlib
import platform
import re
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from prorank.util.version import VERSION

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "bm25s",
    "ir_measures",
    "sentence-transformers",
    "numpy",
)


def versions() -> dict[str, str]:
    """Versions of prorank, Python and the packages that decide numbers; absent ones are left out.

    >>> "torch" in versions()
    True
    """
    found = {"prorank": VERSION, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def fingerprint(text: str) -> str:
    """SHA-256 of a text, in hexadecimal.

    >>> fingerprint("")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


@cache
def processor() -> str:
    """The CPU's maker and model: the model name of Linux's /proc/cpuinfo, elsewhere what the platform says.

    >>> isinstance(processor(), str)
    True
    """
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text("utf-8", "replace") if cpuinfo.is_file() else ""
    named = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return named[1].strip() if named else platform.processor()


def hardware() -> dict[str, Any]:
    """Kind of processor and accelerator, and threads in use."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    found = {"device": device, "machine": platform.machine(), "processor": processor()}
    return found | {"threads": torch.get_num_threads()}
