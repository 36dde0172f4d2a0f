"""Integer grades: whole answers where `10` is one token and where it is two."""

import pytest
import torch
import transformers
from conftest import SIZE, bert_tokenizer, byte_tokenizer, save
from tokenizers import AddedToken

from prorank import Reranker
from prorank.engine.scorer import answer_logits
from prorank.engine.scores import SCORES, whole_answers
from prorank.prompts.builtin import GRADES, PROMPTS
from prorank.prompts.tokenization import PairTokenizer
from prorank.util.errors import PromptError


def causal_folder(folder, joined):
    """A random Qwen3 whose tokenizer takes `10` as one token, or as two."""
    tokenizer = byte_tokenizer()
    if joined:
        tokenizer.add_tokens([AddedToken("10", normalized=False)])
    torch.manual_seed(3)
    config = transformers.Qwen3Config(vocab_size=len(tokenizer), num_key_value_heads=2, head_dim=8, **SIZE)
    return save(transformers.Qwen3ForCausalLM(config), tokenizer, folder)


@pytest.fixture(scope="module", params=[True, False], ids=["10 is one token", "10 is two"])
def reranker(request, tmp_path_factory):
    folder = causal_folder(tmp_path_factory.mktemp("grades"), request.param)
    return Reranker(folder, prompt="erank", max_length=600, precision="fp32", score="expected_grade")


def by_hand(reranker, sequence):
    """Log-probability of each whole grade, one plain forward pass per token."""
    model, tokenizer = reranker.backbone.model, reranker.tokenizer

    def next_token(ids):
        return model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)

    found = []
    for tokens in tokenizer.answer_tokens:
        log_prob = next_token(sequence)[tokens[0]]
        if len(tokens) == 2:
            log_prob = log_prob + next_token([*sequence, tokens[0]])[tokens[1]]
        elif [tokens[0], tokenizer.answer_tokens[0][0]] in tokenizer.answer_tokens:  # "1": no "0" follows
            log_prob = log_prob + torch.log1p(-next_token([*sequence, tokens[0]])[tokenizer.answer_tokens[0][0]].exp())
        found.append(log_prob)
    return torch.stack(found)


@torch.no_grad()
def test_grades_are_whole_answers(reranker):
    tokenizer = reranker.tokenizer
    assert [tokenizer.tokenizer.decode(tokens) for tokens in tokenizer.answer_tokens] == list(GRADES)
    pairs = [("apple river", "stone"), ("apple river", "stone apple tiger"), ("cloud", "stone"), ("cloud", "stone")]
    sequences, _ = tokenizer.encode(pairs)
    assert tokenizer.tokenizer.decode(sequences[0]).endswith("<answer>")
    expected = torch.stack([by_hand(reranker, sequence) for sequence in sequences])
    found = answer_logits(reranker.backbone, tokenizer, sequences, groups=[0, 0, 1, 1])
    torch.testing.assert_close(found.log_softmax(-1), expected.log_softmax(-1), atol=1e-4, rtol=1e-4)
    reranker.backbone.supports_packing = False  # the padded path
    try:
        padded = answer_logits(reranker.backbone, tokenizer, sequences)
    finally:
        del reranker.backbone.supports_packing
    torch.testing.assert_close(padded, found, atol=1e-4, rtol=1e-4)
    scores = torch.tensor(reranker.score(pairs))
    torch.testing.assert_close(scores, SCORES["expected_grade"](expected), atol=1e-3, rtol=1e-3)


def test_a_checkpoint_remembers_answers_of_two_tokens(reranker, tmp_path):
    reranker.save_pretrained(tmp_path)
    again = Reranker(tmp_path, precision="fp32")
    assert again.tokenizer.answer_tokens == reranker.tokenizer.answer_tokens
    assert again.score([("apple", "river")]) == pytest.approx(reranker.score([("apple", "river")]), abs=1e-4)


def test_two_tokens_need_a_stem_and_a_causal_model():
    odd = PROMPTS["erank"].model_copy(update={"answers": ("0", "10")})
    with pytest.raises(PromptError, match="'10' of prompt 'erank' is not one token"):
        PairTokenizer(byte_tokenizer(), odd, "causal", max_length=600)
    words = bert_tokenizer([*"0123456789", "relevance", "from", "to", ":"])
    with pytest.raises(PromptError, match="'10' of prompt 'erank-short'"):
        PairTokenizer(words, PROMPTS["erank-short"], "masked", max_length=100)


def test_one_token_code_says_so_when_there_are_two(tmp_path):
    two = Reranker(causal_folder(tmp_path, False), prompt="erank", max_length=600, precision="fp32")
    assert two.tokenizer.stem == 1
    with pytest.raises(PromptError, match="'10' of prompt 'erank' is not one token"):
        two.tokenizer.answer_ids  # noqa: B018


def test_whole_answers_sum_to_the_stem():
    first = torch.randn(5, 4)
    first[:, 3] = first[:, 1]
    after = torch.rand(5, 1).log()
    found = whole_answers(first, after, stem=1, longer=[3])
    torch.testing.assert_close(found[:, [1, 3]].logsumexp(-1), first[:, 1])  # "1" and "10" share what "1" had
    torch.testing.assert_close(found[:, [0, 2]], first[:, [0, 2]])
