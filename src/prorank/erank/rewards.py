"""ERank's rewards: what an integer score is worth depends on the scores of the whole candidate list.

Scores of one query's N documents with G rollouts each stand in one table (N, G); all N * G of them are ranked
together, and equal scores share the best rank among them. A rollout that held no score is not a number (nan) there.
Source: ERank, arXiv 2509.00520. Pure functions of tensors; knows no models, prompts or trainers.

Where the paper leaves a constant open it is an argument here, with our choice as its default: a negative that is not
below every positive earns -0.5, a malformed rollout -1; a negative's reward below all positives lies in 0..1.
"""

from __future__ import annotations

import torch

MISPLACED = -0.5  # a negative that is not below every positive
MALFORMED = -1.0  # a rollout without a score


def ranks(scores: torch.Tensor) -> torch.Tensor:
    """1 + how many of the N * G scores are higher; malformed rollouts rank last and push nobody down.

    Args:
        scores: (N, G), nan where a rollout held no score.

    Returns:
        (N, G) whole numbers from 1.

    >>> ranks(torch.tensor([[9.0, 7.0], [7.0, 2.0], [0.0, float("nan")]]))
    tensor([[1, 2],
            [2, 4],
            [5, 6]])
    """
    flat = scores.flatten()  # (N * G,)
    known = flat.nan_to_num(nan=-torch.inf)
    return (1 + (known[None, :] > known[:, None]).sum(-1)).view_as(scores)


def squared_error_reward(scores: torch.Tensor, teacher: torch.Tensor, highest: float = 10.0) -> torch.Tensor:
    """r_SE: 1 - ((score - teacher) / highest)^2, pointwise; `MALFORMED` without a score.

    Args:
        scores: (N, G).
        teacher: (N,) teacher's or the SFT model's scores, 0..highest.
        highest: top of the scale.

    >>> squared_error_reward(torch.tensor([[10.0, 5.0], [0.0, float("nan")]]), torch.tensor([10.0, 0.0]))
    tensor([[ 1.0000,  0.7500],
            [ 1.0000, -1.0000]])
    """
    reward = 1.0 - ((scores - teacher[:, None]) / highest) ** 2
    return torch.where(scores.isnan(), MALFORMED, reward)


def reciprocal_rank_reward(
    scores: torch.Tensor, relevant: torch.Tensor, reference: torch.Tensor, highest: float = 10.0
) -> torch.Tensor:
    """r_RR: a positive earns 1 / rank; a negative below every positive earns `squared_error_reward`.

    Args:
        scores: (N, G), nan where a rollout held no score.
        relevant: (N,) bool.
        reference: (N,) the SFT model's scores; only those of negatives are used.
        highest: top of the scale.

    Returns:
        (N, G). A negative that is not below every positive's every rollout earns `MISPLACED`.

    Three documents, the first relevant, two rollouts each; the second document's 8 is above the positive's 7:

    >>> scores = torch.tensor([[9.0, 7.0], [8.0, 2.0], [0.0, float("nan")]])
    >>> reciprocal_rank_reward(scores, torch.tensor([True, False, False]), torch.tensor([9.0, 2.0, 5.0]))
    tensor([[ 1.0000,  0.3333],
            [-0.5000,  1.0000],
            [ 0.7500, -1.0000]])
    """
    return _listwise(scores, relevant, reference, highest, 1.0 / ranks(scores))


def ndcg_reward(
    scores: torch.Tensor, relevant: torch.Tensor, reference: torch.Tensor, highest: float = 10.0
) -> torch.Tensor:
    """r_nDCG: as `reciprocal_rank_reward`, but a positive earns its part of DCG over the ideal DCG, times their number.

    A positive's part is 1 / log2(1 + rank); the ideal has all P * G rollouts of the positives first. The factor P * G
    keeps a perfect list at a mean of 1, whatever the number of positives.

    >>> scores = torch.tensor([[9.0, 7.0], [8.0, 2.0], [0.0, 1.0]])
    >>> ndcg_reward(scores, torch.tensor([True, False, False]), torch.tensor([9.0, 2.0, 5.0]))[0]
    tensor([1.2263, 0.6131])
    """
    count = int(relevant.sum()) * scores.shape[1]  # P * G
    places = torch.arange(1, count + 1, device=scores.device)
    ideal = (1.0 / torch.log2(1.0 + places)).sum()
    return _listwise(scores, relevant, reference, highest, count / torch.log2(1.0 + ranks(scores)) / ideal)


def _listwise(
    scores: torch.Tensor, relevant: torch.Tensor, reference: torch.Tensor, highest: float, gain: torch.Tensor
) -> torch.Tensor:
    """(N, G) rewards: `gain` for positives, error to the reference for negatives below them all."""
    if not relevant.any():
        raise ValueError("a list needs a relevant document")
    known = scores.nan_to_num(nan=torch.inf)  # a positive without a score sets no bar
    bar = known[relevant].min()
    below = squared_error_reward(scores, reference, highest)
    reward = torch.where(relevant[:, None], gain, torch.where(scores < bar, below, MISPLACED))
    return torch.where(scores.isnan(), MALFORMED, reward)
