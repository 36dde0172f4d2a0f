"""Both stages on a causal model that has learned a toy language: relevance is token overlap."""

import random

import pytest
import torch
import transformers
from conftest import WORDS, save, write_collection
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from prorank.prompts import PROMPTS
from prorank.tokenization import PairTokenizer
from prorank.training.recipe import validate_recipe
from prorank.training.run import run_recipe


def toy_tokenizer():
    """Byte-level BPE in which every word of the language is one token."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = f"query: {' '.join(WORDS)}\ndocument: {' '.join(WORDS)}\nRelevance: related Relevance: unrelated"
    backend.train_from_iterator([text] * 20, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<end>")


def make_document(draw, query, shared):
    others = [word for word in WORDS if word not in query]
    words = draw.sample(query, shared) + draw.sample(others, 4 - shared)
    draw.shuffle(words)
    return words


def pretrain(folder, steps=600):
    """A 3-layer Qwen2 that says `related` or `unrelated`; it has never been asked for 0 or 1."""
    torch.manual_seed(0)
    draw = random.Random(0)
    tokenizer = toy_tokenizer()
    config = transformers.Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=128,
        initializer_range=0.1,
    )
    model = transformers.Qwen2ForCausalLM(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1, step / 50) * (1 - step / steps) + 0.01)
    pairs = PairTokenizer(tokenizer, PROMPTS["prorank-short"], "causal", max_length=64)
    answers = [tokenizer(text)["input_ids"] for text in (" unrelated", " related")]
    assert [len(ids) for ids in answers] == [1, 1]
    for _ in range(steps):
        texts, targets = [], []
        for _ in range(64):
            query = draw.sample(WORDS, 2)
            shared = draw.choice([0, 0, 1, 2])
            texts.append((" ".join(query), " ".join(make_document(draw, query, shared))))
            targets.append(answers[shared > 0])
        sequences, _ = pairs.encode(texts)
        ids = torch.tensor([s + t for s, t in zip(sequences, targets)])  # (B, T): all of one length
        logits = model(ids[:, :-1], logits_to_keep=1).logits
        loss = torch.nn.functional.cross_entropy(logits[:, -1], ids[:, -1])
        loss.backward()
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    return save(model, tokenizer, folder), loss.item()


def toy_collection(folder):
    """The grade of a document is the number of query words in it; every document is judged."""
    draw = random.Random(1)
    documents = {f"d{i}": draw.sample(WORDS, 4) for i in range(400)}
    queries, qrels = {}, {"train": {}, "dev": {}, "test": {}}
    for i, (first, second) in enumerate(draw.sample([(a, b) for a in WORDS for b in WORDS if a < b], 100)):
        queries[f"q{i}"] = f"{first} {second}"
        grades = {d: (first in words) + (second in words) for d, words in documents.items()}
        qrels["train" if i < 55 else "dev" if i < 75 else "test"][f"q{i}"] = {d: g for d, g in grades.items() if g}
    return write_collection(folder, {d: " ".join(words) for d, words in documents.items()}, queries, qrels)


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
            "first_stage": {"language": "other", "depth": 100},
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
                "negatives": {"hard": 0, "medium": 0, "random": 7},
            },
            "evaluation": {"rerank": 100},
        }
    )
    results = run_recipe(recipe, tmp_path / "run")
    rows = {row["stage"]: row for row in results["rows"]}
    assert results["warmup"]["start"]["format_rate"] < 0.10  # it says `related`, it has never been asked for 1
    assert results["warmup"]["format_rate"] >= 0.99
    assert results["warmup"]["balanced_accuracy"] >= 0.90
    assert results["warmup"]["diagnosis"] == ""
    assert rows["score-learning"]["ndcg@10"] > rows["warmup"]["ndcg@10"] + 0.02
