"""The checkpoint from which interrupted training resumes: a file that is missing or damaged is named, with the remedy.

Without this the Trainer passes over a missing file, and torch's advice for a damaged one is to allow any code in it.
Knows the files of a checkpoint and nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from safetensors import safe_open

from prorank.util.errors import CheckpointError, ProrankError

WEIGHTS = "trainable.safetensors"
STATE, OPTIMIZER, SCHEDULER = "trainer_state.json", "optimizer.pt", "scheduler.pt"


@contextmanager
def part_of_checkpoint(file: Path) -> Iterator[None]:
    """Whatever goes wrong inside becomes an error about this file of a checkpoint.

    Raises:
        CheckpointError: names the file and what to delete.
    """
    try:
        yield
    except (ProrankError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        what = "is damaged" if file.exists() else "is missing"
        raise CheckpointError(f"{file} {what}", hint=f"delete {file.parent.name}, then --resume") from error


def check_checkpoint(folder: Path, *, sharded: bool) -> None:
    """Look through a checkpoint before training resumes from it.

    Args:
        folder: `checkpoint-STEP`.
        sharded: the optimiser's state lies in files of other names, one per process.

    Raises:
        CheckpointError: a file is missing or damaged, or the best checkpoint so far is.
    """
    step = int(folder.name.rpartition("-")[2])
    _check_weights(folder / WEIGHTS)
    with part_of_checkpoint(folder / STATE):
        state = transformers.TrainerState.load_from_json(str(folder / STATE))
        if state.global_step != step or not isinstance(state.log_history, list):
            raise ValueError("another checkpoint's")
        best = state.best_model_checkpoint and folder.parent / Path(state.best_model_checkpoint).name
    if best and best != folder:
        _check_weights(best / WEIGHTS, hint=f"delete {folder.parent}: this stage starts over, then --resume")
    if step == 0:
        return  # the starting model: nothing has been optimised yet
    with part_of_checkpoint(folder / SCHEDULER):
        torch.load(folder / SCHEDULER, weights_only=True)["last_epoch"]
    needed = ["rng_state*.pth"] if sharded else [OPTIMIZER, "rng_state*.pth"]
    for pattern in needed:
        if not any(folder.glob(pattern)):
            with part_of_checkpoint(folder / pattern.replace("*", "")):
                raise FileNotFoundError


def _check_weights(file: Path, hint: str = "") -> None:
    try:
        with part_of_checkpoint(file), safe_open(file, framework="pt") as tensors:
            list(tensors.keys())
    except CheckpointError as error:
        raise CheckpointError(error.message, hint=hint or error.hint) from error.__cause__
