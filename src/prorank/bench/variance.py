"""How noisy the gradient of drawn verdicts is, beside the exact expectation's, which has no noise.

Measured on one batch, for the model before warmup and after it. Rewards are left unscaled, because only then is the
exact gradient the mean of the drawn ones for every group size (but for a factor of 1 - 1/G).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from prorank.bench.guards import changed
from prorank.pipeline.run_folder import prepare_folder
from prorank.pipeline.stages import load_reranker, train_context, train_warmup
from prorank.recipe.loading import made_from
from prorank.recipe.sections import Recipe, WarmupSection
from prorank.training.context import prepare_data
from prorank.util.live import locked
from prorank.warmup.pairs import training_pairs
from prorank.warmup.trainer import WarmupTrainer

PLAIN = {
    "scale_advantages": "none",
    "entropy_bonus": 0.0,
    "kl": 0.0,
    "experimental": {"fade_format": False, "supervised_weight": 0.0},
    "end_of_turn": False,  # the exact form decides on the end apart, the drawn one in the same group
}


def gradient(trainer: WarmupTrainer, batch: dict[str, Any], samples: int | str) -> torch.Tensor:
    """The loss's gradient on a batch, as one vector."""
    trainer.settings = WarmupSection(**(trainer.settings.model_dump() | {"num_generations": samples}))
    trainer.backbone.zero_grad()
    trainer.loss_on(trainer.backbone, batch).backward()
    trainer.notes = {}
    return torch.cat([p.grad.flatten() for p in trainer.backbone.parameters() if p.grad is not None])


def noise(
    trainer: WarmupTrainer, groups: Sequence[int], draws: int, title: str, console: Console
) -> list[dict[str, Any]]:
    """E|g_G - g|^2 / |g|^2 for each group size G, g the exact gradient.

    Args:
        trainer: its first batch is used.
        groups: group sizes.
        draws: gradients drawn for each.
        title: text of the progress bar.
        console: where it goes.
    """
    trainer.backbone.eval()  # no dropout: only the draws may differ
    batch = trainer.collate([trainer.train_dataset[i] for i in range(trainer.settings.pairs_per_step)])
    exact = gradient(trainer, batch, "exact")
    rows = []
    for group in groups:
        rounds = track(range(draws), f"{title}, G={group}", console=console, transient=True)
        drawn = [gradient(trainer, batch, group) for _ in rounds]
        squares = torch.stack([(one - exact).square().sum() for one in drawn])
        mean = torch.stack(drawn).mean(0)
        rows.append(
            {
                "group": group,
                "noise": (squares.mean() / exact.square().sum()).item(),
                "noise_of_mean": ((mean - exact).square().sum() / exact.square().sum()).item(),
            }
        )
    return rows


def run_variance_bench(
    recipe: Recipe, folder: Path, groups: Sequence[int], draws: int, console: Console, force: bool = False
) -> dict[str, Any]:
    """The comparison before and after the recipe's warmup.

    Args:
        recipe: with a warmup.
        folder: of the warmup's run; one that is finished is not repeated.
        groups: group sizes.
        draws: gradients drawn for each.
        console: where progress goes.
        force: start over a warmup of another recipe, other data or another model; refused without.

    Returns:
        `start` and `warmed`: rows of `noise`; `noise_of_mean` should fall like `noise` / `draws`.
    """
    assert recipe.warmup is not None
    with locked(folder):
        prepare_folder(recipe, folder, force=force, resume=True)
        context = prepare_data(recipe, folder, console)
        warmed, _ = train_warmup(context)
    found: dict[str, Any] = {}
    for name, model in (("start", recipe.backbone.model), ("warmed", warmed)):
        reranker = load_reranker(context, model, for_training=True)
        section = WarmupSection(**changed(recipe.warmup.model_dump(), PLAIN))
        items = training_pairs(context, reranker.pair_tokenizer)
        trainer = WarmupTrainer(train_context(context, reranker, section, items, folder / "variance"), [])
        torch.manual_seed(recipe.seed)
        found[name] = noise(trainer, groups, draws, name, console)
    return found | {"draws": draws, "carved_splits": context.collection.carved} | made_from(recipe)
