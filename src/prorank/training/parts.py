"""A step's sequences in parts that fit the memory, with the gradient of the whole step.

Where a loss needs all outputs at once, they are computed twice: first without gradient, which gives the loss and its
gradient with respect to the outputs, then part by part with it (GradCache: Gao et al. 2021, "Scaling Deep Contrastive
Learning Batch Size under Memory Limited Setup", section 3). Knows tensors and token counts; nothing of models.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch

Outputs = dict[str, torch.Tensor]  # each (rows, ...): the parts' rows end to end are the step's
Read = Callable[[slice], Outputs]
RandomState = tuple[torch.Tensor, torch.Tensor | None]


def cut(tokens: Sequence[int], saved: Sequence[int], budget: int) -> list[slice]:
    """Neighbouring sequences in parts of at most `budget` tokens; a longer sequence is a part of its own.

    Args:
        tokens: of each sequence.
        saved: tokens that a sequence does not cost where the one before it stands in the same part.
        budget: tokens of a part.

    >>> cut([5, 5, 5, 9], [0, 0, 3, 0], 12)
    [slice(0, 3, None), slice(3, 4, None)]
    """
    parts, start, held = [], 0, 0
    for i, (own, less) in enumerate(zip(tokens, saved)):
        more = own if i == start else own - less
        if i > start and held + more > budget:
            parts.append(slice(start, i))
            start, held, more = i, 0, own
        held += more
    return [*parts, slice(start, len(tokens))]


def even(count: int, parts: int) -> list[slice]:
    """`count` sequences in so many parts of nearly equal number.

    >>> even(5, 2)
    [slice(0, 3, None), slice(3, 5, None)]
    """
    marks = [-(-count * part // parts) for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(marks)]


def joined(parts: Sequence[Mapping[str, torch.Tensor]]) -> Outputs:
    """The outputs of all parts, end to end.

    >>> joined([{"score": torch.tensor([1.0])}, {"score": torch.tensor([2.0])}])
    {'score': tensor([1., 2.])}
    """
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@torch.no_grad()
def without_gradient(read: Read, parts: Sequence[slice]) -> Outputs:
    """The step's outputs, read part by part without gradient."""
    return joined([read(part) for part in parts])


def random_state(device: torch.device) -> RandomState:
    """What random numbers come next on the CPU and on a GPU."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def restore(state: RandomState, device: torch.device) -> None:
    """Let the same random numbers come again."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


def cached_gradient(
    read: Read,
    loss: Callable[[Outputs], torch.Tensor],
    parts: Sequence[slice],
    device: torch.device,
    backward: Callable[[torch.Tensor, bool], None],
) -> torch.Tensor:
    """The gradient of a loss of all parts' outputs, never with more than one part's activations in memory.

    Both passes over a part draw the same random numbers (dropout).

    Args:
        read: outputs of a part.
        loss: of the outputs of all parts.
        parts: cover the step.
        device: whose random numbers `read` draws, besides the CPU's.
        backward: called for each part with a scalar to differentiate, and whether it is the last.

    Returns:
        The loss, without gradient.
    """
    states, found = [], []
    with torch.no_grad():
        for part in parts:
            states.append(random_state(device))
            found.append(read(part))
    outputs = {name: values.requires_grad_() for name, values in joined(found).items()}
    value = loss(outputs)
    wanted = torch.autograd.grad(value, list(outputs.values()), allow_unused=True)
    gradients = {name: one for name, one in zip(outputs, wanted) if one is not None}
    after, done = random_state(device), dict.fromkeys(outputs, 0)
    for place, (part, state) in enumerate(zip(parts, states)):
        restore(state, device)
        terms = []
        for name, values in read(part).items():
            rows = slice(done[name], done[name] + len(values))
            done[name] = rows.stop
            if name in gradients:
                terms.append((values * gradients[name][rows]).sum())
        backward(torch.stack(terms).sum(), place == len(parts) - 1)
    restore(after, device)
    return value.detach()
