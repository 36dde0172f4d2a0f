"""What is computed in a model's layers: the last feed-forward part where it is wanted, activations once or twice.

Knows where the layers of transformers' models stand; nothing of packs or answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

TokenWise = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def narrowed_feed_forward(model: Any, narrow: Callable[[TokenWise], TokenWise]) -> Iterator[None]:
    """Put `narrow` of it in the place of the last layer's feed-forward function, for as long as the context is open.

    Args:
        model: a transformers base model; one whose feed-forward part has no known place stays as it is.
        narrow: gives a function that computes less.
    """
    place = _last_feed_forward(model)
    if place is None:
        yield
        return
    setattr(*place, narrow(getattr(*place)))
    try:
        yield
    finally:
        delattr(*place)  # the class's own method shows again


def only_at(slots: torch.Tensor, function: TokenWise) -> TokenWise:
    """A token-wise function that runs at the slots and gives zeros elsewhere; (1, N, H) -> (1, N, H)."""

    def at_slots(hidden: torch.Tensor) -> torch.Tensor:
        kept = torch.zeros_like(hidden)
        kept[:, slots] = function(hidden[:, slots]).to(kept.dtype)
        return kept

    return at_slots


@contextmanager
def recomputed_layers(model: Any, again: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Let every layer keep its input only, for as long as the context is open; the backward pass runs it once more.

    Args:
        model: a transformers base model; one whose layers have no known place stays as it is.
        again: opened around each layer's second run, when the first run's contexts are closed.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), again()  # of the first run, of the second

    layers = list(layers_of(model))
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, context_fn=contexts)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own method shows again


def layers_of(model: Any) -> Any:
    """The layers of a transformers base model, or an empty list where their place is not known."""
    for path in ("layers", "encoder.layer", "h"):
        layers: Any = model
        for name in path.split("."):
            layers = getattr(layers, name, None)
        if layers is not None:
            return layers
    return []


def _last_feed_forward(model: Any) -> tuple[Any, str] | None:
    """Owner and name of the token-wise feed-forward function of the last layer, where its place is known."""
    layers = layers_of(model)
    if len(layers) and hasattr(layers[-1], "feed_forward_chunk"):
        return layers[-1], "feed_forward_chunk"
    if len(layers) and hasattr(layers[-1], "mlp"):
        return layers[-1].mlp, "forward"
    return None
