"""What a warning about cut pairs says is what was cut: the query, the instruction, the document, or all of it."""

import logging

import pytest
from conftest import bert_tokenizer, byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from prorank import Reranker
from prorank.prompts.builtin import PROMPTS
from prorank.prompts.cross_encoder import CrossEncoderTokenizer
from prorank.prompts.prompt import Prompt
from prorank.prompts.tokenization import PairTokenizer
from prorank.prompts.truncation import Truncation
from prorank.util.errors import PromptError

LONG, SHORT = "apple " * 200, "river stone"
BEHIND = Prompt(name="behind", segments=("{query} {instruction}", "\n", "document: {document}", "\nRelevance:"))
JOINED = Prompt(name="joined", segments=("query: {query}", "\ndocument: {document}"), frame=("", "\n"), joined=True)


def pair_tokenizer(prompt=PROMPTS["prorank-short"], **options):
    return PairTokenizer(byte_tokenizer(None), prompt, "causal", **({"max_length": 120} | options))


def cut(tokenizer, *pairs):
    _, found = tokenizer.encode(pairs)
    return found._replace(longest=0)


def test_query_and_document_are_counted_apart():
    tokenizer = pair_tokenizer()
    assert cut(tokenizer, (SHORT, SHORT)) == Truncation(0, 0)
    assert cut(tokenizer, (LONG, SHORT), (LONG, "owl")) == Truncation(2, 0, queries=2)
    assert cut(tokenizer, (SHORT, LONG), (SHORT, SHORT)) == Truncation(1, 0, documents=1)
    assert cut(tokenizer, (LONG, LONG), (SHORT, LONG)) == Truncation(2, 0, queries=1, documents=2)
    assert cut(tokenizer) == Truncation(0, 0)


def test_a_document_of_which_nothing_is_read_is_named():
    label = Prompt(name="label", segments=("{query}", "\n", "the text of a document: {document}", "\nRelevance:"))
    lowest = next(n for n in range(30, 200) if fits(label, n))
    tokenizer = pair_tokenizer(label, max_length=lowest)
    assert cut(tokenizer, (LONG, LONG), (SHORT, LONG)).unread == 1
    assert cut(tokenizer, (LONG, "")).unread == 0  # there is nothing to read
    joined = pair_tokenizer(JOINED)
    assert cut(joined, (LONG, SHORT)) == Truncation(1, 0, queries=1, documents=1, unread=1)
    assert cut(joined, (SHORT, LONG)) == Truncation(1, 0, documents=1)


def fits(prompt, length):
    try:
        pair_tokenizer(prompt, max_length=length)
    except PromptError:
        return False
    return True


def test_an_instruction_behind_the_query_is_counted_apart():
    tokenizer = pair_tokenizer(BEHIND, instruction="stone " * 30)
    assert cut(tokenizer, (SHORT, SHORT)) == Truncation(0, 0)
    assert cut(tokenizer, ("apple " * 20, SHORT)) == Truncation(1, 0, instructions=1)
    assert cut(tokenizer, (LONG, SHORT)) == Truncation(1, 0, queries=1, instructions=1)
    assert cut(pair_tokenizer(BEHIND), (LONG, SHORT)) == Truncation(1, 0, queries=1)  # there is none


def test_an_instruction_that_leaves_no_query_is_refused():
    with pytest.raises(PromptError, match="no query would be read: max_length 120 leaves"):
        pair_tokenizer(instruction="stone " * 80)
    assert cut(pair_tokenizer(instruction="stone " * 40), (LONG, SHORT)) == Truncation(1, 0, queries=1)


def test_cross_encoders_count_apart_too():
    words = bert_tokenizer()
    from tokenizers import processors

    words.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = CrossEncoderTokenizer(words, 42)
    assert cut(tokenizer, (LONG, SHORT)) == Truncation(1, 0, queries=1)
    assert cut(tokenizer, (SHORT, LONG)) == Truncation(1, 0, documents=1)
    assert cut(tokenizer, (LONG, LONG)) == Truncation(1, 0, queries=1, documents=1)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=120)


@given(TEXTS, TEXTS, st.sampled_from([None, "be strict", "мир 🧀 " * 5]))
def test_what_is_said_to_be_read_is_read(query, document, instruction):
    for prompt in (PROMPTS["prorank-short"], BEHIND, JOINED):
        tokenizer = pair_tokenizer(prompt, instruction=instruction)
        (ids,), found = tokenizer.encode([(query, document)])
        seen, whole = tokenizer.tokenizer.decode(ids), tokenizer.prompt.render(query, document, tokenizer.instruction)
        assert (found.pairs == 0) == (whole in seen)
        if not found.queries:
            assert query in seen
        if not found.documents:
            assert document in seen


def test_the_warning_names_what_was_cut(bert_folder, caplog):
    reranker = Reranker(bert_folder, prompt="prorank-short", max_length=64)
    for pair, told in (
        ((LONG, SHORT), "not read: the end of the query in 1"),
        ((SHORT, LONG), "not read: the end of the document in 1"),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            reranker.score([pair, (SHORT, SHORT)])
        assert caplog.messages == [f"1 of 2 pairs were cut to 64 tokens (longest text: 202 tokens); {told}"]
