"""Held-out behaviour of the greedy verdict, and a plain name for what went wrong.

Metrics are made pair by pair (`pair_outcomes`) and summed up afterwards (`verdict_metrics`), so that several
processes can each measure a share. Knows tensors only; nothing of models, prompts or trainers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from prorank.warmup import grpo, rewards


class PairOutcome(NamedTuple):
    """What the model does with one held-out pair.

    Attributes:
        verdict: index of the greedy answer; -1 for a malformed one.
        label: index of the right answer.
        entropy: of the answers' distribution, in nats.
        answer_mass: probability of the answer set.
    """

    verdict: int
    label: int
    entropy: float
    answer_mass: float


class VerdictMetrics(NamedTuple):
    """Held-out behaviour of the greedy verdict (the likeliest token of the whole vocabulary).

    Attributes:
        format_rate: share of pairs answered with a member of the answer set, and nothing after it.
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


def pair_outcomes(
    logits: torch.Tensor, answer_ids: torch.Tensor, labels: Sequence[int], ended: torch.Tensor | None = None
) -> list[PairOutcome]:
    """What the model does with each held-out pair.

    Args:
        logits: (N, V); answer_ids: (K,); labels: N right answer indices, 0 or K - 1.
        ended: (N,) whether the turn ends after the first token; None where there is no turn (masked models).

    >>> pair_outcomes(torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([0, 1]), [1])[0].verdict
    0
    """
    verdict = rewards.verdicts(logits.argmax(-1), answer_ids)  # (N,)
    if ended is not None:
        verdict = torch.where(ended, verdict, -1)
    entropy = grpo.entropy(logits[:, answer_ids].log_softmax(-1))
    mass = 1.0 - grpo.answer_outcomes(logits, answer_ids)[:, -1].exp()
    rows = zip(verdict.tolist(), labels, entropy.tolist(), mass.tolist())
    return [PairOutcome(*row) for row in rows]


def verdict_metrics(outcomes: Sequence[PairOutcome], best: int = 1) -> VerdictMetrics:
    """Held-out metrics from the pairs' outcomes.

    Args:
        outcomes: one per pair, in any order.
        best: index of the best answer, K - 1.

    >>> pairs = [PairOutcome(0, 0, 0.0, 1.0), PairOutcome(1, 1, 0.0, 1.0), PairOutcome(-1, 1, 0.0, 0.0)]
    >>> metrics = verdict_metrics(pairs)
    >>> round(metrics.format_rate, 3), metrics.balanced_accuracy
    (0.667, 0.75)
    """
    total = len(outcomes)
    well_formed = [pair for pair in outcomes if pair.verdict >= 0]
    classes = []
    for label in sorted({pair.label for pair in outcomes}):
        of_class = [pair for pair in outcomes if pair.label == label]
        classes.append(sum(pair.verdict == label for pair in of_class) / len(of_class))
    return VerdictMetrics(
        format_rate=len(well_formed) / total,
        balanced_accuracy=sum(classes) / len(classes),
        verdict_balance=sum(pair.verdict == best for pair in well_formed) / max(1, len(well_formed)),
        entropy=sum(pair.entropy for pair in outcomes) / total,
        answer_mass=sum(pair.answer_mass for pair in outcomes) / total,
        correct=sum(pair.verdict == pair.label for pair in outcomes),
        total=total,
    )


def diagnosis(metrics: VerdictMetrics) -> str:
    """A plain sentence when training has gone wrong, else an empty string.

    >>> diagnosis(VerdictMetrics(0.0, 0.0, 0.0, 0.6, 0.0, 0, 100))
    'no reward found: the model never answers from the answer set'
    >>> diagnosis(VerdictMetrics(0.0, 0.0, 0.0, 0.0, 1.0, 0, 100))
    'answers are not ended: 100% of the probability is on the answer set, but the turn goes on behind it'
    """
    mass = metrics.answer_mass
    if metrics.format_rate < 0.01 and mass > 0.5:
        return (
            f"answers are not ended: {mass:.0%} of the probability is on the answer set, but the turn goes on behind it"
        )
    if metrics.format_rate < 0.01:
        return "no reward found: the model never answers from the answer set"
    if metrics.format_rate < 0.9:
        return f"format not learned: {metrics.format_rate:.0%} of the answers are from the answer set"
    if not 0.05 < metrics.verdict_balance < 0.95:
        return (
            f"collapsed: {max(metrics.verdict_balance, 1 - metrics.verdict_balance):.0%} of the verdicts are the same"
        )
    return ""
