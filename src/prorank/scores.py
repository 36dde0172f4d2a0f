"""Answer logits -> ranking score. One pure function a formula; all take and return float32 tensors.

Knows tensors only. Answers are ordered from worst to best, as in `Prompt.answers`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

ScoreKind = Literal["logit_difference", "expected_grade", "graded_confidence"]


def logit_difference(logits: torch.Tensor) -> torch.Tensor:
    """z(best) - z(worst): the fine-grained score of ProRank (arXiv 2506.03487, stage 2).

    Its sigmoid is P(best) among the two answers; as a difference of logits it never saturates.

    Args:
        logits: (B, K) answer logits, worst to best.

    Returns:
        (B,) scores, any real number.

    >>> logit_difference(torch.tensor([[1.0, 3.0]]))
    tensor([2.])
    """
    return logits[:, -1].float() - logits[:, 0].float()


def expected_grade(logits: torch.Tensor) -> torch.Tensor:
    """Mean grade under the answers' softmax, sum over g of g * P(g), grades 0..K-1.

    Args:
        logits: (B, K) answer logits, worst to best.

    Returns:
        (B,) scores in [0, K-1].

    >>> expected_grade(torch.zeros(1, 11))
    tensor([5.])
    """
    grades = torch.arange(logits.shape[1], dtype=torch.float32, device=logits.device)
    return (logits.float().softmax(-1) * grades).sum(-1)


def graded_confidence(logits: torch.Tensor) -> torch.Tensor:
    """s * P(s) for the most probable grade s: the score of ERank (arXiv 2509.00520).

    Args:
        logits: (B, K) answer logits, worst to best.

    Returns:
        (B,) scores in [0, K-1].

    >>> graded_confidence(torch.tensor([[0.0, 0.0, 40.0]]))
    tensor([2.])
    """
    confidence, grade = logits.float().softmax(-1).max(-1)
    return grade * confidence


SCORES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "logit_difference": logit_difference,
    "expected_grade": expected_grade,
    "graded_confidence": graded_confidence,
}
