"""Blocks at many workers: order, deaths, disagreement; played through in one process."""

import logging
import random

import numpy as np
import pytest

from prorank.engine.scorer import ScoredPairs
from prorank.evaluation.streaming import Pairs
from prorank.evaluation.workers import AHEAD, LOSSES, Ready, WorkerLost, Workers
from prorank.prompts.truncation import Truncation
from prorank.util.errors import InputError, ProrankError

FACTS = {"prorank": "1", "precision": "fp32"}


def block(number):
    return Pairs([("q", f"text {number}")], [0])


def scores_of(pairs):
    return ScoredPairs(
        np.array([float(text.split()[1]) for _, text in pairs.texts], dtype=np.float32), Truncation(0, 0)
    )


class Played:
    """A crew whose answers come in an order of our choice: `order` picks one of the tickets that wait."""

    def __init__(self, places, order=lambda tickets: tickets[0], dies=lambda place, pairs, asked: False):
        self.now, self.order, self.dies = list(places), order, dies
        self.asked, self.hired, self.facts, self.answers = [], [], {}, {}

    def places(self):
        return self.now

    def _ticket(self, answer):
        self.answers[len(self.answers)] = answer
        return len(self.answers) - 1

    def hire(self, place):
        self.hired.append(place)
        facts = self.facts.get(place, FACTS)
        if isinstance(facts, Exception):
            return self._ticket(facts)
        return self._ticket(Ready(facts, {}, 512, False))

    def ask(self, place, pairs):
        self.asked.append((place, pairs.texts[0][1]))
        return self._ticket(WorkerLost("killed") if self.dies(place, pairs, self.asked) else scores_of(pairs))

    def finished(self, tickets):
        return self.order(tickets)

    def answer(self, ticket):
        found = self.answers[ticket]
        if isinstance(found, Exception):
            raise found
        return found


def told(crew, count=12):
    return [float(found.scores[0]) for found in Workers(crew).score_blocks(block(i) for i in range(count))]


@pytest.mark.parametrize("order", [min, max, random.Random(7).choice], ids=["in turn", "last first", "by chance"])
@pytest.mark.parametrize("count", [0, 1, 12])
def test_scores_come_in_the_blocks_order_whoever_is_first(order, count):
    crew = Played("abc", order)
    assert told(crew, count) == list(range(count))
    assert sorted(int(text.split()[1]) for _, text in crew.asked) == list(range(count))


def test_a_block_whose_worker_died_is_scored_once_more_and_told_once(caplog):
    crew = Played("ab", dies=lambda place, pairs, asked: len(asked) == 4)
    with caplog.at_level(logging.WARNING):
        assert told(crew) == list(range(12))
    (lost,) = {text for _, text in crew.asked if [other for _, other in crew.asked].count(text) == 2}
    assert len(crew.asked) == 13 and crew.asked[3][1] == lost
    assert len(crew.hired) == 3 and "killed); its block goes to another" in caplog.text


def test_a_machine_that_goes_is_left_out_and_one_that_comes_is_used():
    crew = Played("ab")

    def dies(place, pairs, asked):
        if len(asked) == 5:
            crew.now = [other for other in "abc" if other != place]
            return True
        return False

    crew.dies = dies
    assert told(crew) == list(range(12))
    gone = crew.asked[4][0]
    assert gone not in {place for place, _ in crew.asked[5:]} and "c" in {place for place, _ in crew.asked}


def test_a_block_that_ends_every_worker_stops_the_run():
    crew = Played("abcde", dies=lambda place, pairs, asked: pairs == block(2))
    found = []
    with pytest.raises(ProrankError, match=rf"block 3 .* ended {LOSSES} workers, at last .: killed"):
        for scored in Workers(crew).score_blocks(block(i) for i in range(30)):
            found.append(float(scored.scores[0]))
    assert found == [0, 1] and [text for _, text in crew.asked].count("text 2") == LOSSES


def test_a_place_where_workers_only_die_is_given_up():
    crew = Played("ab", dies=lambda place, pairs, asked: place == "a")
    assert told(crew) == list(range(12))
    assert crew.hired.count("a") == LOSSES


def test_deaths_that_are_far_between_do_not_add_up():
    crew = Played("a", dies=lambda place, pairs, asked: len(asked) % 3 == 0)
    assert told(crew, 20) == list(range(20)) and crew.hired.count("a") > LOSSES


def test_without_any_worker_the_last_death_is_told():
    crew = Played("a")
    crew.facts["a"] = WorkerLost("no module named prorank")
    with pytest.raises(ProrankError, match=r"no worker is left: a: no module named prorank .*same command again"):
        Workers(crew)
    with pytest.raises(ProrankError, match="no machine of the cluster offers a CPU"):
        Workers(Played(""))


def test_workers_that_are_not_alike_are_refused():
    crew = Played("ab")
    crew.facts["b"] = FACTS | {"precision": "bf16"}
    with pytest.raises(ProrankError, match=r"worker at b .*: precision: bf16 there, fp32 elsewhere"):
        told(crew)


def test_a_model_that_a_worker_cannot_load_is_told_with_its_place():
    crew = Played("a")
    crew.facts["a"] = InputError("no such model", hint="copy it")
    with pytest.raises(ProrankError, match=r"worker at a: no such model \(copy it\)"):
        Workers(crew)


def test_what_a_worker_raises_of_a_block_is_told_at_that_blocks_turn():
    crew, found = Played("ab", max), []
    ask = crew.ask
    crew.ask = lambda place, pairs: crew._ticket(InputError("bad pair")) if pairs == block(3) else ask(place, pairs)
    with pytest.raises(InputError, match="bad pair"):
        for scored in Workers(crew).score_blocks(block(i) for i in range(12)):
            found.append(float(scored.scores[0]))
    assert found == [0, 1, 2]


def test_blocks_are_read_a_bounded_way_ahead():
    read, crew = [], Played("abc", max)
    first = []

    def order(tickets):  # the first block's worker is slow
        slow = [t for t in tickets if crew.answers[t] is first[0]] if first else []
        left = [t for t in tickets if t not in slow]
        return (left or slow)[0]

    def coming():
        for i in range(40):
            read.append(i)
            yield block(i)

    crew.order = order
    ask = crew.ask

    def slow_first(place, pairs):
        ticket = ask(place, pairs)
        if pairs == block(0):
            first.append(crew.answers[ticket])
        return ticket

    crew.ask = slow_first
    scores = Workers(crew).score_blocks(coming())
    assert float(next(scores).scores[0]) == 0
    assert len(read) == AHEAD * 3
    assert [float(found.scores[0]) for found in scores] == list(range(1, 40))


def test_what_the_first_worker_warned_of_is_said_once(caplog):
    crew = Played("ab")
    crew._ticket = lambda answer, real=crew._ticket: real(
        answer._replace(warnings=["odd weights"]) if isinstance(answer, Ready) else answer
    )
    with caplog.at_level(logging.WARNING):
        told(crew)
    assert caplog.messages == ["a: odd weights"]


def test_what_was_cut_is_said_in_the_models_words(caplog):
    crew = Played("a")
    with caplog.at_level(logging.WARNING):
        Workers(crew).warn(ScoredPairs(np.empty(0), Truncation(2, 700, documents=2), 0, 9))
    assert "2 of 9 pairs were cut to 512 tokens" in caplog.text
