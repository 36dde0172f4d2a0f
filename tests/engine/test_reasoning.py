"""Grades after reasoning: what is found in generated text, and what it is worth."""

import pytest
import torch
import transformers
from conftest import CHATML, SIZE, byte_tokenizer, save
from hypothesis import given
from hypothesis import strategies as st

from prorank import Reranker
from prorank.engine.reasoning import MALFORMED_SCORE, parse_grade, reason
from prorank.engine.scorer import answer_logits
from prorank.engine.scores import SCORES
from prorank.prompts.builtin import PROMPTS
from prorank.prompts.tokenization import PairTokenizer
from prorank.util.errors import CheckpointError, PromptError


@given(st.integers(0, 10), st.text(st.characters(exclude_characters="<>", exclude_categories=["Cs"])))
def test_a_well_formed_answer_is_found_behind_any_thought(grade, thought):
    assert parse_grade(f"<think>{thought}</think><answer> {grade} </answer>") == grade


@given(st.text())
def test_any_text_gives_a_grade_or_none(text):
    assert parse_grade(text) in (None, *range(11))


@pytest.mark.parametrize(
    "text", ["", "7", "<answer>7", "<answer>7.5</answer>", "<answer>-1</answer>", "<answer>" + "9" * 5000 + "</answer>"]
)
def test_malformed(text):
    assert parse_grade(text) is None


def test_the_last_answer_counts():
    assert parse_grade("<answer>2</answer> no: <answer>9</answer>") == 9


@pytest.fixture
def thinker(tmp_path):
    """A random Qwen3 that knows ERank's published prompt."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(4)
    config = transformers.Qwen3Config(vocab_size=len(tokenizer), num_key_value_heads=2, head_dim=8, **SIZE)
    save(transformers.Qwen3ForCausalLM(config), tokenizer, tmp_path / "ERank-4B")
    return Reranker(tmp_path / "ERank-4B", max_length=700, precision="fp32", max_new_tokens=48)


def test_the_published_checkpoint_is_known_by_name(thinker, tmp_path):
    assert thinker.settings.prompt == PROMPTS["erank-think"] and thinker.settings.score == "graded_confidence"
    (sequence,), _ = thinker.tokenizer.encode([("apple", "river")])
    text = thinker.tokenizer.tokenizer.decode(sequence)
    assert "The goal or relevance definition is: Given a query, retrieval relevant passage.\n" in text
    assert text.endswith("<|im_start|>assistant\n")
    tokenizer = byte_tokenizer()
    config = transformers.Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=2, **SIZE)
    save(transformers.Qwen2ForCausalLM(config), tokenizer, tmp_path / "other" / "ERank-14B")
    with pytest.raises(CheckpointError, match="it is a qwen2 model"):
        Reranker(tmp_path / "other" / "ERank-14B")


def test_thinking_is_on_for_prompts_that_think(tmp_path):
    template = CHATML + "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    from prorank.prompts.chat import chat_frame

    tokenizer = byte_tokenizer(template)
    assert chat_frame(tokenizer, PROMPTS["erank-think"], "qwen3")[1].endswith("assistant\n")
    assert chat_frame(tokenizer, PROMPTS["erank"], "qwen3")[1].endswith("</think>\n\n")


def test_generated_grades_are_read_behind_the_tag(thinker, monkeypatch):
    """What is generated is given here; the probabilities are the model's."""
    words = thinker.tokenizer.tokenizer
    said = ["<think>yes</think><answer>10</answer>", "<think>I do not know", "<answer>3</answer>"]
    monkeypatch.setattr(
        "prorank.engine.reasoning.draw",
        lambda backbone, prompts, *_, **__: [
            [words(said[[list(p) for p in sequences].index(list(prompt))], add_special_tokens=False)["input_ids"]]
            for prompt in prompts
        ],
    )
    pairs = [("apple", "river"), ("apple", "stone cloud"), ("tiger", "stone")]
    sequences, _ = thinker.tokenizer.encode(pairs)
    found = reason(thinker.backbone, thinker.tokenizer, sequences)
    assert found.grades == [10, None, 3] and found.texts == said
    assert found.scores[1] == MALFORMED_SCORE
    for i, before in ((0, "<think>yes</think><answer>"), (2, "<answer>")):
        ids = [*sequences[i], *words(before, add_special_tokens=False)["input_ids"]]
        logits = answer_logits(thinker.backbone, thinker.tokenizer, [ids])
        torch.testing.assert_close(found.scores[i], SCORES["graded_confidence"](logits)[0], atol=1e-4, rtol=1e-4)
    detailed = thinker.score_detailed(pairs)
    assert detailed.malformed == 1
    assert [r["corpus_id"] for r in thinker.rank("apple", ["river", "stone cloud"])][-1] == 1


def test_a_random_model_says_nothing_and_that_is_counted(thinker, caplog):
    detailed = thinker.score_detailed([("apple", "river"), ("apple", "stone")])
    assert detailed.malformed == 2 and set(detailed.scores) == {MALFORMED_SCORE}
    thinker.score([("apple", "river"), ("apple", "stone")])
    assert "2 of 2 answers held no grade" in caplog.text


def test_masked_models_cannot_think():
    from conftest import bert_tokenizer

    with pytest.raises(PromptError, match="needs a causal model"):
        PairTokenizer(
            bert_tokenizer([*map(str, range(11))]), PROMPTS["erank-think"], "masked", max_length=500, instruction="a"
        )
