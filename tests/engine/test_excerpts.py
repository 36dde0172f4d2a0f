"""Excerpts: the stretch that is chosen, what is kept of the beginning, and that nothing is cut in vain."""

import pytest
from conftest import WORDS, byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from prorank.engine.excerpts import AGAIN, Hit, excerpts, rarity, richest
from prorank.prompts.plain import PlainTokenizer


@pytest.fixture(scope="module")
def plain(bert_folder):
    return PlainTokenizer(AutoTokenizer.from_pretrained(bert_folder))


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
    weights = rarity(hits, length)
    start = richest(hits, weights, first, width, length)
    assert first <= start <= length - width
    best = max(value(hits, weights, other, width) for other in range(first, length - width + 1))
    assert value(hits, weights, start, width) == pytest.approx(best)


def test_a_rare_token_outweighs_a_common_one():
    hits = [*(Hit(place, 1) for place in range(0, 40, 4)), Hit(50, 2)]
    weights = rarity(hits, 60)
    assert weights[1] < weights[2]
    start = richest(hits, weights, 0, 8, 60)
    assert start <= 50 < start + 8


def test_an_excerpt_is_the_beginning_and_where_the_query_stands(plain):
    words = [WORDS[3 + i % 5] for i in range(40)]
    words[30] = "river"
    document = " ".join(words)
    (query, text), short = excerpts(plain, [("river", document), ("river", "apple")], 8)
    assert query == "river" and short == ("river", "apple")
    assert text.split() == [*words[:2], *words[28:34]]  # two of eight are the beginning's, the hit is in the middle
    assert excerpts(plain, [("stone", document)], 8)[0][1] == " ".join(
        words[:8]
    )  # nowhere: nothing is left out between
    assert excerpts(plain, [("river", document)], None) == [("river", document)]
    assert [len(d.split()) for _, d in excerpts(plain, [("river", document)] * 3, [8, 40, 1])] == [8, 40, 1]


@given(st.lists(st.sampled_from(WORDS), max_size=30), st.lists(st.sampled_from(WORDS), max_size=4), st.integers(1, 12))
def test_an_excerpt_has_the_tokens_that_it_may_have(plain, words, asked, tokens):
    ((_, text),) = excerpts(plain, [(" ".join(asked), " ".join(words))], tokens)
    assert len(text.split()) == min(tokens, len(words))
    if set(asked) & set(words):
        assert set(asked) & set(text.split())


def test_a_word_at_the_start_of_a_query_is_found_inside_a_document():
    """In byte-level vocabularies a word behind a space is another token than at the start of a text."""
    plain = PlainTokenizer(byte_tokenizer())
    assert plain.ids(["river"])[0] != plain.ids([" river"])[0]
    document = " ".join(["apple stone"] * 20 + ["river"] + ["apple stone"] * 20)
    ((_, text),) = excerpts(plain, [("river", document)], 8)
    assert "river" in text and "  " not in text


@given(st.data())
def test_the_running_sums_are_those_of_every_stretch(data):
    places = sorted(data.draw(st.sets(st.integers(0, 200), min_size=1, max_size=60)))
    hits = [Hit(place, data.draw(st.integers(0, 2))) for place in places]
    width = data.draw(st.integers(1, 50))
    weights = rarity(hits, 260)
    start = richest(hits, weights, 0, width, 260)
    assert value(hits, weights, start, width) == pytest.approx(
        max(value(hits, weights, other, width) for other in places)
    )
