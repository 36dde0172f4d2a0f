"""ERank's rewards: properties over random lists."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prorank.erank.rewards import MALFORMED, MISPLACED, ndcg_reward, ranks, reciprocal_rank_reward, squared_error_reward

LISTWISE = [reciprocal_rank_reward, ndcg_reward]


@st.composite
def lists(draw):
    """Scores (N, G) of 0..10 or nan, which documents are relevant (at least one), and reference scores."""
    documents, rollouts = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    grade = st.one_of(st.integers(0, 10).map(float), st.just(float("nan")))
    scores = draw(st.lists(grade, min_size=documents * rollouts, max_size=documents * rollouts))
    relevant = draw(st.lists(st.booleans(), min_size=documents, max_size=documents).filter(any))
    reference = draw(st.lists(st.integers(0, 10).map(float), min_size=documents, max_size=documents))
    return torch.tensor(scores).view(documents, rollouts), torch.tensor(relevant), torch.tensor(reference)


@pytest.mark.parametrize("reward", LISTWISE)
@given(table=lists(), data=st.data())
def test_moving_a_positive_up_never_lowers_its_reward(reward, table, data):
    scores, relevant, reference = table
    row = data.draw(st.sampled_from([i for i, yes in enumerate(relevant.tolist()) if yes]))
    column = data.draw(st.integers(0, scores.shape[1] - 1))
    higher = scores.clone()
    higher[row, column] = scores[row, column].nan_to_num(nan=-1.0) + data.draw(st.integers(0, 5))
    before, after = reward(scores, relevant, reference), reward(higher, relevant, reference)
    assert after[row, column] >= before[row, column]


@pytest.mark.parametrize("reward", LISTWISE)
@given(table=lists())
def test_a_negative_above_a_positive_never_beats_one_below(reward, table):
    scores, relevant, reference = table
    found = reward(scores, relevant, reference)
    known = scores.nan_to_num(nan=torch.inf)
    bar = known[relevant].min()
    negatives = ~relevant[:, None] & ~scores.isnan()
    assert (found[negatives & (scores >= bar)] == MISPLACED).all()
    assert (found[negatives & (scores < bar)] >= 0).all()
    assert (found[scores.isnan()] == MALFORMED).all()
    assert MALFORMED < MISPLACED < 0


@pytest.mark.parametrize("reward", LISTWISE)
@given(table=lists(), seed=st.integers(0, 100))
def test_the_order_of_documents_and_rollouts_changes_nothing(reward, table, seed):
    scores, relevant, reference = table
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(scores), generator=generator)
    columns = torch.randperm(scores.shape[1], generator=generator)
    found = reward(scores, relevant, reference)[rows][:, columns]
    torch.testing.assert_close(reward(scores[rows][:, columns], relevant[rows], reference[rows]), found)


@given(table=lists())
def test_ranks_are_what_sorting_gives(table):
    scores, _, _ = table
    flat = [s if s == s else float("-inf") for s in scores.flatten().tolist()]
    ordered = sorted(flat, reverse=True)
    assert ranks(scores).flatten().tolist() == [ordered.index(s) + 1 for s in flat]


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 4))
def test_a_perfect_list_earns_its_positives_one_on_average_by_ndcg(positives, rollouts, negatives):
    scores = torch.arange((positives + negatives) * rollouts, 0.0, -1.0).view(-1, rollouts)
    relevant = torch.tensor([True] * positives + [False] * negatives)
    found = ndcg_reward(scores, relevant, torch.zeros(len(relevant)))
    assert found[relevant].mean().item() == pytest.approx(1.0, abs=1e-5)


def test_by_hand():
    scores = torch.tensor([[4.0, 8.0], [6.0, 3.0], [5.0, 1.0]])  # ranks 4 1 / 2 5 / 3 6
    relevant, reference = torch.tensor([True, False, False]), torch.tensor([0.0, 5.0, 1.0])
    expected = torch.tensor([[0.25, 1.0], [MISPLACED, 0.96], [MISPLACED, 1.0]])
    torch.testing.assert_close(reciprocal_rank_reward(scores, relevant, reference), expected)
    torch.testing.assert_close(squared_error_reward(scores, reference)[1], torch.tensor([0.99, 0.96]))


def test_a_list_without_a_positive_is_refused():
    with pytest.raises(ValueError, match="relevant document"):
        ndcg_reward(torch.tensor([[1.0]]), torch.tensor([False]), torch.tensor([1.0]))
