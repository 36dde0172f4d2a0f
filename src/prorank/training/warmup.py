"""Stage 1, prompt warmup: GRPO teaches the model to answer with exactly one member of the answer set.

The verdict is one token, so one forward pass gives the distribution of all samples. The loss is either GRPO
over G sampled verdicts or its exact expectation (see `grpo`). The guards against cold start and collapse are
part of the method: balanced batches, an entropy bonus over the answers, a format reward that fades once it is
met, rewards weighted against the verdict that is given too often, KL to the start, an annealed supervised
term, and held-out figures that name a collapse.

What it does not know: multi-token answers, and whether a causal model would end its turn after the answer.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch.nn import functional as F

from prorank.backbone import Backbone
from prorank.engine import slot_logits
from prorank.tokenization import PairTokenizer
from prorank.training import grpo, rewards
from prorank.training.recipe import WarmupSection
from prorank.training.trainer import SlotTrainer


class PairItem(NamedTuple):
    """A tokenised pair and the index of its right answer."""

    input_ids: list[int]
    label: int


class VerdictFigures(NamedTuple):
    """Held-out behaviour of the greedy verdict (the likeliest token of the whole vocabulary).

    Attributes:
        format_rate: share of pairs answered with a member of the answer set.
        balanced_accuracy: mean over the two classes of the share answered rightly; a malformed answer is wrong.
        verdict_balance: share of best-answer verdicts among the well-formed (0 if there is none).
        entropy: mean entropy of the answers' distribution, in nats (at most ln K).
        answer_mass: mean probability of the answer set.
        correct: pairs answered rightly.
        total: pairs.
    """

    format_rate: float
    balanced_accuracy: float
    verdict_balance: float
    entropy: float
    answer_mass: float
    correct: int
    total: int


def verdict_figures(logits: torch.Tensor, answer_ids: torch.Tensor, labels: torch.Tensor) -> VerdictFigures:
    """Held-out figures from vocabulary logits.

    Args:
        logits: (N, V); answer_ids: (K,); labels: (N,) right answer index, 0 or K - 1.

    >>> figures = verdict_figures(torch.eye(4)[[0, 1, 1, 3]], torch.tensor([0, 1]), torch.tensor([0, 1, 0, 1]))
    >>> figures.format_rate, figures.balanced_accuracy
    (0.75, 0.5)
    """
    verdict = rewards.verdicts(logits.argmax(-1), answer_ids)  # (N,)
    right = verdict == labels
    well_formed = verdict >= 0
    classes = [right[labels == label].float().mean().item() for label in labels.unique()]
    best = (verdict == len(answer_ids) - 1).sum().item()
    outcomes = grpo.answer_outcomes(logits, answer_ids)
    return VerdictFigures(
        format_rate=well_formed.float().mean().item(),
        balanced_accuracy=sum(classes) / len(classes),
        verdict_balance=best / max(1, int(well_formed.sum())),
        entropy=grpo.entropy(logits[:, answer_ids].log_softmax(-1)).mean().item(),
        answer_mass=1.0 - outcomes[:, -1].exp().mean().item(),
        correct=int(right.sum()),
        total=len(labels),
    )


def diagnosis(figures: VerdictFigures) -> str:
    """A plain sentence when training has gone wrong, else an empty string.

    >>> diagnosis(VerdictFigures(0.0, 0.0, 0.0, 0.6, 0.0, 0, 100))
    'no reward found: the model never answers from the answer set'
    """
    if figures.format_rate < 0.01:
        return "no reward found: the model never answers from the answer set"
    if figures.format_rate < 0.9:
        return f"format not learned: {figures.format_rate:.0%} of the answers are from the answer set"
    if not 0.05 < figures.verdict_balance < 0.95:
        return (
            f"collapsed: {max(figures.verdict_balance, 1 - figures.verdict_balance):.0%} of the verdicts are the same"
        )
    return ""


class WarmupTrainer(SlotTrainer):
    """Prompt warmup over balanced pairs.

    Args:
        backbone: the model.
        tokenizer: pair tokenizer (answer ids, padding).
        settings: the recipe's `warmup` section.
        items: training pairs in order, relevant and not in turn.
        held_out: pairs for the held-out figures.
        folder, seed, console: see `SlotTrainer`.
    """

    def __init__(
        self,
        backbone: Backbone,
        tokenizer: PairTokenizer,
        settings: WarmupSection,
        items: Sequence[PairItem],
        held_out: Sequence[PairItem],
        folder: Path,
        seed: int,
        console: Console,
    ) -> None:
        self.pair_tokenizer, self.settings, self.held_out_items = tokenizer, settings, held_out
        self.answer_ids = torch.tensor(tokenizer.answer_ids, device=backbone.device)
        self.reference = copy.deepcopy(backbone).eval() if settings.kl and not backbone.has_lora else None
        super().__init__(
            backbone,
            settings,
            items,
            settings.pairs_per_step,
            self.collate,
            folder,
            seed,
            best_by="balanced_accuracy",
            title="warmup",
            console=console,
        )

    def collate(self, items: list[PairItem]) -> dict[str, Any]:
        """Padded batch with the labels."""
        batch = self.pair_tokenizer.collate([item.input_ids for item in items])
        return {**vars(batch), "label": torch.tensor([item.label for item in items])}

    def reference_logits(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Vocabulary logits (B, V) of the starting model: LoRA switched off, or a frozen copy."""
        arguments = (inputs["input_ids"], inputs["attention_mask"], inputs["slot"])
        with torch.no_grad():
            if self.reference is not None:
                return self.reference(*arguments)
            training = self.backbone.training
            self.backbone.eval()
            with self.backbone.without_lora():
                logits = self.backbone(*arguments)
            self.backbone.train(training)
            return logits

    def supervised_weight(self) -> float:
        """Weight of the supervised term: linear from its start to 0 over the first part of the run."""
        progress = self.state.global_step / (self.settings.supervised_share * self.settings.steps)
        return self.settings.supervised_weight * max(0.0, 1.0 - progress)

    def loss_on(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """GRPO loss (exact or sampled) with the guards that the recipe switches on."""
        settings, label = self.settings, inputs["label"]
        logits = model(inputs["input_ids"], inputs["attention_mask"], inputs["slot"])  # (B, V)
        outcomes = grpo.answer_outcomes(logits, self.answer_ids)  # (B, K + 1)
        format_weight = settings.format_weight
        if settings.fade_format:
            mass = 1.0 - outcomes.detach()[:, -1].exp().mean().item()
            format_weight = rewards.faded_format_weight(mass, format_weight)
        reference = self.reference_logits(inputs) if settings.kl else None
        balance = rewards.balance_factors(outcomes.detach())  # (K + 1,)
        if not settings.balance_verdicts:
            balance = torch.ones_like(balance)
        if settings.samples == "exact":
            verdict = torch.arange(outcomes.shape[1], device=outcomes.device)
            verdict = torch.where(verdict < len(self.answer_ids), verdict, -1).expand_as(outcomes)  # (B, K + 1)
            reward = self.reward(verdict, label, format_weight, balance)
            loss = grpo.exact_loss(outcomes, reward, scale=settings.scale_advantages)
            if reference is not None:
                loss = loss + settings.kl * grpo.exact_kl(logits.log_softmax(-1), reference.log_softmax(-1)).mean()
        else:
            loss = self._sampled(logits, label, format_weight, balance, reference, settings.samples)
        answers = logits[:, self.answer_ids].log_softmax(-1)  # (B, K)
        loss = loss - settings.entropy_bonus * grpo.entropy(answers).mean()
        weight = self.supervised_weight()
        if weight:
            loss = loss + weight * F.nll_loss(outcomes, label)
        return loss

    def reward(
        self, verdict: torch.Tensor, label: torch.Tensor, format_weight: float, balance: torch.Tensor
    ) -> torch.Tensor:
        """(format + relevance) * balance of each verdict (B, N); labels (B,)."""
        reward = format_weight * rewards.format_reward(verdict) + rewards.relevance_reward(verdict, label[:, None])
        return reward * balance[verdict]  # verdict -1 takes the last factor, which is 1

    def _sampled(
        self,
        logits: torch.Tensor,
        label: torch.Tensor,
        format_weight: float,
        balance: torch.Tensor,
        reference: torch.Tensor | None,
        samples: int,
    ) -> torch.Tensor:
        log_probs = logits.log_softmax(-1)  # (B, V)
        tokens = torch.multinomial(log_probs.detach().exp(), samples, replacement=True)  # (B, G)
        verdict = rewards.verdicts(tokens, self.answer_ids)
        reward = self.reward(verdict, label, format_weight, balance)
        log_prob = log_probs.gather(-1, tokens)
        return grpo.sampled_loss(
            log_prob,
            log_prob.detach(),
            reward,
            scale=self.settings.scale_advantages,
            epsilon=self.settings.epsilon,
            beta=self.settings.kl,
            ref_log_prob=None if reference is None else reference.log_softmax(-1).gather(-1, tokens),
        )

    def figures(self) -> VerdictFigures:
        """Held-out figures of the model as it is."""
        sequences = [item.input_ids for item in self.held_out_items]
        logits = slot_logits(self.backbone, self.pair_tokenizer, sequences, None)
        labels = torch.tensor([item.label for item in self.held_out_items])
        return verdict_figures(logits, self.answer_ids.cpu(), labels)

    def held_out(self) -> dict[str, float]:
        """Format rate, balanced accuracy, verdict balance and entropy; a collapse is said aloud."""
        figures = self.figures()
        problem = diagnosis(figures)
        if problem and self.is_world_process_zero():
            self.console.print(f"  [yellow]{problem}[/yellow]")
        return {name: float(getattr(figures, name)) for name in figures._fields[:5]}
