"""What the engine asks of the thing that reads pairs; three things give it.

`prorank.model.backbone.Backbone` is a causal or masked language model, which can be trained, saved and exported too.
`prorank.model.classifier.ClassifierBackbone` is somebody else's cross-encoder. `prorank.engine.runtime.RuntimeBackend`
is an exported graph, which reads pairs and does nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from prorank.model.packing import Pack
from prorank.model.sharing import ModelLock
from prorank.prompts.tokenization import Batch
from prorank.types import Family


class ScorerBackend(Protocol):
    """Reads batches or packs of pairs.

    Attributes:
        family: of the model.
        tokenizer: the Hugging Face tokenizer.
        compute_dtype: of the layers.
        token_budget: tokens that a forward pass may hold; None lets the engine choose.
        lock: held by whoever changes the backend.
    """

    family: Family
    tokenizer: Any
    compute_dtype: torch.dtype
    token_budget: int | None
    lock: ModelLock

    @property
    def config(self) -> Any:
        """The Hugging Face config."""

    @property
    def device(self) -> torch.device:
        """Where forward passes run."""

    @property
    def position_offset(self) -> int:
        """The position of a sequence's first token."""

    @property
    def supports_packing(self) -> bool:
        """Whether `read` takes packs; otherwise it gets padded batches only."""

    def inference(self) -> AbstractContextManager[None]:
        """Scoring mode, to this thread alone where the model needs that."""

    def read(self, work: Pack | Batch, rows: Sequence[int] | None) -> torch.Tensor:
        """Logits at the answer slots, float32: (B, len(rows)), or of the whole vocabulary for None.

        An exported graph gives its answers' logits whatever the rows.
        """
