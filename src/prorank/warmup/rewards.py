"""Rewards for verdicts: pure functions of tensors. Knows nothing of models or trainers.

A verdict is the index of the answer that was given, or -1 where the token is no answer at all.
"""

from __future__ import annotations

import torch

LARGEST_FACTOR = 10.0  # of a verdict that is given less often than others


def verdicts(tokens: torch.Tensor, answer_ids: torch.Tensor) -> torch.Tensor:
    """Which answer each token is.

    Args:
        tokens: any shape, token ids.
        answer_ids: (K,) token id of each answer.

    Returns:
        Same shape, answer index 0..K-1, or -1 for any other token.

    >>> verdicts(torch.tensor([7, 5, 9]), torch.tensor([5, 7]))
    tensor([ 1,  0, -1])
    """
    match = tokens.unsqueeze(-1) == answer_ids  # (..., K)
    return torch.where(match.any(-1), match.long().argmax(-1), -1)


def format_reward(verdict: torch.Tensor, ended: torch.Tensor | None = None) -> torch.Tensor:
    """1 for exactly one member of the answer set and then the end of the turn, else 0 (ProRank, prompt warmup).

    Half of it is for the answer and half for ending after it, so that a model that does neither can learn one after
    the other. Metrics on held-out pairs ask for both.

    Args:
        verdict: answer index or -1.
        ended: whether the turn ends after the answer; None where there is no turn (masked models).

    >>> format_reward(torch.tensor([0, 1, -1]))
    tensor([1., 1., 0.])
    >>> format_reward(torch.tensor([0, 1, -1]), torch.tensor([True, False, True]))
    tensor([1.0000, 0.5000, 0.0000])
    """
    answered = (verdict >= 0).float()
    return answered if ended is None else answered * (1.0 + ended.float()) / 2.0


def relevance_reward(verdict: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """1 where the verdict equals the label, else 0 (ProRank, prompt warmup).

    Args:
        verdict: answer index or -1; label: answer index, broadcastable to it.

    >>> relevance_reward(torch.tensor([[0, 1, -1]]), torch.tensor([[1]]))
    tensor([[0., 1., 0.]])
    """
    return (verdict == label).float()


def faded_format_weight(format_rate: float, weight: float = 1.0) -> float:
    """Weight of the format reward once format is partly met: weight * (1 - format rate).

    From a backbone without a prior for the answers, a constant format reward goes on pulling towards
    whichever answer is likelier after format is learned, and the verdicts collapse onto it.

    Args:
        format_rate: probability mass on the answer set in this batch, 0..1.
        weight: weight at format rate 0.

    >>> faded_format_weight(0.75)
    0.25
    """
    return weight * (1.0 - min(max(format_rate, 0.0), 1.0))


def balance_factors(share: torch.Tensor) -> torch.Tensor:
    """Factor of each verdict's reward: 1 / (K * share), where share is its part of the batch's answers.

    A policy gradient moves each answer in proportion to its probability, so the likelier answer runs away with
    the format reward before relevance is learned. Weighting by the inverse share takes that lead away: a verdict
    that is hardly given earns more when it is right. Our guard, not in the papers.

    Args:
        share: (K,) sums to 1.

    Returns:
        (K + 1,) factors of at most `LARGEST_FACTOR`; 1 for anything that is no answer.

    >>> balance_factors(torch.tensor([0.75, 0.25]))
    tensor([0.6667, 2.0000, 1.0000])
    """
    factors = (1.0 / (len(share) * share)).clamp(max=LARGEST_FACTOR)
    return torch.cat([factors, factors.new_ones(1)])
