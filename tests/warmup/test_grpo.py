import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prorank.warmup import grpo, rewards


def test_advantages_by_hand():
    r = torch.tensor([[2.0, 0.0, 1.0, 1.0]])
    std = math.sqrt(2 / 3)
    expected = torch.tensor([[1.0, -1.0, 0.0, 0.0]])
    torch.testing.assert_close(grpo.group_advantages(r), expected / (std + grpo.EPS))
    torch.testing.assert_close(grpo.group_advantages(r, scale="none"), expected)


@given(st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=8))
def test_advantages_sum_to_zero_and_equal_rewards_teach_nothing(values):
    r = torch.tensor([values])
    assert abs(grpo.group_advantages(r).sum().item()) < 1e-2 * len(values)
    same = torch.full_like(r, values[0])
    assert grpo.group_advantages(same).abs().max() < 1e-2


def test_clipping_stops_the_gradient_where_it_should():
    for ratio, advantage, flows in [(1.5, 1.0, False), (1.1, 1.0, True), (0.5, -1.0, False), (1.5, -1.0, True)]:
        log_prob = torch.tensor(math.log(ratio), requires_grad=True)
        grpo.clipped_surrogate(log_prob, torch.tensor(0.0), torch.tensor(advantage)).backward()
        assert (log_prob.grad.abs() > 0).item() == flows


@given(st.floats(-5, 0), st.floats(-5, 0))
def test_kl_estimate_is_never_negative(a, b):
    assert grpo.kl_low_variance(torch.tensor(a), torch.tensor(b)).item() >= -1e-6


def test_kl_estimate_is_unbiased():
    logits, reference = torch.randn(6), torch.randn(6)
    p, q = logits.log_softmax(-1), reference.log_softmax(-1)
    estimate = (p.exp() * grpo.kl_low_variance(p, q)).sum()
    torch.testing.assert_close(estimate, grpo.exact_kl(p[None], q[None])[0])
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=logits), torch.distributions.Categorical(logits=reference)
    )
    torch.testing.assert_close(estimate, expected)


def test_outcomes_gather_all_other_tokens():
    logits = torch.randn(3, 11)
    outcomes = grpo.answer_outcomes(logits, torch.tensor([4, 7]))
    p = logits.softmax(-1)
    torch.testing.assert_close(outcomes.exp()[:, :2], p[:, [4, 7]])
    torch.testing.assert_close(outcomes.exp().sum(-1), torch.ones(3))
    others = [i for i in range(11) if i not in (4, 7)]
    torch.testing.assert_close(outcomes.exp()[:, 2], p[:, others].sum(-1))


def one_sample_gradients(scale, samples=20_000, group=8):
    """(exact gradient, mean sampled gradient) at the logits of one prompt with five tokens and two answers."""
    torch.manual_seed(5)
    answers, label = torch.tensor([0, 1]), torch.tensor([[1]])
    start = torch.tensor([[0.3, -0.2, 0.8, 0.1, -0.5]])
    logits = start.clone().requires_grad_()
    outcomes = grpo.answer_outcomes(logits, answers)
    reward = torch.tensor([[1.0, 2.0, 0.0]])
    grpo.exact_loss(outcomes, reward, scale=scale).backward()
    exact = logits.grad.clone()
    logits = start.expand(samples, -1).clone().requires_grad_()
    log_probs = logits.log_softmax(-1)
    tokens = torch.multinomial(log_probs.detach().exp(), group, replacement=True)
    verdict = rewards.verdicts(tokens, answers)
    r = rewards.format_reward(verdict) + rewards.relevance_reward(verdict, label)
    log_prob = log_probs.gather(-1, tokens)
    flat = log_prob.reshape(-1, 1)
    grpo.policy_loss(flat, flat.detach(), grpo.group_advantages(r, scale).reshape(-1)).loss.backward()
    return exact[0], logits.grad.sum(0)


def test_sampled_gradient_converges_to_the_exact_one():
    exact, sampled = one_sample_gradients(scale="none")
    # Subtracting the group's own mean shrinks the expected gradient by (G - 1) / G.
    torch.testing.assert_close(sampled * 8 / 7, exact, atol=0.006, rtol=0.03)


def test_scaled_exact_gradient_is_the_limit_of_large_groups():
    exact, sampled = one_sample_gradients(scale="std", samples=2_000, group=256)
    torch.testing.assert_close(sampled, exact, atol=0.01, rtol=0.03)


def test_exact_loss_raises_the_rewarded_answer():
    logits = torch.zeros(1, 5, requires_grad=True)
    outcomes = grpo.answer_outcomes(logits, torch.tensor([0, 1]))
    grpo.exact_loss(outcomes, torch.tensor([[1.0, 2.0, 0.0]])).backward()
    assert logits.grad[0, 1] < logits.grad[0, 0] < logits.grad[0, 2]  # descent lifts the right one most


def test_beta_needs_a_reference():
    x, nothing = torch.zeros(2, 1), torch.zeros(2)
    with pytest.raises(ValueError, match="ref_log_prob"):
        grpo.policy_loss(x, x, nothing, beta=0.1)
    with_kl = grpo.policy_loss(x, x, nothing, beta=0.5, ref_log_prob=x + 1.0)
    assert with_kl.loss.item() == pytest.approx(0.5 * (math.e - 2))
    assert with_kl.kl.item() == pytest.approx(math.e - 2)


def test_rewards_and_verdicts():
    tokens = torch.tensor([[9, 4, 7]])
    verdict = rewards.verdicts(tokens, torch.tensor([4, 7]))
    assert verdict.tolist() == [[-1, 0, 1]]
    assert rewards.format_reward(verdict).tolist() == [[0, 1, 1]]
    assert rewards.relevance_reward(verdict, torch.tensor([[1]])).tolist() == [[0, 0, 1]]


@given(st.floats(-1, 2), st.floats(0, 3))
def test_the_format_reward_fades(rate, weight):
    faded = rewards.faded_format_weight(rate, weight)
    assert 0 <= faded <= weight
    assert rewards.faded_format_weight(1.0, weight) == 0
