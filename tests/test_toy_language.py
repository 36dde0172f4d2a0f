"""Both stages on a causal model that has learned a toy language: relevance is token overlap."""

import random

import pytest
import torch
import transformers
from conftest import save, write_collection
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from prorank.training.recipe import validate_recipe
from prorank.training.run import run_recipe

WORDS = [f"w{i}" for i in range(24)]
GRAMMAR = "query document relevance : 0 1 unrelated related".split()


def toy_tokenizer():
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", "<end>", *GRAMMAR, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<end>"
    )


def make_document(draw, query, shared):
    others = [word for word in WORDS if word not in query]
    words = draw.sample(query, shared) + draw.sample(others, 4 - shared)
    draw.shuffle(words)
    return words


def pretrain(folder, steps=700):
    """A 2-layer Qwen2 that says `related` or `unrelated`; it has never been asked for 0 or 1."""
    torch.manual_seed(0)
    draw = random.Random(0)
    tokenizer = toy_tokenizer()
    config = transformers.Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=128,
        tie_word_embeddings=False,
    )
    model = transformers.Qwen2ForCausalLM(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(steps):
        texts = []
        for _ in range(64):
            query = draw.sample(WORDS, 2)
            shared = draw.choice([0, 0, 1, 2])
            document = make_document(draw, query, shared)
            answer = "related" if shared else "unrelated"
            texts.append(f"query: {' '.join(query)} document: {' '.join(document)} relevance: {answer}")
        ids = torch.tensor(tokenizer(texts)["input_ids"])  # (B, T): all of one length
        logits = model(ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits[:, -1], ids[:, -1])
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return save(model, tokenizer, folder), loss.item()


def toy_collection(folder):
    """A query's relevant document holds both of its words; six near misses hold one."""
    draw = random.Random(1)
    documents, queries, qrels = {}, {}, {"train": {}, "dev": {}, "test": {}}
    for i in range(120):
        query = draw.sample(WORDS, 2)
        queries[f"q{i}"] = " ".join(query)
        for j, shared in enumerate([2, 1, 1, 1, 1]):
            documents[f"q{i}-{j}"] = " ".join(make_document(draw, query, shared))
        qrels["train" if i < 70 else "dev" if i < 90 else "test"][f"q{i}"] = {f"q{i}-0": 1}
    return write_collection(folder, documents, queries, qrels)


@pytest.mark.timeout(240)
def test_both_stages_teach_what_they_should(tmp_path):
    model, loss = pretrain(tmp_path / "model")
    assert loss < 0.2, "the toy model has not learned its language"
    recipe = validate_recipe(
        {
            "name": "toy",
            "seed": 3,
            "backbone": {"model": str(model), "prompt": "prorank-short", "max_length": 64, "precision": "fp32"},
            "data": {"collection": str(toy_collection(tmp_path / "toy"))},
            "first_stage": {"language": "other"},
            "warmup": {
                "steps": 120,
                "pairs_per_step": 32,
                "learning_rate": 1e-3,
                "evaluate_every": 40,
                "samples": "exact",
                "held_out_pairs": 200,
            },
            "score_learning": {
                "steps": 150,
                "queries_per_step": 8,
                "learning_rate": 1e-3,
                "evaluate_every": 50,
                "negatives": {"hard": 4, "medium": 2, "random": 1},
            },
        }
    )
    results = run_recipe(recipe, tmp_path / "run")
    rows = {row["stage"]: row for row in results["rows"]}
    start = transformers.AutoModelForCausalLM.from_pretrained(model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    prompt = "query: w1 w2 document: w1 w5 w6 w7 relevance:"
    first = tokenizer.decode(start(torch.tensor([tokenizer(prompt)["input_ids"]])).logits[0, -1].argmax())
    assert first.strip() == "related"  # before warmup the format rate is zero, not by chance but by training
    assert results["warmup"]["start"]["format_rate"] < 0.10
    assert results["warmup"]["format_rate"] >= 0.99
    assert results["warmup"]["balanced_accuracy"] >= 0.90
    assert results["warmup"]["diagnosis"] == ""
    assert rows["score-learning"]["ndcg@10"] > rows["warmup"]["ndcg@10"] + 0.02
