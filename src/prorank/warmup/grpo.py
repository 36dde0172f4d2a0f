"""GRPO: pure functions of tensors, one formula each.

A group is the G completions sampled for one prompt. When a verdict is one token, a single forward pass gives the
distribution that all G samples come from. So the expectation over samples can also be taken exactly: the limit
G -> infinity of the same objective, without sampling noise.

Sources: GRPO (DeepSeekMath, arXiv 2402.03300, eq. 3 and 4), PPO's clipped surrogate (arXiv 1707.06347, eq. 7),
Dr. GRPO's advantages without std scaling (arXiv 2503.20783, sec. 3), MaxRL's mean in place of the standard deviation
(arXiv 2602.02710, algorithm 1), DAPO's higher upper clip (arXiv 2503.14476, sec. 3), KL estimator (Schulman,
"Approximating KL divergence"). This module knows nothing of models, prompts or trainers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from prorank.types import Scale

EPS = 1e-4  # keeps the division finite where all rewards of a group are equal


def group_advantages(rewards: torch.Tensor, scale: Scale = "std") -> torch.Tensor:
    """A = (r - mean) / d within the group.

    d is std + eps (GRPO; the sample standard deviation over G - 1, as in TRL), mean + eps (MaxRL, whose limit is
    maximum likelihood), or 1 (Dr. GRPO).

    Args:
        rewards: (B, G), G >= 2; not negative for `mean`.
        scale: which d.

    Returns:
        (B, G).

    Raises:
        ValueError: a group of one, which has no spread and nothing to compare with.

    >>> group_advantages(torch.tensor([[1.0, 0.0, 0.0, 1.0]]), scale="none")
    tensor([[ 0.5000, -0.5000, -0.5000,  0.5000]])
    """
    if rewards.shape[-1] < 2:
        raise ValueError("a group needs at least 2 rewards")
    mean = rewards.mean(-1, keepdim=True)
    return (rewards - mean) / _divisor(mean, rewards.std(-1, keepdim=True), scale)


def _divisor(mean: torch.Tensor, std: torch.Tensor, scale: Scale) -> torch.Tensor:
    """What centred rewards are divided by; MaxRL's mean is a share of successes and cannot be negative."""
    if scale == "none":
        return torch.ones_like(mean)
    if scale == "mean" and (mean < 0).any():
        raise ValueError("scale='mean' needs rewards whose mean is not negative")
    return (std if scale == "std" else mean) + EPS


def clipped_surrogate(
    log_prob: torch.Tensor,
    old_log_prob: torch.Tensor,
    advantages: torch.Tensor,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
) -> torch.Tensor:
    """-min(ratio * A, clip(ratio, 1 - epsilon, 1 + epsilon_high) * A), ratio = pi / pi_old. Same shape as the inputs.

    `epsilon_high` None is the symmetric clip; above `epsilon` it lets unlikely tokens rise further (DAPO).

    >>> at_two = torch.log(torch.tensor(2.0))
    >>> clipped_surrogate(at_two, torch.tensor(0.0), torch.tensor(1.0))
    tensor(-1.2000)
    >>> clipped_surrogate(at_two, torch.tensor(0.0), torch.tensor(-1.0))
    tensor(2.)
    """
    ratio = torch.exp(log_prob - old_log_prob)
    clipped = ratio.clamp(1 - epsilon, 1 + (epsilon if epsilon_high is None else epsilon_high))
    return -torch.minimum(ratio * advantages, clipped * advantages)


def kl_low_variance(log_prob: torch.Tensor, ref_log_prob: torch.Tensor) -> torch.Tensor:
    """exp(d) - d - 1 with d = log pi_ref - log pi: an unbiased, never negative estimate of KL(pi || pi_ref).

    >>> kl_low_variance(torch.tensor(-1.0), torch.tensor(-1.0))
    tensor(0.)
    """
    d = ref_log_prob - log_prob
    return torch.exp(d) - d - 1


def entropy(log_probs: torch.Tensor) -> torch.Tensor:
    """-sum p log p over the last axis, in nats; impossible outcomes (-inf) count nothing.

    >>> round(entropy(torch.log(torch.tensor([0.5, 0.5]))).item(), 4)
    0.6931
    """
    p = log_probs.exp()
    return -torch.where(p > 0, p * log_probs, torch.zeros_like(p)).sum(-1)


def exact_kl(log_probs: torch.Tensor, ref_log_probs: torch.Tensor) -> torch.Tensor:
    """KL(pi || pi_ref) = sum over tokens of pi * (log pi - log pi_ref). (B, V), (B, V) -> (B,).

    >>> exact_kl(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.5, 0.5]]).log())
    tensor([0.])
    """
    return (log_probs.exp() * (log_probs - ref_log_probs)).sum(-1)


def mean_of_means(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Token losses -> scalar: the mean over completions of the mean over their tokens (GRPO, eq. 3).

    Args:
        values: (N, L).
        mask: (N, L), 1 for tokens that count.

    >>> mean_of_means(torch.tensor([[1.0, 1.0], [4.0, 0.0]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
    tensor(2.5000)
    """
    return ((values * mask).sum(-1) / mask.sum(-1).clamp(min=1.0)).mean()


class PolicyLoss(NamedTuple):
    """Loss with gradient, and what is logged: mean KL estimate, share of clipped tokens (both detached)."""

    loss: torch.Tensor
    kl: torch.Tensor
    clip_fraction: torch.Tensor


def policy_loss(
    log_prob: torch.Tensor,
    old_log_prob: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    beta: float = 0.0,
    ref_log_prob: torch.Tensor | None = None,
) -> PolicyLoss:
    """GRPO loss over sampled completions: clipped surrogate + beta * KL estimate, see `mean_of_means`.

    Args:
        log_prob, old_log_prob: (N, L) token log-probabilities, now and when they were drawn.
        advantages: (N,) one per completion, from `group_advantages`.
        mask: (N, L), 1 for tokens that count; None counts all.
        epsilon, epsilon_high: clip range.
        beta: weight of the KL estimate; needs `ref_log_prob` (N, L) when above 0.

    Raises:
        ValueError: beta without ref_log_prob.
    """
    mask = torch.ones_like(log_prob) if mask is None else mask.to(log_prob.dtype)
    log_ratio = log_prob - old_log_prob
    advantage = advantages[:, None].expand_as(log_ratio)
    surrogate = clipped_surrogate(log_ratio, torch.zeros_like(log_ratio), advantage, epsilon, epsilon_high)
    kl = torch.zeros_like(log_prob)
    if beta > 0:
        if ref_log_prob is None:
            raise ValueError("beta > 0 needs ref_log_prob")
        kl = kl_low_variance(log_prob, ref_log_prob)
    loss = mean_of_means(surrogate + beta * kl, mask)
    with torch.no_grad():
        ratio = log_ratio.exp()
        high = 1 + (epsilon if epsilon_high is None else epsilon_high)
        clipped = ((ratio < 1 - epsilon) & (advantage < 0)) | ((ratio > high) & (advantage > 0))
        tokens = mask.sum().clamp(min=1.0)
        clip_fraction, mean_kl = (clipped * mask).sum() / tokens, (kl * mask).sum() / tokens
    return PolicyLoss(loss, mean_kl, clip_fraction)


def exact_loss(log_probs: torch.Tensor, rewards: torch.Tensor, *, scale: Scale = "std") -> torch.Tensor:
    """The on-policy GRPO loss with G -> infinity: -E_pi[A], gradient -sum of pi * A * grad log pi.

    With the probabilities p of all outcomes at hand, the group's mean and standard deviation are exact,
    mean = sum p r, var = sum p (r - mean)^2, and enter A as constants, as the sampled ones do. With `mean` and a reward
    of 0 or 1 the gradient is that of -log p(r = 1): maximum likelihood.

    Args:
        log_probs: (B, K) log-probabilities of all distinct outcomes; they sum to 1 over K.
        rewards: (B, K) reward of each outcome.
        scale: see `group_advantages`.

    Returns:
        Scalar; its value is near 0 by construction, its gradient is what matters.

    >>> p = torch.tensor([[0.25, 0.75]], requires_grad=True)
    >>> exact_loss(p.log(), torch.tensor([[1.0, 0.0]]), scale="none").backward()
    >>> p.grad
    tensor([[-0.7500,  0.2500]])
    """
    p = log_probs.exp()
    fixed = p.detach()
    mean = (fixed * rewards).sum(-1, keepdim=True)
    std = (fixed * (rewards - mean) ** 2).sum(-1, keepdim=True).sqrt()
    return -(p * (rewards - mean) / _divisor(mean, std, scale)).sum(-1).mean()


def answer_outcomes(logits: torch.Tensor, answer_ids: torch.Tensor) -> torch.Tensor:
    """Vocabulary logits -> log-probabilities of the K answers and of "any other token".

    All non-answers earn the same reward, so they are one outcome: (B, V) shrinks to (B, K + 1), exactly.

    Args:
        logits: (B, V).
        answer_ids: (K,).

    Returns:
        (B, K + 1) log-probabilities; the last column is every other token together.

    >>> answer_outcomes(torch.zeros(1, 4), torch.tensor([0, 1])).exp()
    tensor([[0.2500, 0.2500, 0.5000]])
    """
    others = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
    others[answer_ids] = False
    masked = logits.masked_fill(~others, -torch.inf)
    outcomes = torch.cat([logits[:, answer_ids], masked.logsumexp(-1, keepdim=True)], dim=-1)
    return outcomes - logits.logsumexp(-1, keepdim=True)


def either_way(log_prob: torch.Tensor) -> torch.Tensor:
    """log p -> log-probabilities of happening and of not happening; (...,) -> (..., 2).

    >>> either_way(torch.tensor([0.25]).log()).exp()
    tensor([[0.2500, 0.7500]])
    """
    # log(1 - p) without loss of digits; p = 1 to the last bit would be -inf, whose gradient is not a number
    return torch.stack([log_prob, torch.log(-torch.expm1(log_prob.clamp(max=-1e-7)))], dim=-1)
