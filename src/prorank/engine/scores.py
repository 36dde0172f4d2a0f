"""Answer logits -> ranking score. One pure function a formula; all take and return float32 tensors.

Knows tensors only. Answers are ordered from worst to best, as in `Prompt.answers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch


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


def argmax_grade(logits: torch.Tensor) -> torch.Tensor:
    """The most probable grade itself; many documents tie.

    Args:
        logits: (B, K) answer logits, worst to best.

    Returns:
        (B,) whole numbers 0..K-1, as float32; NaN where a logit is.

    >>> argmax_grade(torch.tensor([[0.0, 3.0, 1.0]]))
    tensor([1.])
    """
    return logits.argmax(-1).float().where(~logits.isnan().any(-1), torch.nan)


def whole_answers(first: torch.Tensor, after: torch.Tensor, stem: int, longer: Sequence[int]) -> torch.Tensor:
    """Logits of whole answers where some are one of the others and one token more, as `10` may be `1` and `0`.

    With log p(t | stem) from the second position, an answer of two tokens has z(stem) + log p(t | stem), and the stem
    as an answer by itself z(stem) + log(1 - sum of p over these t). The softmax over them is that of whole answers.

    Args:
        first: (B, K) logits of each answer's first token; those of two tokens have the stem's.
        after: (B, L) log-probabilities, over the whole vocabulary, of the second tokens of the L longer answers.
        stem: place of the stem among the answers.
        longer: places of the longer answers, in the order of `after`.

    Returns:
        (B, K).

    >>> first = torch.tensor([[0.0, 2.0, 2.0]])  # 0, 1, 10
    >>> whole_answers(first, torch.tensor([[0.25]]).log(), stem=1, longer=[2])
    tensor([[0.0000, 1.7123, 0.6137]])
    """
    found = first.clone()
    rest = torch.log1p(-after.exp().sum(-1).clamp(max=1 - 1e-7))
    found[:, stem] = first[:, stem] + rest
    found[:, list(longer)] = first[:, list(longer)] + after
    return found


SCORES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "logit_difference": logit_difference,
    "expected_grade": expected_grade,
    "graded_confidence": graded_confidence,
    "argmax_grade": argmax_grade,
}


def probabilities(scores: Sequence[float], calibration: Mapping[str, float]) -> np.ndarray:
    """sigmoid(slope * score + intercept).

    >>> probabilities([1.5], {"slope": 2.0, "intercept": -3.0}).tolist()
    [0.5]
    """
    margin = calibration["slope"] * np.asarray(scores, dtype=float) + calibration["intercept"]
    found: np.ndarray = 1 / (1 + np.exp(-np.clip(margin, -500, 500)))
    return found
