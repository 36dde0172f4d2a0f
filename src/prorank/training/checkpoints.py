"""A training's checkpoint folders: the newest whole one, and deleting what is torn or no longer needed.

Knows folders; nothing of what a checkpoint holds.
"""

from __future__ import annotations

import shutil
from pathlib import Path

COMPLETE = "complete"  # a checkpoint without this file was cut off while being written


def last_checkpoint(folder: str | Path) -> Path | None:
    """The newest whole checkpoint under `folder`; torn ones are passed over."""
    whole = [path for path in Path(folder).glob("checkpoint-*") if (path / COMPLETE).is_file()]
    return max(whole, key=step_of, default=None)


def step_of(checkpoint: str | Path) -> int:
    """The step after which a checkpoint was written.

    >>> step_of("training/checkpoint-40")
    40
    """
    return int(Path(checkpoint).name.split("-")[1])


def drop_torn(folder: str | Path) -> None:
    """Delete checkpoints that were cut off while being written."""
    for path in Path(folder).glob("checkpoint-*"):
        if not (path / COMPLETE).is_file():
            shutil.rmtree(path)


def drop_checkpoints(run: Path) -> None:
    """Delete the checkpoints of a run's finished stages: with the optimiser's states they are many times the model."""
    for path in run.glob("*/training/checkpoint-*"):
        shutil.rmtree(path)
