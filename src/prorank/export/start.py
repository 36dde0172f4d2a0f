"""The beginning that all sequences of a prompt share, read once when a causal model is exported.

Its keys and values become constants of the graph, so that no pair computes them again. The first token, on which many
language models rest thousandfold activations, then is not among those that 8 bits have to cover either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from prorank.model.backbone import Backbone

KeysAndValues = tuple[torch.Tensor, torch.Tensor]  # each (1, heads, tokens, size)


def read_start(backbone: Backbone, ids: Sequence[int]) -> list[KeysAndValues]:
    """Keys and values of each layer after these tokens.

    Args:
        backbone: a model; only causal ones have a beginning that what follows does not change.
        ids: token ids; none give nothing.

    Returns:
        A pair for each layer; an empty list where there is nothing to read, or where a layer keeps something else than
        the keys and values of all tokens.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer

    if backbone.family != "causal" or not ids:
        return []
    with backbone.inference(), torch.no_grad():
        states = backbone.core.base_model(input_ids=torch.tensor([list(ids)]), use_cache=True)
    found = getattr(states, "past_key_values", None)
    if not isinstance(found, DynamicCache) or any(type(layer) is not DynamicLayer for layer in found.layers):
        return []
    return [(layer.keys.detach(), layer.values.detach()) for layer in found.layers]


def cached(start: Sequence[KeysAndValues], rows: int) -> dict[str, Any]:
    """Arguments that let a model go on from there, in so many rows."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    cache = DynamicCache()
    for keys, values in start:
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)
        cache.layers.append(layer)
    return {"past_key_values": cache, "use_cache": True}
