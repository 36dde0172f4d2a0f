"""Memory and time of a training step: a model, so many pairs of a length, a budget of tokens.

Each point is measured alone in a process and stands beside the arithmetic of `training.memory`; the table for other
models and cards comes from the same arithmetic.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal

from rich.console import Console

from prorank.bench.alone import measured_alone
from prorank.training.memory import Shape, step_bytes, weight_bytes
from prorank.util.provenance import hardware, versions

Stage = Literal["warmup", "score-learning", "sft"]
GIGABYTE = 10**9
CARDS = (8, 16, 24, 80)  # GB
RESERVED = 1.0  # GB of a card that the driver and the kernels take
SHAPES = {  # layers, hidden, feed-forward, queries, keys, vocabulary, gated
    "SmolLM2-135M": (30, 576, 1_536, 576, 192, 49_152, True),
    "Qwen2.5-0.5B": (24, 896, 4_864, 896, 128, 151_936, True),
    "Qwen2.5-1.5B": (28, 1_536, 8_960, 1_536, 256, 151_936, True),
    "Qwen3-4B": (36, 2_560, 9_728, 4_096, 1_024, 151_936, True),
}


def measure(spec: dict[str, Any], console: Console) -> dict[str, Any]:
    """One point (`prorank.bench.memory_worker`) in its own process."""
    with console.status(f"budget {spec['budget']}, LoRA {spec['lora']}"):
        worker = [sys.executable, "-m", "prorank.bench.memory_worker"]
        found = measured_alone(worker, spec, f"a training step of {spec['model']}")
    shape = Shape(**found.pop("shape"))
    tokens = spec["pairs"] * spec["length"]
    budget, twice = spec["budget"] or tokens, spec["gradient_checkpointing"]
    computed = step_bytes(shape, tokens=tokens, budget=budget, gradient_checkpointing=twice)
    row = {key: spec[key] for key in ("stage", "pairs", "length", "budget", "lora", "gradient_checkpointing")} | found
    row["computed_bytes"] = computed
    measured = "unknown" if row["extra_bytes"] is None else f"{row['extra_bytes'] / GIGABYTE:.2f} GB"
    console.print(
        f"budget {row['budget'] or 'none'}, LoRA {row['lora']}: {row['seconds']:.2f} s per step, {measured} beyond the "
        f"weights ({computed / GIGABYTE:.2f} by arithmetic)"
    )
    return row


def run_memory_bench(
    model: str,
    *,
    stage: Stage,
    pairs: int,
    length: int,
    budgets: Sequence[int],
    lora: Sequence[int],
    gradient_checkpointing: bool,
    steps: int,
    device: str,
    precision: str,
    console: Console,
) -> dict[str, Any]:
    """Every budget with every rank of LoRA, each beside one pass over the whole step.

    Args:
        model: folder or name.
        stage: whose loss.
        pairs: of a step; a multiple of 8 for score learning, whose lists hold 8.
        length: tokens of a pair.
        budgets: tokens of a pass.
        lora: ranks; 0 trains every weight.
        gradient_checkpointing: measure each budget with it as well.
        steps: timed steps; the median counts, the first is left out.
        device, precision: as for `Reranker`.
        console: where progress goes.

    Returns:
        `rows`, with `time_ratio` over one pass, and where they were measured.
    """
    base = {"model": model, "stage": stage, "pairs": pairs, "length": length, "steps": steps}
    base |= {"device": device, "precision": precision}
    rows: list[dict[str, Any]] = []
    for rank in lora:
        one_pass = measure(base | {"lora": rank, "budget": None, "gradient_checkpointing": False}, console)
        parts = [
            measure(base | {"lora": rank, "budget": budget, "gradient_checkpointing": again}, console)
            for budget in budgets
            for again in ([False, True] if gradient_checkpointing else [False])
        ]
        rows += [row | {"time_ratio": row["seconds"] / one_pass["seconds"]} for row in (one_pass, *parts)]
    return {"model": model, "rows": rows, "setting": base, "hardware": hardware(), "versions": versions()}


def largest_budget(shape: Shape, pairs: int, length: int, card: float) -> int | None:
    """Tokens of a pass that a card of so many GB holds, at most the step; None: not even one pair."""
    left, tokens = (card - RESERVED) * GIGABYTE - weight_bytes(shape), pairs * length
    if step_bytes(shape, tokens=tokens, budget=tokens) <= left:
        return tokens
    budget = 1 << (tokens.bit_length() - 1)
    while budget >= length:
        if step_bytes(shape, tokens=tokens, budget=budget) <= left:
            return budget
        budget //= 2
    return None


def memory_table(steps: Sequence[tuple[int, int]] = ((32, 512), (64, 1_024)), rank: int = 32) -> str:
    """Markdown: what published shapes need in bf16, in one pass and at the largest budget that each card holds.

    Args:
        steps: (pairs, tokens of a pair) of a step.
        rank: of LoRA.
    """
    names = " | ".join(f"{card} GB" for card in CARDS)
    lines = [
        f"| model | trained | pairs x tokens | weights, GB | one pass, GB | at 4,096 tokens, GB | {names} |",
        "|---|---|---|---|---|---|" + "---|" * len(CARDS),
    ]
    for name, sizes in SHAPES.items():
        for lora in (0, rank):
            shape = Shape(*sizes, lora=lora, compute=2)
            for pairs, length in steps:
                tokens = pairs * length
                held = [largest_budget(shape, pairs, length, card) for card in CARDS]
                cells = ["-" if budget is None else f"{budget:,}" for budget in held]
                numbers = [weight_bytes(shape), *(step_bytes(shape, tokens=tokens, budget=b) for b in (tokens, 4_096))]
                sizes_cell = " | ".join(f"{number / GIGABYTE:.1f}" for number in numbers)
                kind = f"LoRA {lora}" if lora else "all"
                lines.append(f"| {name} | {kind} | {pairs} x {length:,} | {sizes_cell} | {' | '.join(cells)} |")
    return "\n".join(lines)
