"""GRPO for one-token verdicts: pure functions of tensors, one formula each.

A group is the G verdicts sampled for one prompt. Because a verdict is one token, a single forward pass gives
the distribution that all G samples come from. So the expectation over samples can also be taken exactly: the
limit G -> infinity of the same objective, without sampling noise.

Sources: GRPO (DeepSeekMath, arXiv 2402.03300, eq. 3 and 4), PPO's clipped surrogate (arXiv 1707.06347, eq. 7),
Dr. GRPO without std scaling (arXiv 2503.20783, sec. 3), KL estimator (Schulman, "Approximating KL divergence").
This module knows nothing of models, prompts or trainers.
"""

from __future__ import annotations

import torch

EPS = 1e-4  # keeps the division finite where all rewards of a group are equal


def group_advantages(rewards: torch.Tensor, scale: bool = True) -> torch.Tensor:
    """A = (r - mean) / (std + eps) within the group; without `scale` only r - mean (Dr. GRPO).

    The standard deviation is the sample one (G - 1), as in TRL.

    Args:
        rewards: (B, G), G >= 2.

    Returns:
        (B, G).

    >>> group_advantages(torch.tensor([[1.0, 0.0, 0.0, 1.0]]), scale=False)
    tensor([[ 0.5000, -0.5000, -0.5000,  0.5000]])
    """
    centred = rewards - rewards.mean(-1, keepdim=True)
    return centred / (rewards.std(-1, keepdim=True) + EPS) if scale else centred


def clipped_surrogate(
    log_prob: torch.Tensor, old_log_prob: torch.Tensor, advantages: torch.Tensor, epsilon: float = 0.2
) -> torch.Tensor:
    """-min(ratio * A, clip(ratio, 1 - epsilon, 1 + epsilon) * A), ratio = pi / pi_old. Same shape as the inputs.

    >>> at_two = torch.log(torch.tensor(2.0))
    >>> clipped_surrogate(at_two, torch.tensor(0.0), torch.tensor(1.0))
    tensor(-1.2000)
    >>> clipped_surrogate(at_two, torch.tensor(0.0), torch.tensor(-1.0))
    tensor(2.)
    """
    ratio = torch.exp(log_prob - old_log_prob)
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
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


def sampled_loss(
    log_prob: torch.Tensor,
    old_log_prob: torch.Tensor,
    rewards: torch.Tensor,
    *,
    scale: bool = True,
    epsilon: float = 0.2,
    beta: float = 0.0,
    ref_log_prob: torch.Tensor | None = None,
) -> torch.Tensor:
    """GRPO loss over sampled one-token verdicts: mean of surrogate + beta * KL estimate.

    Args:
        log_prob, old_log_prob: (B, G) log-probabilities of the samples, now and when they were drawn.
        rewards: (B, G).
        scale: divide advantages by the group's standard deviation.
        epsilon: clip range.
        beta: weight of the KL estimate; needs `ref_log_prob` (B, G) when above 0.

    Returns:
        Scalar.
    """
    loss = clipped_surrogate(log_prob, old_log_prob, group_advantages(rewards, scale), epsilon)
    if beta > 0:
        if ref_log_prob is None:
            raise ValueError("beta > 0 needs ref_log_prob")
        loss = loss + beta * kl_low_variance(log_prob, ref_log_prob)
    return loss.mean()


def exact_loss(log_probs: torch.Tensor, rewards: torch.Tensor, *, scale: bool = True) -> torch.Tensor:
    """The on-policy GRPO loss with G -> infinity: -E_pi[A], gradient -sum of pi * A * grad log pi.

    With the probabilities p of all outcomes at hand, the group's mean and standard deviation are exact,
    mean = sum p r, var = sum p (r - mean)^2, and enter A as constants, as the sampled ones do.

    Args:
        log_probs: (B, K) log-probabilities of all distinct outcomes; they sum to 1 over K.
        rewards: (B, K) reward of each outcome.
        scale: divide by the standard deviation.

    Returns:
        Scalar; its value is near 0 by construction, its gradient is what matters.

    >>> p = torch.tensor([[0.25, 0.75]], requires_grad=True)
    >>> exact_loss(p.log(), torch.tensor([[1.0, 0.0]]), scale=False).backward()
    >>> p.grad
    tensor([[-0.7500,  0.2500]])
    """
    p = log_probs.exp()
    fixed = p.detach()
    centred = rewards - (fixed * rewards).sum(-1, keepdim=True)
    if scale:
        std = (fixed * centred**2).sum(-1, keepdim=True).sqrt()
        centred = centred / (std + EPS)
    return -(p * centred).sum(-1).mean()


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
