"""Whose sequences the next batch holds: fairness, splitting, cancelling, failing alone. The test steps the model."""

import threading

import pytest
import torch

from prorank.serving.batching import PATIENCE, Batcher, Job, QueueClosed, QueueFull, even_shares
from prorank.serving.service import hand_over_threads


def job(lengths, first=0, groups=None):
    """A job of sequences of these lengths; a sequence's first token is its number."""
    return Job([[first + i] * length for i, length in enumerate(lengths)], groups or [0] * len(lengths))


class Model:
    """Scores a sequence by its first token, and remembers its batches."""

    def __init__(self, poison=None):
        self.batches, self.groups, self.poison = [], [], poison

    def __call__(self, sequences, groups):
        if self.poison is not None and any(ids[0] == self.poison for ids in sequences):
            raise ValueError("poison")
        self.batches.append([ids[0] for ids in sequences])
        self.groups.append(groups)
        return [float(ids[0]) for ids in sequences]


def batcher(model, budget=10, max_pairs=10_000, **options):
    return Batcher(model, budget, max_pairs, **options)


def drain(queue):
    steps = 0
    while queue.step():
        steps += 1
    return steps


def test_a_long_request_is_split_and_its_scores_come_in_order():
    model = Model()
    queue = batcher(model)
    future = queue.submit(job([4] * 7))
    assert not future.done()
    assert drain(queue) == 4
    assert future.result(0) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert all(len(batch) * 4 <= 10 for batch in model.batches)


def test_a_sequence_beyond_the_budget_makes_a_batch_of_its_own():
    model = Model()
    queue = batcher(model)
    future = queue.submit(job([3, 50, 3]))
    drain(queue)
    assert future.result(0) == [0.0, 1.0, 2.0]
    assert [1] in model.batches


def test_a_short_request_does_not_wait_for_a_long_one():
    model = Model()
    queue = batcher(model)
    long = queue.submit(job([2] * 1_000))
    queue.step()
    short = queue.submit(job([2] * 5, first=5_000))
    queue.step()
    assert short.done() and not long.done()
    drain(queue)
    assert long.result(0) == [float(i) for i in range(1_000)]


def test_a_long_request_goes_on_while_short_ones_take_all_there_is():
    model = Model()
    queue = batcher(model)
    long = queue.submit(job([2] * 30))
    for number in range(30 * 4 * (PATIENCE + 1)):
        queue.submit(job([2] * 5, first=1_000 + 10 * number))
        queue.step()
    assert long.done()


def test_two_long_requests_progress_side_by_side():
    model = Model()
    queue = batcher(model)
    queue.submit(job([1] * 100))
    queue.submit(job([1] * 100, first=1_000))
    for _ in range(6):
        queue.step()
    taken = [token for batch in model.batches for token in batch]
    assert abs(sum(t < 1_000 for t in taken) - sum(t >= 1_000 for t in taken)) <= 2


def test_more_requests_than_fit_a_batch_are_served_in_turn():
    model = Model()
    queue = batcher(model, budget=4)
    futures = [queue.submit(job([3, 3, 3], first=10 * number)) for number in range(5)]
    for _ in range(5):
        queue.step()
    assert sorted(token // 10 for batch in model.batches for token in batch) == [0, 1, 2, 3, 4]
    drain(queue)
    assert all(future.done() for future in futures)


def test_what_a_request_leaves_of_its_share_goes_to_those_behind_it():
    jobs = [job([1] * 100), job([1] * 2), job([1] * 100)]
    shares = even_shares(jobs, 30)
    assert [share.stop - share.start for share in shares] == [10, 2, 18]


def test_documents_of_one_query_share_a_group_and_requests_never_do():
    model = Model()
    queue = batcher(model)
    queue.submit(job([1, 1, 1], groups=[0, 0, 1]))
    queue.submit(job([1, 1], groups=[0, 0]))
    queue.step()
    (groups,) = model.groups
    assert sorted(groups.count(group) for group in set(groups)) == [1, 2, 2]


def test_a_cancelled_request_frees_its_work():
    model = Model()
    queue = batcher(model)
    long = queue.submit(job([2] * 1_000))
    other = queue.submit(job([2] * 20, first=5_000))
    queue.step()
    assert long.cancel()
    assert queue.waiting_pairs <= 20
    drain(queue)
    assert other.done()
    assert sum(token < 5_000 for batch in model.batches for token in batch) <= 5


def test_only_the_request_at_fault_fails():
    model = Model(poison=7)
    queue = batcher(model)
    bad, good = queue.submit(job([1, 1], first=7)), queue.submit(job([1, 1], first=20))
    drain(queue)
    assert good.result(0) == [20.0, 21.0]
    with pytest.raises(ValueError, match="poison"):
        bad.result(0)
    assert queue.failures == 0 or queue.failures == 1


def test_a_failed_request_is_not_tried_again_with_what_is_left_of_it():
    model = Model(poison=0)
    queue = batcher(model)
    bad = queue.submit(job([4] * 100))
    assert drain(queue) == 1
    assert isinstance(bad.exception(0), ValueError) and queue.failures == 1


def test_what_does_not_fit_the_queue_is_refused_and_room_comes_back():
    queue = batcher(Model(), max_pairs=10)
    with queue.admitted(8):
        with pytest.raises(QueueFull) as refused, queue.admitted(3):
            pass
        assert refused.value.seconds >= 1
        with queue.admitted(2):
            pass
    with queue.admitted(10):
        pass
    assert queue.admitted_pairs == 0


def test_closing_finishes_what_was_accepted_and_takes_nothing_on():
    go, entered = threading.Event(), threading.Event()

    def slow(sequences, groups):
        entered.set()
        assert go.wait(10)
        return [1.0] * len(sequences)

    queue = batcher(slow)
    queue.start()
    futures = [queue.submit(job([5] * 10)) for _ in range(3)]
    assert entered.wait(10)
    closing = threading.Thread(target=queue.close)
    closing.start()
    while queue.running:
        pass
    with pytest.raises(QueueClosed):
        queue.submit(job([1]))
    with pytest.raises(QueueClosed), queue.admitted(1):
        pass
    go.set()
    closing.join(10)
    assert [future.result(0) for future in futures] == [[1.0] * 10] * 3


def test_batches_are_told_of_with_their_sizes():
    seen = []
    queue = batcher(Model(), observe=seen.append)
    queue.submit(job([2, 3]))
    queue.submit(job([4]))
    drain(queue)
    assert [(ran.requests, ran.pairs, ran.tokens) for ran in seen] == [(2, 3, 9)]


def test_torchs_threads_go_to_the_thread_that_runs_the_model():
    before, seen = torch.get_num_threads(), {}
    torch.set_num_threads(3)
    try:
        take = hand_over_threads()
        assert torch.get_num_threads() == 1  # here, where the model is loaded

        def begin():
            take()
            seen["in"], seen["threads"] = threading.current_thread().name, torch.get_num_threads()

        queue = batcher(Model(), begin=begin)
        queue.start()
        assert seen == {"in": "prorank-engine", "threads": 3}  # before it takes requests
        queue.close()
    finally:
        torch.set_num_threads(before)


def test_a_thread_that_cannot_begin_says_why():
    def begin():
        raise ValueError("no model")

    queue = batcher(Model(), begin=begin)
    with pytest.raises(ValueError, match="no model"):
        queue.start()
    assert not queue.running
