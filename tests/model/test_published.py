"""Other people's rerankers behind our face: names, prompts, cross-encoders."""

import numpy as np
import pytest
import torch
import transformers
from conftest import SIZE, bert_tokenizer, byte_tokenizer, save
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from prorank import Reranker
from prorank.prompts.builtin import load_prompt
from prorank.prompts.cross_encoder import CrossEncoderTokenizer, longest_first
from prorank.util.errors import CheckpointError, PromptError

PAIRS = [
    ("apple river", "stone cloud tiger"),
    ("apple river", "river apple river"),
    ("piano", "lemon " * 40),
    ("lemon " * 50, "candle forest"),
    ("piano?", ""),
    ("tiger", "[SEP] tiger [MASK]"),
]


def named(tmp_path, name, model_class, config):
    torch.manual_seed(2)
    tokenizer = byte_tokenizer()
    config.vocab_size = len(tokenizer)
    return save(model_class(config), tokenizer, tmp_path / name)


def qwen3(**changes):
    return transformers.Qwen3Config(num_key_value_heads=2, head_dim=8, **(SIZE | changes))


def qwen2(**changes):
    return transformers.Qwen2Config(num_key_value_heads=2, **(SIZE | changes))


@pytest.mark.parametrize("name", ["mxbai-rerank-base-v2", "mxbai-rerank-large-v2"])
def test_mxbai_is_known_by_name(tmp_path, name):
    folder = named(tmp_path, name, transformers.Qwen2ForCausalLM, qwen2())
    reranker = Reranker.from_pretrained(folder)
    assert reranker.settings.prompt.name == "prorank" and reranker.settings.max_length == 8192
    assert reranker.settings.frame[0].startswith("<|im_start|>system\nYou are Qwen, created by Alibaba Cloud.")
    assert Reranker.from_pretrained(folder, max_length=300).settings.max_length == 300


def test_qwen3_reranker_scores_as_its_publishers_code(tmp_path):
    """The whole prompt as one text, yes against no at the last position, written out with plain transformers."""
    folder = named(tmp_path, "Qwen3-Reranker-0.6B", transformers.Qwen3ForCausalLM, qwen3())
    reranker = Reranker.from_pretrained(folder, precision="fp32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prefix = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    )
    suffix = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    task = "Given a web search query, retrieve relevant passages that answer the query"
    yes, no = (tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("yes", "no"))
    pairs = [pair for pair in PAIRS if "[" not in pair[1]]
    expected = []
    for query, document in pairs:
        ids = []
        for text in (prefix, f"<Instruct>: {task}\n<Query>: {query}\n<Document>: {document}", suffix):
            ids += tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        expected.append(float(logits[yes] - logits[no]))
    np.testing.assert_allclose(reranker.score(pairs), expected, atol=1e-4)


def test_a_published_name_on_another_model_is_refused(tmp_path):
    folder = named(tmp_path, "mxbai-rerank-base-v2", transformers.Qwen3ForCausalLM, qwen3())
    with pytest.raises(CheckpointError, match="has the name of mixedbread-ai/mxbai-rerank-base-v2, but it is a qwen3"):
        Reranker.from_pretrained(folder)
    assert Reranker.from_pretrained(folder, prompt="yesno").settings.prompt.name == "yesno"  # the user's word wins


def test_a_joined_prompt_is_cut_at_its_end(tmp_path):
    folder = named(tmp_path, "m", transformers.Qwen3ForCausalLM, qwen3())
    reranker = Reranker.from_pretrained(folder, prompt="qwen3-reranker", max_length=500)
    sequences, truncation = reranker.pair_tokenizer.encode([("apple", "river " * 900), ("apple", "river")])
    tokenizer = reranker.pair_tokenizer
    assert len(sequences[0]) == 500 and truncation.pairs == 1
    assert all(s[-len(tokenizer.suffix_ids) :] == tokenizer.suffix_ids for s in sequences)


def test_instruction_first_puts_all_but_the_document_in_front(qwen_folder):
    reranker = Reranker.from_pretrained(qwen_folder, prompt="instruction-first", max_length=400, precision="fp32")
    a, b = reranker.pair_tokenizer.encode([("apple", "river"), ("apple", "stone")])[0]
    shared = next(i for i in range(len(a)) if a[i] != b[i])
    assert shared > 0.8 * len(a)
    text = load_prompt("instruction-first").render("apple", "river", "be strict")
    assert text.index("search relevance expert") < text.index("instruction: be strict") < text.index("query: apple")
    assert text.endswith("document: river\nRelevance:")


KINDS = {
    "bert": (transformers.BertForSequenceClassification, transformers.BertConfig, {}),
    "roberta": (transformers.RobertaForSequenceClassification, transformers.RobertaConfig, {"pad_token_id": 0}),
    "electra": (transformers.ElectraForSequenceClassification, transformers.ElectraConfig, {"embedding_size": 32}),
    "modernbert": (
        transformers.ModernBertForSequenceClassification,
        transformers.ModernBertConfig,
        {"pad_token_id": 0},
    ),
}


@pytest.fixture(params=KINDS)
def classifier(request, tmp_path):
    model, config, extra = KINDS[request.param]
    torch.manual_seed(3)
    tokenizer = bert_tokenizer()
    typed = request.param in ("bert", "electra")
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1" if typed else "[CLS] $A [SEP] [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    kinds = ["token_type_ids"] if typed else []
    tokenizer.model_input_names = ["input_ids", *kinds, "attention_mask"]
    made = model(config(vocab_size=len(tokenizer), max_position_embeddings=80, num_labels=1, **(SIZE | extra))).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)
    return save(made, tokenizer, tmp_path / "classifier")


def test_a_cross_encoder_scores_as_sentence_transformers(classifier):
    from sentence_transformers import CrossEncoder

    theirs = CrossEncoder(str(classifier), device="cpu", max_length=48)
    expected = theirs.predict(PAIRS[:5], activation_fn=torch.nn.Identity())
    ours = Reranker.from_pretrained(classifier, max_length=48, precision="fp32")
    assert ours.settings.family == "classifier"
    np.testing.assert_allclose(ours.score(PAIRS[:5]), expected, atol=1e-4)
    ours.backbone.supports_packing = False  # the padded path too
    np.testing.assert_allclose(ours.score(PAIRS[:5]), expected, atol=1e-4)


def test_a_cross_encoder_takes_no_prompt_and_is_not_trained(classifier):
    with pytest.raises(CheckpointError, match="takes no prompt"):
        Reranker.from_pretrained(classifier, prompt="prorank")
    with pytest.raises(CheckpointError, match="not be trained"):
        _ = Reranker.from_pretrained(classifier, max_length=48).pair_tokenizer
    with pytest.raises(PromptError, match="leaves no room"):
        Reranker.from_pretrained(classifier, max_length=3)


def test_a_model_with_many_labels_is_no_reranker(tmp_path):
    config = transformers.BertConfig(vocab_size=40, num_labels=3, **SIZE)
    save(transformers.BertForSequenceClassification(config), bert_tokenizer(), tmp_path)
    with pytest.raises(CheckpointError, match="3 labels"):
        Reranker.from_pretrained(tmp_path)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(8, 60))
def test_longest_first_cuts_as_tokenizers_do(first, second, budget):
    tokenizer = CrossEncoderTokenizer(bert_tokenizer(), 64)
    tokenizer.budget = budget
    ours = longest_first(first, second, budget)
    assert sum(ours) == min(first + second, budget) and ours[0] <= first and ours[1] <= second
    backend = bert_tokenizer()._tokenizer
    backend.enable_truncation(budget, strategy="longest_first")
    theirs = backend.encode("apple " * first, "river " * second, add_special_tokens=False)
    kinds = [backend.id_to_token(i) for i in theirs.ids]
    assert (kinds.count("apple"), kinds.count("river")) == ours
