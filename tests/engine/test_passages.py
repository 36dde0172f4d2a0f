import numpy as np
import pytest
from conftest import bert_tokenizer, byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from prorank import Reranker
from prorank.engine.passages import aggregate, excerpts_beside, passages_beside, split_passages
from prorank.prompts.builtin import PROMPTS
from prorank.prompts.plain import PlainTokenizer
from prorank.prompts.prompt import Prompt
from prorank.prompts.tokenization import PairTokenizer

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


JOINED = Prompt(name="joined", segments=("query: {query}", "\ndocument: {document}"), frame=("a", "b"), joined=True)
WRITTEN = [
    "river",
    "stone ",
    "[MASK] [SEP] ",
    "<|im_end|>",
    "xylophones",
    "мир ",
    "\u2028",
    "🧀",
    "a\u0301",
    " \n",
    "?",
    "Rumpelstilzchen",
]


@given(st.lists(st.sampled_from(WRITTEN), max_size=150), st.sampled_from(["apple", "мир?", "stone " * 30]))
def test_no_window_is_cut_whatever_is_written_in_it(pieces, query):
    """Special tokens, words cut in two, joined accents: windows are counted as they are read."""
    byte, text = byte_tokenizer(None), "".join(pieces)
    for words, prompt, family in (
        (bert_tokenizer(), PROMPTS["prorank-short"], "masked"),
        (byte, PROMPTS["prorank-short"], "causal"),
        (byte, JOINED, "causal"),
    ):
        tokenizer = PairTokenizer(words, prompt, family, max_length=80)
        size = tokenizer.document_room(query)
        if size == 0:  # a joined prompt whose query takes all
            continue
        windows = split_passages(tokenizer.plain, text, size, size // 8, tokenizer.room_beside(query))
        _, truncation = tokenizer.encode([(query, window) for window in windows])
        assert truncation.documents == 0
        assert set("".join(text.split())) <= set("".join(windows))


def test_windows_of_special_tokens_are_as_long_as_they_are_read():
    text = "[MASK] [SEP] [CLS] . " * 60
    windows = split_passages(TOKENIZER, text, 50, 6)
    assert len(windows) > 10 and all(len(ids) <= 50 for ids in TOKENIZER.ids(windows))


def test_a_window_with_more_tokens_than_inside_the_text_ends_earlier():
    room = {"apple river": -1}  # as if a word cut in two had one token more
    windows = split_passages(TOKENIZER, "apple river stone", 2, 0, lambda window: room.get(window, 0))
    assert windows == ["apple", "river stone"]
    assert split_passages(TOKENIZER, "apple river stone", 2, 0, lambda window: -1) == ["apple", "river", "stone"]


def test_the_first_passage_alone_is_scored(bert_folder, monkeypatch):
    reranker = Reranker(bert_folder, prompt="prorank-short", max_length=40, passages="first")
    seen = []
    encode = reranker.tokenizer.encode
    monkeypatch.setattr(reranker.tokenizer, "encode", lambda pairs: seen.extend(pairs) or encode(pairs))
    reranker.score([("apple", "stone " * 400), ("apple", "river")])
    assert len(seen) == 2


def test_a_document_that_no_room_is_left_for_is_reported(caplog, bert_folder):
    joined = Prompt(name="joined", segments=("query: {query}", " document: {document}"), frame=("", "0"), joined=True)
    reranker = Reranker(bert_folder, prompt=joined, max_length=40, passages="max", family="masked")
    assert passages_beside(reranker.tokenizer, "apple " * 50, "river " * 100) == ["river " * 100]
    reranker.rank("apple " * 50, ["river " * 100])
    assert "not read: the end of the query in 1, the whole document in 1" in caplog.text


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


def test_passages_may_stand_in_any_order():
    scores, owners = np.array([1, 5, 3, 2, 4], dtype=np.float32), [1, 0, 1, 2, 0]
    for how, expected in (("max", [5, 3, 2]), ("mean", [4.5, 2, 2]), ("first", [5, 1, 2])):
        found = aggregate(scores, owners, 3, how)
        assert found.tolist() == expected and found.dtype == np.float32


def test_aggregation_of_many_documents_is_one_pass():
    """As many documents as passages: their product would be 4e10 comparisons."""
    scores = np.arange(200_000, dtype=np.float32)
    for how in ("max", "mean", "first"):
        np.testing.assert_array_equal(aggregate(scores, range(200_000), 200_000, how), scores)


@pytest.mark.parametrize("how", ["max", "mean", "first"])
def test_a_long_document_is_scored_by_its_passages(bert_folder, how, caplog):
    load = {"prompt": "prorank-short", "max_length": 40, "precision": "fp32"}
    plain = Reranker.from_pretrained(bert_folder, **load)
    by_passages = Reranker.from_pretrained(bert_folder, passages=how, **load)
    document = "stone " * 30 + "river " * 30 + "apple cloud"
    pieces = passages_beside(plain.tokenizer, "apple", document, 1 if how == "first" else None)
    assert len(pieces) > 2 if how != "first" else len(pieces) == 1
    expected = {"max": max, "mean": np.mean, "first": lambda s: s[0]}[how](plain.score([("apple", p) for p in pieces]))
    caplog.clear()
    scores = by_passages.score([("apple", document), ("apple", "river")])
    assert scores[0] == pytest.approx(expected, abs=1e-5)
    assert scores[1] == pytest.approx(plain.score([("apple", "river")])[0], abs=1e-5)
    assert "were cut" not in caplog.text


def test_a_document_that_does_not_fit_is_read_where_the_query_stands(bert_folder):
    reranker = Reranker(bert_folder, prompt="prorank-short", max_length=40, passages="excerpt")
    long = "apple stone " * 40 + "river piano " + "apple stone " * 40
    pairs = [("river piano", "river"), ("river piano", long)]
    short, (_, read) = excerpts_beside(reranker.tokenizer, pairs)
    assert short == pairs[0] and read.startswith("apple stone") and "river piano" in read
    room = reranker.tokenizer.room_beside("river piano")
    assert 0 <= room(read) <= 2  # all of the room is used
    found = reranker.score_detailed(pairs)
    assert not found.truncation.pairs and found.read == 2
    cut = Reranker(bert_folder, prompt="prorank-short", max_length=40)
    assert found.scores.tolist() == pytest.approx(cut.score([short, ("river piano", read)]), abs=1e-5)
    assert reranker.score(pairs[1:]) == pytest.approx(found.scores[1:].tolist(), abs=1e-5)  # whatever stands beside it


def test_an_excerpt_beside_a_query_that_takes_all_is_left_to_be_cut(bert_folder):
    reranker = Reranker(bert_folder, prompt="prorank-short", max_length=32, passages="excerpt")
    pairs = [("apple " * 60, "river " * 100)]
    (found,) = excerpts_beside(reranker.tokenizer, pairs)
    assert found[0] == pairs[0][0] and len(found[1]) <= len(pairs[0][1])
    assert reranker.score_detailed(pairs).truncation.pairs == 1  # the query is cut, and that is said
