"""Score-learning losses: pure functions of scores, one formula each. Knows tensors only.

Scores are laid out as candidate lists: (Q, N), one row per query. Labels are grades (0 = not relevant).
Every loss is a mean over queries (or over pairs, where it is defined on pairs).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

MU = 10.0  # weight of LambdaLoss's tighter bound beside LambdaRank's


def pointwise_bce(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of sigmoid(score) with the grade scaled to 0..1 (per-row maximum, at least 1).

    Args:
        scores: (Q, N); labels: (Q, N) grades.

    Returns:
        Scalar.

    >>> round(pointwise_bce(torch.zeros(1, 2), torch.tensor([[1, 0]])).item(), 4)
    0.6931
    """
    top = labels.max(-1, keepdim=True).values.clamp(min=1)
    return F.binary_cross_entropy_with_logits(scores, labels.float() / top)


def _ordered_pairs(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Score differences s_i - s_j of all pairs with label_i > label_j, as one vector (P,)."""
    differences = scores.unsqueeze(-1) - scores.unsqueeze(-2)  # (Q, N, N)
    better = labels.unsqueeze(-1) > labels.unsqueeze(-2)
    return differences[better]


def pairwise_logistic(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """log(1 + exp(-(s_i - s_j))) over all pairs i better than j (RankNet, Burges et al. 2005). 0 if no pair.

    >>> round(pairwise_logistic(torch.tensor([[2.0, 0.0]]), torch.tensor([[1, 0]])).item(), 4)
    0.1269
    """
    differences = _ordered_pairs(scores, labels)
    return F.softplus(-differences).mean() if len(differences) else scores.sum() * 0.0


def pairwise_margin(scores: torch.Tensor, labels: torch.Tensor, margin: float = 1.0) -> torch.Tensor:
    """max(0, margin - (s_i - s_j)) over all pairs i better than j (Ranking SVM, Joachims 2002). 0 if no pair.

    >>> pairwise_margin(torch.tensor([[0.25, 0.0]]), torch.tensor([[1, 0]]))
    tensor(0.7500)
    """
    differences = _ordered_pairs(scores, labels)
    return F.relu(margin - differences).mean() if len(differences) else scores.sum() * 0.0


def listwise_softmax(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy between softmax(scores) and the labels as a distribution (ListNet, Cao et al. 2007).

    With one positive this is the softmax over 1 positive and n negatives of contrastive training. Graded
    labels weigh in proportion. Rows without a positive are left out.

    >>> round(listwise_softmax(torch.zeros(1, 4), torch.tensor([[1, 0, 0, 0]])).item(), 4)
    1.3863
    """
    total = labels.sum(-1, keepdim=True).float()
    rows = total.squeeze(-1) > 0
    if not rows.any():
        return scores.sum() * 0.0
    target = labels[rows].float() / total[rows]
    return -(target * scores[rows].log_softmax(-1)).sum(-1).mean()


def lambda_loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(mu delta_ij + rho_ij) |G_i - G_j| log2(1 + exp(-(s_i - s_j))), the mean over pairs i better than j.

    0 if there is no pair.
    With r the rank by the scores, 1/D(r) = 1/log2(1 + r) and G_i = (2^label_i - 1) / DCG of the best order:
    rho_ij = |1/D(r_i) - 1/D(r_j)| is what exchanging the two would change, delta_ij = |1/D(g) - 1/D(g + 1)| with
    g = |r_i - r_j| bounds NDCG more tightly, and mu = 10. Ranks have no gradient.

    Source: NDCG-Loss2++ of the LambdaLoss framework, Wang et al. 2018 (CIKM).

    >>> round(lambda_loss(torch.tensor([[0.0, 1.0]]), torch.tensor([[1, 0]])).item(), 4)
    7.6918
    """
    better = labels.unsqueeze(-1) > labels.unsqueeze(-2)  # (Q, N, N)
    if not better.any():
        return scores.sum() * 0.0
    gains = 2.0 ** labels.float() - 1
    ranks = torch.argsort(scores, dim=-1, descending=True, stable=True).argsort(-1).float() + 1
    places = torch.arange(1, scores.shape[-1] + 1, device=scores.device)
    best = (gains.sort(-1, descending=True).values * _discount(places)).sum(-1, keepdim=True)
    gains = gains / best.clamp(min=1e-9)  # 0 in a list without a positive
    gap = (ranks.unsqueeze(-1) - ranks.unsqueeze(-2)).abs()
    rho = (_discount(ranks).unsqueeze(-1) - _discount(ranks).unsqueeze(-2)).abs()
    delta = _discount(gap.clamp(min=1)) - _discount(gap + 1)
    gain = gains.unsqueeze(-1) - gains.unsqueeze(-2)
    logistic = F.softplus(scores.unsqueeze(-2) - scores.unsqueeze(-1)) / math.log(2)
    return ((MU * delta + rho) * gain * logistic)[better].mean()


def _discount(rank: torch.Tensor) -> torch.Tensor:
    """What a gain at a rank counts for in DCG: 1 / log2(1 + rank)."""
    return 1 / torch.log2(1 + rank)


def terms_of(loss: str, labels: torch.Tensor) -> int:
    """How many terms a loss on labels is the mean of: documents, pairs in order, or lists with a positive.

    >>> terms_of("pairwise", torch.tensor([[2, 1, 0], [1, 0, 0]]))
    5
    """
    if loss == "pointwise":
        return labels.numel()
    if loss == "listwise":
        return int((labels.sum(-1) > 0).sum())
    return int((labels.unsqueeze(-1) > labels.unsqueeze(-2)).sum())


def margin_mse(scores: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """((s_0 - s_j) - (t_0 - t_j))^2 over j >= 1, first document of a row against the rest.

    Source: MarginMSE, Hofstaetter et al. 2020 (arXiv 2010.02666).

    >>> margin_mse(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]]))
    tensor(4.)
    """
    student_margin = scores[:, :1] - scores[:, 1:]
    teacher_margin = teacher[:, :1] - teacher[:, 1:]
    return F.mse_loss(student_margin, teacher_margin)


def pointwise_mse(scores: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """(s_j - t_j)^2: the student's scores become the teacher's own (Ettin rerankers, 2026).

    >>> pointwise_mse(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]]))
    tensor(2.)
    """
    return F.mse_loss(scores, teacher)


def listwise_kl(scores: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL(softmax(teacher) || softmax(scores)) per list (RankDistil's listwise form; tevatron, FlagEmbedding).

    >>> listwise_kl(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 2.0]]))
    tensor(0.)
    """
    return F.kl_div(scores.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True)


LABEL_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "pointwise": pointwise_bce,
    "pairwise": pairwise_logistic,
    "margin": pairwise_margin,
    "listwise": listwise_softmax,
    "lambda": lambda_loss,
}
TEACHER_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "kl": listwise_kl,
    "margin_mse": margin_mse,
    "mse": pointwise_mse,
}
