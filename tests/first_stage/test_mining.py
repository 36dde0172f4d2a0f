import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank.first_stage.mining import TIERS, mine_negatives
from prorank.util.errors import ProrankError

# d0001 is rank 1, d1200 is rank 1200.
LONG = {"q": {f"d{i:04}": 2000.0 - i for i in range(1, 1201)}}


def rank(document):
    return int(document[1:])


def test_tiers_are_those_of_erank():
    assert TIERS == {"hard": (1, 10), "medium": (11, 100), "easy": (101, 1000)}


@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_gives_exactly_its_ranks(tier):
    first, last = TIERS[tier]
    mined = mine_negatives(LONG, {"q": {}}, {tier: 5000})
    assert [rank(d) for d in mined.negatives["q"]] == list(range(first, last + 1))
    assert mined.shortfall == {tier: 5000 - (last - first + 1)}


def test_quotas_are_met_from_each_tier():
    mined = mine_negatives(LONG, {"q": {"d0003": 1}}, {"hard": 4, "medium": 2, "easy": 1})
    found = [rank(d) for d in mined.negatives["q"]]
    assert [sum(a <= r <= b for r in found) for a, b in TIERS.values()] == [4, 2, 1]
    assert 3 not in found and len(set(found)) == 7
    assert mined.shortfall == {"hard": 0, "medium": 0, "easy": 0} and mined.filtered == 0


def test_relevant_documents_are_never_drawn_but_judged_irrelevant_ones_may_be():
    run = {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}
    mined = mine_negatives(run, {"q": {"a": 1, "b": 2, "c": 0}}, {"hard": 3})
    assert mined.negatives == {"q": ["c"]} and mined.shortfall == {"hard": 2}


def test_positives_keep_their_rank():
    """A positive at rank 5 does not pull rank 11 into the hard tier."""
    mined = mine_negatives(LONG, {"q": {"d0005": 1}}, {"hard": 10})
    assert [rank(d) for d in mined.negatives["q"]] == [1, 2, 3, 4, 6, 7, 8, 9, 10]


def test_shortfall_adds_up_over_queries():
    run = {"q1": {"a": 1.0}, "q2": {"a": 2.0, "b": 1.0}}
    assert mine_negatives(run, {"q1": {}, "q2": {}, "q3": {}}, {"hard": 2}).shortfall == {"hard": 1 + 0 + 2}


def test_teacher_drops_what_is_above_the_weakest_positive_less_the_margin():
    run = {"q": dict.fromkeys(["p1", "p2", "a", "b", "c", "unseen"], 1.0)}
    teacher = {"q": {"p1": 0.9, "p2": 0.5, "a": 0.45, "b": 0.375, "c": 0.3}}  # the bar is .5 - .125 = .375
    mined = mine_negatives(run, {"q": {"p1": 1, "p2": 1}}, {"hard": 9}, teacher=teacher, margin=0.125)
    assert set(mined.negatives["q"]) == {"b", "c", "unseen"}  # b is at the bar, not above
    assert mined.filtered == 1


@pytest.mark.parametrize(
    ("teacher", "margin"),
    [(None, 0.1), ({"q": {"p": 0.1, "a": 0.9}}, None), ({"q": {"a": 0.9}}, 0.1), ({}, 0.1)],
    ids=["no teacher", "no margin", "positive without a score", "query without scores"],
)
def test_filter_needs_teacher_margin_and_a_scored_positive(teacher, margin):
    mined = mine_negatives({"q": {"a": 1.0}}, {"q": {"p": 1}}, {"hard": 1}, teacher=teacher, margin=margin)
    assert mined.negatives == {"q": ["a"]} and mined.filtered == 0


def test_filtered_documents_do_not_come_back_at_random():
    mined = mine_negatives(
        {"q": {"a": 1.0}},
        {"q": {"p": 1}},
        {"hard": 1},
        random_documents=["a", "p", "z"],
        random=3,
        teacher={"q": {"p": 0.5, "a": 0.9}},
        margin=0.0,
    )
    assert mined.negatives == {"q": ["z"]} and mined.shortfall == {"hard": 1, "random": 2}


def test_random_documents_may_repeat():
    mined = mine_negatives({}, {"q": {"p": 1}}, {}, random_documents=["x", "x", "p"], random=2)
    assert mined.negatives == {"q": ["x"]}


def test_unknown_tier():
    with pytest.raises(ProrankError, match="unknown tier 'extreme'"):
        mine_negatives({}, {}, {"hard": 1, "extreme": 1})


@pytest.mark.parametrize(("quotas", "random", "source"), [({"hard": -1}, 0, "hard"), ({}, -2, "random")])
def test_negative_numbers_are_refused(quotas, random, source):
    with pytest.raises(ProrankError, match=f"cannot draw -. '{source}' negatives"):
        mine_negatives(LONG, {"q": {}}, quotas, random=random)


def test_the_seed_decides():
    draws = {tuple(mine_negatives(LONG, {"q": {}}, {"easy": 5}, seed=seed).negatives["q"]) for seed in range(5)}
    assert len(draws) == 5


DOCUMENTS = [f"d{i}" for i in range(30)]
RUNS = st.dictionaries(
    st.sampled_from("abcde"),
    st.dictionaries(st.sampled_from(DOCUMENTS), st.floats(0, 9), max_size=30),
    min_size=1,
)


@given(RUNS, st.sets(st.sampled_from(DOCUMENTS), max_size=5), st.integers(0, 5), st.integers(0, 9))
def test_draws_are_clean_and_depend_on_seed_and_query_alone(run, relevant, count, seed):
    qrels = {query: dict.fromkeys(sorted(relevant), 1) for query in run}
    quotas = {"hard": count, "medium": count}
    options = {"random_documents": DOCUMENTS, "random": 3, "seed": seed}
    mined = mine_negatives(run, qrels, quotas, **options)
    for query, chosen in mined.negatives.items():
        assert len(set(chosen)) == len(chosen) and not relevant & set(chosen)
        assert mine_negatives(run, {query: qrels[query]}, quotas, **options).negatives == {query: chosen}
    backwards = mine_negatives(run, dict(reversed(qrels.items())), quotas, **options)
    assert backwards.negatives == mined.negatives and backwards.shortfall == mined.shortfall


def test_queries_draw_apart():
    run = {f"q{i}": LONG["q"] for i in range(5)}
    mined = mine_negatives(run, {query: {} for query in run}, {"easy": 5})
    assert len({tuple(chosen) for chosen in mined.negatives.values()}) == 5


@pytest.mark.parametrize("margin", [math.nan, math.inf, -math.inf])
def test_a_margin_that_is_no_number_is_refused(margin):
    with pytest.raises(ProrankError, match="margin must be a number"):
        mine_negatives({}, {"q": {"a": 1}}, {"hard": 1}, teacher={}, margin=margin)


def test_quotas_that_are_all_zero_are_refused():
    with pytest.raises(ProrankError, match="every quota is 0"):
        mine_negatives({}, {"q": {"a": 1}}, {"hard": 0, "easy": 0}, random=0)
