"""Where a model's time goes, and how near its matrix products are to what the machine can do.

Shares are of the wall time under torch's profiler; what no operator accounts for is Python and waiting. The limit is
the layers' products alone, at the rate that this machine reaches on matrices of just these sizes. Pairs are random
tokens of one length: speed does not depend on what they say. Knows rerankers and a training step.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from prorank.bench.memory_worker import random_pairs, trainer_of
from prorank.engine.scorer import token_budget
from prorank.evaluation.tables import markdown_lines
from prorank.model.backbone import Backbone
from prorank.model.last_layer import layers_of
from prorank.reranker import Reranker
from prorank.training.steps import Items
from prorank.util.provenance import hardware, versions

# The first group with a part of an operator's name has its time.
GROUPS = {
    "attention": ("attention", "bmm", "softmax"),
    "matrix products": ("mm", "linear", "gemm"),
    "norms and activations": ("norm", "gelu", "silu", "relu", "rsqrt", "pow", "mean", "mul", "add", "sigmoid", "tanh"),
    "copies": ("copy", "cat", "index", "gather", "embedding", "clone", "stack", "fill", "zero", "pad", "scatter"),
}
STAGES = ("inference", "warmup", "score-learning")
REPEATS = 3


def group_of(operator: str) -> str:
    """The group of an operator's name.

    >>> group_of("aten::addmm"), group_of("aten::_scaled_dot_product_flash_attention_for_cpu"), group_of("aten::sort")
    ('matrix products', 'attention', 'other operators')
    """
    name = operator.lower()
    return next((group for group, parts in GROUPS.items() if any(part in name for part in parts)), "other operators")


def product_rate(backbone: Backbone, tokens: int) -> float:
    """FLOPs per second that this machine reaches on the layers' own matrices, at so many rows, the best of a few."""
    shapes: dict[tuple[int, int], int] = {}
    for module in (part for layer in layers_of(backbone.core.base_model) for part in layer.modules()):
        if isinstance(module, torch.nn.Linear):
            size = (module.in_features, module.out_features)
            shapes[size] = shapes.get(size, 0) + 1
    flops = seconds = 0.0
    with torch.inference_mode():
        for (width, out), count in shapes.items():
            rows = torch.randn(tokens, width, dtype=backbone.compute_dtype, device=backbone.device)
            matrix = torch.randn(out, width, dtype=backbone.compute_dtype, device=backbone.device)
            taken = min(seconds_of(partial(torch.nn.functional.linear, rows, matrix), 5))
            seconds += count * taken
            flops += count * 2 * tokens * width * out
    return flops / seconds


def seconds_of(work: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds that some work takes, each time, after one that does not count."""
    taken = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begin)
    return taken[1:]


def product_flops(work: Callable[[], Any]) -> int:
    """FLOPs of the matrix products of some work; attention's own are left out."""
    with FlopCounterMode(display=False) as counter:
        work()
    counts = counter.get_flop_counts().get("Global", {})
    return int(sum(count for operator, count in counts.items() if group_of(str(operator)) == "matrix products"))


def shares(work: Callable[[], Any]) -> dict[str, float]:
    """Share of the wall time of some work that each group of operators takes, and Python and waiting the rest."""
    cuda = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    begin = time.perf_counter()
    with profile(activities=activities) as found:
        work()
        if cuda:
            torch.cuda.synchronize()
        wall = time.perf_counter() - begin
    key = "self_device_time_total" if cuda else "self_cpu_time_total"
    return _by_group(((event.key, getattr(event, key)) for event in found.key_averages()), wall)


def _by_group(events: Iterable[tuple[str, float]], wall: float) -> dict[str, float]:
    """Shares of a wall time in seconds, from operators' names and microseconds.

    >>> _by_group([("aten::mm", 3e5), ("aten::copy_", 1e5)], 0.5)["matrix products"]
    0.6
    """
    total = dict.fromkeys((*GROUPS, "other operators"), 0.0)
    for name, microseconds in events:
        if name.startswith(("aten::", "mkldnn::")):  # kernels stand beside the operators that started them
            total[group_of(name)] += microseconds / 1e6
    found = {group: seconds / wall for group, seconds in total.items()}
    return found | {"Python and waiting": max(0.0, 1 - sum(found.values()))}


def run_profiles(
    models: Sequence[str],
    stages: Sequence[str],
    loras: Sequence[int],
    *,
    pairs: int,
    length: int,
    device: str,
    precision: str,
    console: Console,
) -> dict[str, Any]:
    """Profile reading pairs, or a training step of them, with each model.

    Args:
        models: folders or names.
        stages: of `STAGES`.
        loras: ranks of adapters that are trained; 0 trains every weight.
        pairs: how many; a multiple of 8 for score learning.
        length: tokens of each.
        device, precision: as for `Reranker`.
        console: where progress goes.

    Returns:
        `rows`, each with `seconds`, `tokens_per_second`, `product_flops`, `rate` (what the machine reaches),
        `limit_share` (of `seconds` that the products would take at that rate) and `shares`; and where they were made.
    """
    spec: dict[str, Any] = {"pairs": pairs, "length": length, "budget": None, "gradient_checkpointing": False}
    spec |= {"device": device, "precision": precision}
    rows = []
    for model in models:
        for stage in stages:
            for lora in [0] if stage == "inference" else loras:
                rows.append(_profiled(spec | {"model": model, "stage": stage, "lora": lora}))
                console.print(f"{model}, {stage}: {rows[-1]['limit_share']:.2f} of the limit", highlight=False)
    made = {"threads": torch.get_num_threads(), "versions": versions(), "hardware": hardware()}
    return {"pairs": pairs, "length": length, "rows": rows} | made


def _profiled(spec: dict[str, Any]) -> dict[str, Any]:
    work, backbone = _inference(spec) if spec["stage"] == "inference" else _training(spec)
    tokens = spec["pairs"] * spec["length"]
    seconds = statistics.median(seconds_of(work, REPEATS))
    flops, rate = product_flops(work), product_rate(backbone, min(tokens, token_budget(backbone)))
    return {
        "model": Path(spec["model"]).name,
        "stage": spec["stage"],
        "lora": spec["lora"],
        "precision": str(backbone.compute_dtype).removeprefix("torch."),
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "product_flops": flops,
        "rate": rate,
        "limit_share": flops / rate / seconds,
        "shares": shares(work),
    }


def _inference(spec: dict[str, Any]) -> tuple[Callable[[], Any], Backbone]:
    reranker = Reranker.from_pretrained(
        spec["model"],
        max_length=max(512, spec["length"]),
        device=spec["device"],
        precision=spec["precision"],
    )
    rows = random_pairs(reranker.backbone, spec["pairs"], spec["length"])
    return lambda: reranker.score_sequences(rows), reranker.backbone


def _training(spec: dict[str, Any]) -> tuple[Callable[[], Any], Backbone]:
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(spec, Path(folder))
    items = Items(list(trainer.context.items))

    def step() -> None:
        trainer.training_step(trainer.backbone, {"items": items})
        trainer.backbone.zero_grad()

    return step, trainer.backbone


def profile_markdown(found: dict[str, Any]) -> str:
    """A table of profiles."""
    rows = found["rows"]
    names = ["model", "stage", "tokens per second", "share of the limit", *rows[0]["shares"]]
    lines = [
        [
            row["model"],
            row["stage"] + (f", LoRA {row['lora']}" if row["lora"] else ""),
            f"{row['tokens_per_second']:.0f}",
            f"{row['limit_share']:.2f}",
            *(f"{share:.2f}" for share in row["shares"].values()),
        ]
        for row in rows
    ]
    return markdown_lines(names, lines, left=2)
