"""Excerpts: the stretch that is chosen, what is kept of the beginning, and that nothing is cut in vain."""

import pytest
from conftest import WORDS
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from prorank.engine.excerpts import AGAIN, Excerpts, Hit, rarity, richest
from prorank.prompts.plain import PlainTokenizer


@pytest.fixture(scope="module")
def plain(bert_folder):
    return PlainTokenizer(AutoTokenizer.from_pretrained(bert_folder))


def test_a_rare_token_outweighs_a_common_one():
    weights = rarity({1, 2, 3}, [[1, 2], [1], [1], [1, 9]])
    assert weights[1] < weights[2] < weights[3]  # in all documents, in one, in none


def value(hits, weights, start, width):
    inside = [hit.token for hit in hits if start <= hit.place < start + width]
    return sum(weights[t] for t in set(inside)) + AGAIN * sum(weights[t] for t in inside)


@given(st.data())
def test_no_other_stretch_holds_more(data):
    length = data.draw(st.integers(4, 60))
    first = data.draw(st.integers(0, length // 2))
    width = data.draw(st.integers(1, length - first))
    places = sorted(data.draw(st.sets(st.integers(0, length - 1), max_size=12)))
    hits = [Hit(place, data.draw(st.integers(0, 3))) for place in places]
    weights = {token: 1.0 + token for token in range(4)}
    start = richest(hits, weights, first, width, length)
    assert first <= start <= length - width
    best = max(value(hits, weights, other, width) for other in range(first, length - width + 1))
    assert value(hits, weights, start, width) == pytest.approx(best)


def test_an_excerpt_is_the_beginning_and_where_the_query_stands(plain):
    words = [WORDS[3 + i % 5] for i in range(40)]
    words[30] = "river"
    pairs = [("river", " ".join(words)), ("river", "apple"), ("stone", " ".join(words))]
    excerpts = Excerpts(plain, pairs)
    assert excerpts.lengths == [40, 1, 40]
    (query, text), short = excerpts.pairs([0, 1], 8)
    assert query == "river" and short == pairs[1]
    assert text.split() == [*words[:2], *words[28:34]]  # two of eight are the beginning's, the hit is in the middle
    assert excerpts.pairs([2], 8)[0][1] == " ".join(words[:8])  # the word is nowhere: nothing is left out in between
    assert excerpts.pairs([0, 2], None) == [pairs[0], pairs[2]]


@given(st.lists(st.sampled_from(WORDS), max_size=30), st.lists(st.sampled_from(WORDS), max_size=4), st.integers(1, 12))
def test_an_excerpt_has_the_tokens_that_it_may_have(plain, words, asked, tokens):
    excerpts = Excerpts(plain, [(" ".join(asked), " ".join(words))])
    ((_, text),) = excerpts.pairs([0], tokens)
    assert len(text.split()) == min(tokens, len(words))
    if words and set(asked) & set(words) and tokens >= 2:
        assert set(asked) & set(text.split())


def test_each_list_has_its_own_rarity(plain):
    common = ("river stone", "river " + "apple " * 20 + "stone " + "apple " * 20)
    rare = [("river stone", "stone"), ("river stone", "stone")]
    with_stones, alone = Excerpts(plain, [common, *rare]), Excerpts(plain, [common, ("tiger", "stone")])
    assert with_stones._weights["river stone"] != alone._weights["river stone"]
    assert with_stones.pairs([0], 4) != [common]
