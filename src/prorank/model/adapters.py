"""LoRA's matrices beside a frozen one, with the fewest passes over the data.

An adapted product is x W' + s (x A') B': W frozen, A and B narrow. peft computes it by separate operators, which read
and write the wide output three times more, and cast the input once more where the layers run in bf16. Here the narrow
product is added in place, the input is kept once, and the narrow one is computed again for the gradient.
Knows peft's layers and tensors; nothing of prompts or stages. Imports peft, so whoever attaches adapters imports it.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch.nn import functional as F


class AdaptedProduct(torch.autograd.Function):
    """x W' + bias + scale (x A') B' (Hu et al. 2021, LoRA, equation 3), with gradients of x, A and B alone."""

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """(..., out) in the weight's type.

        Args:
            ctx: keeps what the gradient needs.
            states: (..., in).
            weight: (out, in), frozen.
            bias: (out,), frozen, or None.
            down, up: A (r, in) and B (out, r).
            scale: LoRA's alpha / r.
        """
        rows, a, b = (one.to(weight.dtype) for one in (states.reshape(-1, states.shape[-1]), down, up))
        ctx.save_for_backward(rows, weight, a, b)
        ctx.scale, ctx.types = scale, (states.dtype, down.dtype, up.dtype)
        found = F.linear(rows, weight, bias).addmm_(rows @ a.T, b.T, alpha=scale)  # (N, out)
        return found.view(*states.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of states, A and B."""
        rows, weight, a, b = ctx.saved_tensors
        of_rows, of_down, of_up = ctx.types
        outer = gradients[0].reshape(-1, weight.shape[0])  # (N, out)
        narrow = outer @ b  # (N, r)
        of_states = None
        if ctx.needs_input_grad[0]:
            of_states = (outer @ weight).addmm_(narrow, a, alpha=ctx.scale).to(of_rows)
            of_states = of_states.view(*gradients[0].shape[:-1], -1)
        of_a = (narrow.T @ rows).to(of_down) * ctx.scale
        of_b = (outer.T @ (rows @ a.T)).to(of_up) * ctx.scale
        return of_states, None, None, of_a, of_b, None


class OnePassLinear(Linear):
    """peft's adapted layer, computed by `AdaptedProduct` where the adapter is on and nothing is dropped."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """(..., out) of (..., in); what peft alone can do is left to it."""
        (name,) = self.active_adapters
        base = self.get_base_layer()
        device = x.device.type
        computed = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        frozen = base.weight.dtype == computed and not base.weight.requires_grad
        dropped = self.training and not isinstance(self.lora_dropout[name], torch.nn.Identity)
        if self.disable_adapters or self.merged or dropped or args or kwargs or not frozen:
            found: torch.Tensor = super().forward(x, *args, **kwargs)
            return found
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        product: torch.Tensor = AdaptedProduct.apply(x, base.weight, base.bias, down, up, self.scaling[name])
        return product


def in_one_pass(model: torch.nn.Module) -> None:
    """Let the adapted layers that peft has put into a model compute by `AdaptedProduct`."""
    for module in model.modules():
        if isinstance(module, Linear) and type(module) is Linear and type(module.get_base_layer()) is torch.nn.Linear:
            module.__class__ = OnePassLinear
