"""A warmup step beside TRL's GRPOTrainer and beside plain supervised training: time and memory.

Same model, same prompts, same group size, completions of two tokens (an answer and the end of the turn). Each
contender runs alone in a process and reports seconds per step and memory over the weights.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

import torch
from rich.console import Console

from prorank.bench.alone import measured_alone, memory_share
from prorank.model.device import fast_bf16
from prorank.util.errors import MissingExtraError
from prorank.util.provenance import hardware, versions

GROUP_SIZES = (8, 16)
LONG = 64  # tokens of a completion in the comparison of the general path


def measure(spec: dict[str, Any], console: Console) -> dict[str, Any]:
    """Run one contender (`prorank.bench.warmup_worker`) in its own process."""
    with console.status(f"{spec['contender']}, G={spec.get('group')}"):
        worker = [sys.executable, "-m", "prorank.bench.warmup_worker"]
        found = measured_alone(worker, spec, f"benchmark of {spec['contender']}")
    row = {key: spec[key] for key in ("contender", "group", "tokens")} | found
    console.print(f"{row['contender']}, G={row['group']}, {row['tokens']} tokens: {row['seconds']:.3f} s per step")
    return row


def run_warmup_bench(
    shape: str, *, prompts: int, prompt_tokens: int, steps: int, device: str, console: Console
) -> dict[str, Any]:
    """The whole comparison.

    Args:
        shape: `small` (a 4-layer Qwen2 of 256) or `qwen2.5-0.5b`.
        prompts: prompts per step.
        prompt_tokens: tokens of a prompt.
        steps: timed steps; the median counts.
        device: `cpu` or `cuda`.
        console: where progress goes.

    Returns:
        By group size `speed_ratio` (TRL over prorank) and `memory_ratio` (prorank over TRL, beyond the weights; None
        where that cannot be told), `supervised_ratio` (our step over a plain supervised one), `general_ratio` (TRL
        over our general path with long completions), and all rows.

    Raises:
        MissingExtraError: TRL is not installed; it needs Python 3.11.
    """
    if find_spec("trl") is None:
        raise MissingExtraError(
            "the package 'trl' is not installed", hint="pip install 'prorank[bench]', with Python 3.11 or newer"
        )
    base = {"shape": shape, "prompts": prompts, "prompt_tokens": prompt_tokens, "steps": steps, "device": device}
    base |= {"bf16": fast_bf16(torch.device(device))}
    rows = []
    for group in GROUP_SIZES:
        for contender in ("prorank-exact", "prorank-sampled", "trl"):
            rows.append(measure(base | {"contender": contender, "group": group, "tokens": 2}, console))
    rows.append(measure(base | {"contender": "supervised", "group": 1, "tokens": 2}, console))
    for contender in ("prorank-general", "trl"):
        rows.append(measure(base | {"contender": contender, "group": GROUP_SIZES[0], "tokens": LONG}, console))

    def row(contender: str, group: int, tokens: int = 2) -> dict[str, Any]:
        return next(
            one for one in rows if (one["contender"], one["group"], one["tokens"]) == (contender, group, tokens)
        )

    def seconds(contender: str, group: int, tokens: int = 2) -> float:
        return float(row(contender, group, tokens)["seconds"])

    def speed(ours: str, group: int, tokens: int = 2) -> float:
        return seconds("trl", group, tokens) / seconds(ours, group, tokens)

    def memory(ours: str, group: int) -> float | None:
        return memory_share(row(ours, group)["extra_bytes"], row("trl", group)["extra_bytes"])

    first = GROUP_SIZES[0]
    return {
        "speed_ratio": {str(g): speed("prorank-exact", g) for g in GROUP_SIZES},
        "speed_ratio_sampled": {str(g): speed("prorank-sampled", g) for g in GROUP_SIZES},
        "memory_ratio": {str(g): memory("prorank-exact", g) for g in GROUP_SIZES},
        "memory_ratio_sampled": {str(g): memory("prorank-sampled", g) for g in GROUP_SIZES},
        "supervised_ratio": seconds("prorank-exact", first) / seconds("supervised", 1),
        "general_ratio": speed("prorank-general", first, LONG),
        "rows": rows,
        "setting": base,
        "hardware": hardware(),
        "versions": versions(),
    }
