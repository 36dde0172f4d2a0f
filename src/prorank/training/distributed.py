"""Several processes as one: who writes, who measures what, and how the parts come together.

Started by `torchrun` or `accelerate launch`; a single process is the case of one. Every process runs the same flow.
Files are written by the first alone; whatever takes long is shared out and gathered. Thin names around accelerate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from prorank.util.errors import TrainingError, require

T = TypeVar("T")


def state() -> Any:
    """accelerate's process state; reads the launcher's environment on first use."""
    return require("accelerate", "train").PartialState(cpu=not torch.cuda.is_available())


def is_main() -> bool:
    """Whether this process writes and prints."""
    return bool(state().is_main_process)


def count() -> int:
    """Processes that take part."""
    return int(state().num_processes)


def shard(items: Sequence[T]) -> list[T]:
    """This process's part of the items: every n-th."""
    return list(items[state().process_index :: count()])


def gather(items: Sequence[T]) -> list[T]:
    """All processes' items in one list, in the order of the processes."""
    return list(require("accelerate.utils", "train").gather_object(list(items)))


def wait() -> None:
    """Until every process is here."""
    state().wait_for_everyone()


def run_on_main(work: Callable[[], object]) -> None:
    """Do something with files in the first process while the others wait.

    Raises:
        TrainingError: in the other processes, when the work failed in the first (which raises its own error).
    """
    failed = ""
    try:
        if is_main():
            work()
    except BaseException as error:
        failed = f"{type(error).__name__}: {error}"
        raise
    finally:
        problems = [problem for problem in gather([failed]) if problem]
        if problems and not failed:
            raise TrainingError(f"the first process stopped with {problems[0]}")
