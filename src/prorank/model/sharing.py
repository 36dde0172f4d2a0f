"""One model, several threads and processes: whose turn it is, and what copies and forked processes get.

Knows locks and process ids; nothing of models.
"""

from __future__ import annotations

import os
import threading
from types import TracebackType

from prorank.util.errors import CheckpointError


class ModelLock:
    """A model's own lock: `with lock:` waits until no other thread runs or changes the model.

    One thread may enter it again. Copied and unpickled models get a lock of their own.

    Raises:
        CheckpointError: this process was forked from the one that loaded the model. What runs a model (threads of torch
            and of the runtimes, the GPU's context) does not survive a fork; a forward pass would hang.

    >>> with ModelLock() as lock, lock:
    ...     pass
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._process = os.getpid()

    def check_process(self) -> None:
        """Refuse a forked process."""
        if os.getpid() != self._process:
            raise CheckpointError(
                f"the model was loaded in process {self._process}, and this is a fork of it: it cannot run here",
                hint='use the "spawn" start method, as multiprocessing.get_context("spawn") does, or load the model in '
                "the new process",
            )

    def __enter__(self) -> ModelLock:
        self.check_process()
        self._lock.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[ModelLock], tuple[()]]:
        return ModelLock, ()
