import numpy as np
import pytest
from conftest import bert_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from prorank import Reranker
from prorank.passages import aggregate, split_passages
from prorank.plain import PlainTokenizer

TOKENIZER = PlainTokenizer(bert_tokenizer())


@given(st.lists(st.sampled_from("apple river stone cloud".split()), max_size=60), st.integers(1, 20), st.data())
def test_passages_cover_the_text_in_order(words, size, data):
    overlap = data.draw(st.integers(0, size - 1))
    text = " ".join(words)
    passages = split_passages(TOKENIZER, text, size, overlap)
    pieces = [passage.split() for passage in passages]
    assert all(len(piece) <= size for piece in pieces)
    joined = pieces[0]
    for piece in pieces[1:]:
        assert joined[len(joined) - overlap :] == piece[:overlap]
        joined = joined + piece[overlap:]
    assert joined == words


def test_wrong_sizes_are_refused():
    for size, overlap in ((0, 0), (4, 4), (4, -1)):
        with pytest.raises(ValueError, match="passages need"):
            split_passages(TOKENIZER, "apple", size, overlap)


@given(st.lists(st.lists(st.floats(-9, 9), min_size=1, max_size=5), min_size=1, max_size=6))
def test_aggregation(documents):
    scores = np.array([x for own in documents for x in own])
    owners = [i for i, own in enumerate(documents) for _ in own]
    for how, expected in (("max", max), ("first", lambda own: own[0]), ("mean", np.mean)):
        found = aggregate(scores, owners, len(documents), how)
        np.testing.assert_allclose(found, [expected(own) for own in documents])


@pytest.mark.parametrize("how", ["max", "mean", "first"])
def test_a_long_document_is_scored_by_its_passages(bert_folder, how, caplog):
    load = {"prompt": "prorank-short", "max_length": 40, "precision": "fp32"}
    plain = Reranker.from_pretrained(bert_folder, **load)
    by_passages = Reranker.from_pretrained(bert_folder, passages=how, **load)
    document = "stone " * 30 + "river " * 30 + "apple cloud"
    pieces = by_passages._passages("apple", document)
    assert len(pieces) > 2
    expected = {"max": max, "mean": np.mean, "first": lambda s: s[0]}[how](plain.score([("apple", p) for p in pieces]))
    caplog.clear()
    scores = by_passages.score([("apple", document), ("apple", "river")])
    assert scores[0] == pytest.approx(expected, abs=1e-5)
    assert scores[1] == pytest.approx(plain.score([("apple", "river")])[0], abs=1e-5)
    assert "were cut" not in caplog.text
