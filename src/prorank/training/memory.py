"""How much memory training takes, by arithmetic: weights, gradients, the optimiser's state, activations.

The counts are of what autograd keeps for a token in one layer of a Llama- or BERT-like model; docs/training-memory.md
holds them against measured points. Knows configs and numbers; nothing of batches.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from prorank.model.backbone import Backbone
from prorank.util.errors import require

SHARE = 0.7  # of the free memory may go to a pass's activations; the rest is for what comes and goes
PROCESS = (
    250_000_000  # bytes that the process itself takes while it trains: libraries' workspaces, allocator, temporaries
)
LEAST, MOST = 512, 65_536  # tokens of a pass that is planned without being told
CGROUP = Path("/sys/fs/cgroup")


class Shape(NamedTuple):
    """What the arithmetic needs of a model: sizes, and how it is trained.

    Attributes:
        layers, hidden, feed_forward: as in its config.
        queries, keys: rows of the query and of the key projection (heads x their size).
        vocabulary: rows of the embedding.
        gated: whether the feed-forward part has a gate (SwiGLU).
        lora: rank of the adapters; 0 trains every weight.
        compute: bytes of a number in the layers: 4 for fp32, 2 for bf16.
    """

    layers: int
    hidden: int
    feed_forward: int
    queries: int
    keys: int
    vocabulary: int
    gated: bool
    lora: int
    compute: int

    @property
    def layer_weights(self) -> int:
        """Weights of all layers' matrices."""
        attention = self.hidden * (2 * self.queries + 2 * self.keys)
        return self.layers * (attention + (2 + self.gated) * self.hidden * self.feed_forward)

    @property
    def adapter_weights(self) -> int:
        """Weights of the adapters on all of these matrices."""
        if not self.lora:
            return 0
        ends = 2 * (self.hidden + self.queries) + 2 * (self.hidden + self.keys)
        return self.layers * self.lora * (ends + (2 + self.gated) * (self.hidden + self.feed_forward))


def shape_of(config: Any, *, lora: int, compute: torch.dtype) -> Shape:
    """The shape of a transformers config.

    >>> from transformers import Qwen2Config
    >>> config = Qwen2Config(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    >>> shape_of(config, lora=0, compute=torch.float32).keys
    32
    """
    heads, hidden = config.num_attention_heads, config.hidden_size
    size = getattr(config, "head_dim", None) or hidden // heads
    return Shape(
        layers=config.num_hidden_layers,
        hidden=hidden,
        feed_forward=getattr(config, "intermediate_size", None) or 4 * hidden,
        queries=heads * size,
        keys=(getattr(config, "num_key_value_heads", None) or heads) * size,
        vocabulary=config.vocab_size,
        gated=hasattr(config, "rms_norm_eps"),
        lora=lora,
        compute=compute.itemsize,
    )


def layer_bytes(shape: Shape) -> int:
    """Bytes that autograd keeps for one token in one layer.

    Two norms in float32: their input and output, and the normalised input where the norm's own weight is trained.
    Queries, keys, values and the attention's output, twice (as it was computed, and in the order of the next product).
    Gate, its activation, the other half, and their product. In bf16 each product keeps a cast copy of its input.
    Adapters keep nothing of their own: their narrow products are computed again.
    """
    norms = (4 if shape.lora else 6) * shape.hidden * 4
    products = 3 * shape.queries + 2 * shape.keys + (4 if shape.gated else 3) * shape.feed_forward
    cast = 2 * shape.hidden * shape.compute if shape.compute < 4 else 0
    return norms + products * shape.compute + cast


def token_bytes(shape: Shape) -> int:
    """Bytes of a pass's activations for each of its tokens."""
    return shape.layers * layer_bytes(shape) + 8 * shape.hidden


def checkpointed_bytes(shape: Shape) -> int:
    """The same with gradient checkpointing: each layer's input, and one layer whole (see `layer_bytes`)."""
    return shape.layers * shape.hidden * 4 + layer_bytes(shape) + 8 * shape.hidden


def state_bytes(shape: Shape) -> int:
    """Gradients and the optimiser's two moments, in float32, of what is trained."""
    trained = shape.adapter_weights or shape.layer_weights + shape.vocabulary * shape.hidden
    return 12 * trained


def weight_bytes(shape: Shape) -> int:
    """The weights: float32, but what LoRA freezes in the layers is kept as it is computed."""
    frozen = shape.compute if shape.lora else 4
    return shape.layer_weights * frozen + 4 * (shape.vocabulary * shape.hidden + shape.adapter_weights)


def step_bytes(shape: Shape, *, tokens: int, budget: int, gradient_checkpointing: bool = False) -> int:
    """The most that a training step holds beyond the weights.

    Args:
        shape: of the model.
        tokens: of the whole step.
        budget: tokens of a pass.
        gradient_checkpointing: each layer keeps its input only.
    """
    a_token = checkpointed_bytes(shape) if gradient_checkpointing else token_bytes(shape)
    dense = 0 if shape.lora else 4 * shape.vocabulary * shape.hidden  # of the embedding, on its way to the sum
    return PROCESS + state_bytes(shape) + min(tokens, budget) * a_token + dense


def free_bytes(device: torch.device) -> int:
    """Memory that can still be taken: of the GPU, or of the machine and the container."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    free = int(require("psutil", "train").virtual_memory().available)
    try:
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        statistics = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return min(free, limit - used + int(statistics["inactive_file"]))  # cached files make room
    except (OSError, ValueError, KeyError):  # no container, or one without a limit
        return free


def default_budget(backbone: Backbone) -> int:
    """Tokens of a pass that the free memory holds beside gradients and the optimiser's state, a power of two.

    A power of two, so that a resumed run, with a little more or less memory free, cuts its steps as before.
    """
    trained = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in backbone.parameters() if not p.requires_grad)
    adapters = next((c.r for c in getattr(backbone.model, "peft_config", {}).values()), 1) if frozen else 0
    shape = shape_of(backbone.config, lora=adapters, compute=backbone.compute_dtype)
    left = SHARE * (free_bytes(backbone.device) - 12 * trained)
    tokens = int(left / token_bytes(shape))
    return min(MOST, max(LEAST, 1 << max(0, tokens.bit_length() - 1)))
