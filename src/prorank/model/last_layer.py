"""What is computed in a model's layers: the last one where its output is wanted, activations once or twice.

Knows where the layers of transformers' models stand; nothing of packs or answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

TokenWise = Callable[[torch.Tensor], torch.Tensor]
ATTENTION_PLACES = ("self_attn", "attention.self", "attn")  # of a layer's attention
QUERY_PLACES = ("self_attn.q_proj", "attention.self.query")  # of what makes its queries
OUTPUT_PLACES = ("self_attn.o_proj", "attention.output.dense", "attn.Wo")  # of what its result passes through


@contextmanager
def changed(owner: Any, name: str, change: Callable[[Any], Any]) -> Iterator[None]:
    """Replace the method `owner.name` by `change(owner.name)` while the context is open."""
    setattr(owner, name, change(getattr(owner, name)))
    try:
        yield
    finally:
        delattr(owner, name)  # the class's own method shows again


@contextmanager
def narrowed_feed_forward(model: Any, narrow: Callable[[TokenWise], TokenWise]) -> Iterator[None]:
    """Replace the last layer's feed-forward function f by `narrow(f)` while the context is open.

    Args:
        model: a transformers base model; one whose feed-forward part has no known place stays as it is.
        narrow: takes the function and returns one that computes less.
    """
    place = _last_feed_forward(model)
    with nullcontext() if place is None else changed(*place, narrow):
        yield


@contextmanager
def last_layer_at(model: Any, slots: torch.Tensor) -> Iterator[None]:
    """Let the last layer compute keys and values everywhere and all else at the slots, while the context is open.

    Args:
        model: a transformers base model; parts of its last layer that have no known place stay as they are.
        slots: (B,) positions in a row. The attention function gets them as `slots`.
    """
    narrow = partial(only_at, slots)
    with ExitStack() as stack:
        stack.enter_context(narrowed_feed_forward(model, narrow))
        for layer in list(layers_of(model))[-1:]:
            for place in (*found_at(layer, QUERY_PLACES), *found_at(layer, OUTPUT_PLACES)):
                stack.enter_context(changed(place, "forward", narrow))
            for place in found_at(layer, ATTENTION_PLACES):
                stack.enter_context(changed(place, "forward", lambda forward: partial(forward, slots=slots)))
        yield


def only_at(slots: torch.Tensor, function: TokenWise) -> TokenWise:
    """A token-wise function that runs at the slots and gives zeros elsewhere; (1, N, H) -> (1, N, width)."""

    def at_slots(hidden: torch.Tensor) -> torch.Tensor:
        found = function(hidden[:, slots])
        kept = found.new_zeros(*hidden.shape[:2], found.shape[-1])
        kept[:, slots] = found
        return kept

    return at_slots


def found_at(layer: Any, paths: Sequence[str]) -> list[Any]:
    """The parts of a layer that are there under these names.

    >>> from types import SimpleNamespace as Part
    >>> found_at(Part(attn=Part(Wo=1)), ("attn.Wo", "attn.Wqkv", "mlp"))
    [1]
    """
    parts = []
    for path in paths:
        part: Any = layer
        for name in path.split("."):
            part = getattr(part, name, None)
        if part is not None:
            parts.append(part)
    return parts


@contextmanager
def checkpointed_layers(model: Any, again: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
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
    return next(iter(found_at(model, ("layers", "encoder.layer", "h"))), [])


def _last_feed_forward(model: Any) -> tuple[Any, str] | None:
    """Owner and name of the token-wise feed-forward function of the last layer, where its place is known."""
    layers = layers_of(model)
    if len(layers) and hasattr(layers[-1], "feed_forward_chunk"):
        return layers[-1], "feed_forward_chunk"
    if len(layers) and hasattr(layers[-1], "mlp"):
        return layers[-1].mlp, "forward"
    return None
