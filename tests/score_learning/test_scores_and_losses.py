import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prorank.engine.scores import expected_grade, graded_confidence, logit_difference
from prorank.score_learning import losses

floats = st.floats(-30, 30, width=32)
lists = st.lists(floats, min_size=2, max_size=6)


@given(lists, st.floats(-50, 50))
def test_scores_do_not_change_when_all_logits_shift(logits, shift):
    z = torch.tensor([logits])
    scores = [logit_difference, expected_grade]
    best, second = z.topk(2).values[0].tolist()
    if best - second > 1e-3:  # at a tie the most probable grade leaps, and a shifted logit is rounded
        scores.append(graded_confidence)
    for score in scores:
        torch.testing.assert_close(score(z + shift), score(z), atol=2e-3, rtol=1e-3)


@given(lists)
def test_grades_stay_in_range(logits):
    z = torch.tensor([logits])
    top = len(logits) - 1
    assert -1e-4 <= expected_grade(z).item() <= top + 1e-4
    assert 0 <= graded_confidence(z).item() <= top + 1e-4


def test_logit_difference_does_not_saturate():
    z = torch.tensor([[-20.0, 20.0], [-20.0, 20.5]])
    score = logit_difference(z)
    assert score[1] > score[0]
    assert torch.sigmoid(score)[0] == torch.sigmoid(score)[1] == 1.0  # what a probability would have lost


def test_graded_confidence_by_hand():
    probabilities = torch.tensor([[0.1, 0.3, 0.6]])
    assert graded_confidence(probabilities.log()).item() == pytest.approx(2 * 0.6)
    assert expected_grade(probabilities.log()).item() == pytest.approx(0.3 + 1.2)


LISTS_OR_PAIRS = [losses.pairwise_logistic, losses.pairwise_margin, losses.listwise_softmax, losses.lambda_loss]
SCORES = torch.tensor([[2.0, 1.0, -1.0]])
LABELS = torch.tensor([[1, 0, 0]])


def test_losses_by_hand():
    sigmoid = [1 / (1 + math.exp(-s)) for s in (2.0, 1.0, -1.0)]
    expected = -(math.log(sigmoid[0]) + math.log(1 - sigmoid[1]) + math.log(1 - sigmoid[2])) / 3
    assert losses.pointwise_bce(SCORES, LABELS).item() == pytest.approx(expected, rel=1e-5)
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-3))) / 2
    assert losses.pairwise_logistic(SCORES, LABELS).item() == pytest.approx(expected, rel=1e-5)
    assert losses.pairwise_margin(SCORES, LABELS, margin=2.0).item() == pytest.approx((1 + 0) / 2)
    total = sum(math.exp(s) for s in (2.0, 1.0, -1.0))
    assert losses.listwise_softmax(SCORES, LABELS).item() == pytest.approx(-math.log(math.exp(2) / total), rel=1e-5)
    # ranks 1, 2, 3 and one gain of 1: each pair's exchange (rho) and its bound (delta, gaps of 1 and 2 places)
    discount = [1 / math.log2(1 + rank) for rank in (1, 2, 3)]
    near = 10 * (discount[0] - discount[1]) + discount[0] - discount[1]
    far = 10 * (discount[1] - discount[2]) + discount[0] - discount[2]
    expected = (near * math.log2(1 + math.exp(-1)) + far * math.log2(1 + math.exp(-3))) / 2
    assert losses.lambda_loss(SCORES, LABELS).item() == pytest.approx(expected, rel=1e-5)
    teacher = torch.tensor([[1.0, 0.0, 0.0]])
    assert losses.margin_mse(SCORES, teacher).item() == pytest.approx(((1 - 1) ** 2 + (3 - 1) ** 2) / 2)


def test_graded_labels_matter():
    graded = torch.tensor([[1, 3, 0]])
    assert losses.pairwise_logistic(SCORES, graded) > losses.pairwise_logistic(SCORES, torch.tensor([[3, 1, 0]]))
    target = torch.tensor([0.25, 0.75, 0.0])
    expected = -(target * SCORES[0].log_softmax(-1)).sum()
    torch.testing.assert_close(losses.listwise_softmax(SCORES, graded), expected)
    assert losses.pointwise_bce(torch.tensor([[9.0, -9.0]]), torch.tensor([[3, 0]])).item() < 1e-3


@given(st.lists(st.floats(-3, 3, width=32), min_size=2, max_size=6), st.floats(0.1, 5))
def test_listwise_kl_is_zero_only_for_the_same_distribution(teacher, change):
    t = torch.tensor([teacher])
    assert losses.listwise_kl(t + 3.0, t).item() == pytest.approx(0.0, abs=1e-4)
    moved = t.clone()
    moved[0, t.argmax()] -= change
    assert losses.listwise_kl(moved, t).item() > 0


@pytest.mark.parametrize("loss", list(losses.LABEL_LOSSES.values()))
def test_a_better_order_costs_less(loss):
    worse, better = torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([[2.0, 1.0, 0.0]])
    assert loss(better, LABELS) < loss(worse, LABELS)
    scores = worse.clone().requires_grad_()
    loss(scores, LABELS).backward()
    assert scores.grad[0, 0] < 0  # descent lifts the positive


@pytest.mark.parametrize("loss", LISTS_OR_PAIRS)
def test_lists_without_a_positive_cost_nothing(loss):
    scores = SCORES.clone().requires_grad_()
    value = loss(scores, torch.zeros_like(LABELS))
    value.backward()
    assert value.item() == 0.0 and torch.isfinite(scores.grad).all()


class Logits(torch.nn.Module):
    """What sentence-transformers' losses ask of a CrossEncoder, whose pairs are their own logits."""

    num_labels, device = 1, torch.device("cpu")

    def __init__(self, logits):
        super().__init__()
        self.logits, self.read = logits.flatten(), 0

    def preprocess(self, pairs, **_):
        return {"count": torch.tensor(len(pairs))}

    def forward(self, tokens):
        start, self.read = self.read, self.read + int(tokens["count"])
        return {"scores": self.logits[start : self.read]}


def test_lambda_loss_equals_sentence_transformers_in_values_and_gradients():
    theirs = pytest.importorskip("sentence_transformers.cross_encoder.losses")
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(6, 7, generator=generator), torch.randint(0, 4, (6, 7), generator=generator)
    labels[5] = 0
    mine, other = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    ours = losses.lambda_loss(mine, labels)
    loss = theirs.LambdaLoss(Logits(other))([["q"] * 6, [["d"] * 7] * 6], list(labels))
    ours.backward()
    loss.backward()
    torch.testing.assert_close(ours, loss)
    torch.testing.assert_close(mine.grad, other.grad)


def test_losses_agree_with_sentence_transformers_formulas():
    """RankNet and ListNet there are written over raw logits; the numbers must be the same."""
    scores, labels = torch.randn(4, 5), torch.zeros(4, 5).long()
    labels[:, 0] = 1
    ranknet = torch.nn.functional.binary_cross_entropy_with_logits(
        (scores[:, :1] - scores[:, 1:]).flatten(), torch.ones(16)
    )
    torch.testing.assert_close(losses.pairwise_logistic(scores, labels), ranknet)
    softmax = torch.nn.functional.cross_entropy(scores, torch.zeros(4).long())
    torch.testing.assert_close(losses.listwise_softmax(scores, labels), softmax)
