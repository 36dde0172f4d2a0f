"""A toy language: a collection in which relevance is word overlap, and a small causal model that knows the language.

The model says `related` or `unrelated` and has never been asked for 0 or 1: where prompt warmup starts from, trained in
half a minute on a CPU. Tokenizer, weights and collection are all made here, from seeds.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from prorank.data.runs import Qrels
from prorank.prompts.builtin import PROMPTS
from prorank.prompts.tokenization import PairTokenizer
from prorank.util.errors import ProrankError, require

WORDS = "apple river stone cloud tiger piano lemon candle forest silver window garden rocket pepper violin".split()
PROMPT = "prorank-short"
ANSWERS = (" unrelated", " related")  # one token each
LEARNED = 0.2  # nats; a model that guesses has 0.69


def toy_recipe(folder: Path) -> dict[str, Any]:
    """A recipe's sections for both stages on the toy language; model and collection are made where they are missing.

    Args:
        folder: takes `model/` and `collection/`.

    Raises:
        ProrankError: the model did not learn its language.
    """
    if not (folder / "model" / "config.json").is_file():
        loss = pretrain(folder / "model")
        if loss > LEARNED:
            raise ProrankError(f"the toy model has not learned its language: loss {loss:.2f}")
    if not (folder / "collection" / "qrels").is_dir():
        toy_collection(folder / "collection")
    return {
        "name": "toy",
        "seed": 3,
        "backbone": {"model": str(folder / "model"), "prompt": PROMPT, "max_length": 64, "precision": "fp32"},
        "data": {"collection": str(folder / "collection")},
        "first_stage": {"language": "other", "depth": 100},
        "warmup": {
            "steps": 120,
            "pairs_per_step": 32,
            "learning_rate": 1e-3,
            "entropy_bonus": 0.1,
            "evaluate_every": 20,
            "held_out_pairs": 200,
        },
        "score_learning": {
            "steps": 150,
            "queries_per_step": 8,
            "learning_rate": 1e-3,
            "evaluate_every": 50,
            "negatives": {"hard": 0, "medium": 0, "random": 7},
        },
        "evaluation": {"rerank_depth": 100},
    }


def toy_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Byte-level BPE in which every word of the language is one token."""
    tokenizers = require("tokenizers", "train")
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = f"query: {' '.join(WORDS)}\ndocument: {' '.join(WORDS)}\nRelevance: related Relevance: unrelated"
    backend.train_from_iterator([text] * 20, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<end>")


def toy_document(draw: random.Random, query: list[str], shared: int) -> list[str]:
    """Four words, `shared` of them from the query."""
    words = draw.sample(query, shared) + draw.sample([word for word in WORDS if word not in query], 4 - shared)
    draw.shuffle(words)
    return words


def pretrain(folder: Path, steps: int = 600, seed: int = 0) -> float:
    """Train a 3-layer Qwen2 to say whether query and document share a word; save it. Returns the last loss."""
    torch.manual_seed(seed)
    draw = random.Random(seed)
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
    pairs = PairTokenizer(tokenizer, PROMPTS[PROMPT], "causal", max_length=64)
    answers = [tokenizer(text)["input_ids"] for text in ANSWERS]
    value = 0.0
    for _ in range(steps):
        texts, targets = [], []
        for _ in range(64):
            query = draw.sample(WORDS, 2)
            shared = draw.choice([0, 0, 1, 2])
            texts.append((" ".join(query), " ".join(toy_document(draw, query, shared))))
            targets.append(answers[shared > 0])
        sequences, _ = pairs.encode(texts)
        ids = torch.tensor([s + t for s, t in zip(sequences, targets)])  # (B, T): all of one length
        logits = model(ids[:, :-1], logits_to_keep=1).logits
        loss = torch.nn.functional.cross_entropy(logits[:, -1], ids[:, -1])
        loss.backward()
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        value = loss.item()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return value


def toy_collection(folder: Path) -> None:
    """400 documents of 4 words, 100 queries of 2; the grade is the number of shared words, every document is judged."""
    draw = random.Random(1)
    documents = {f"d{i}": draw.sample(WORDS, 4) for i in range(400)}
    queries: dict[str, str] = {}
    qrels: dict[str, Qrels] = {"train": {}, "dev": {}, "test": {}}
    for i, (first, second) in enumerate(draw.sample([(a, b) for a in WORDS for b in WORDS if a < b], 100)):
        queries[f"q{i}"] = f"{first} {second}"
        grades = {d: (first in words) + (second in words) for d, words in documents.items()}
        qrels["train" if i < 55 else "dev" if i < 75 else "test"][f"q{i}"] = {d: g for d, g in grades.items() if g}
    write_collection(folder, {d: " ".join(words) for d, words in documents.items()}, queries, qrels)


def write_collection(
    folder: Path, documents: Mapping[str, str], queries: Mapping[str, str], qrels: Mapping[str, Qrels]
) -> Path:
    """Write texts and judgments in BEIR layout; returns the folder."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"_id": i, "title": "", "text": t}, ensure_ascii=False) for i, t in documents.items()]
    (folder / "corpus.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    rows = [json.dumps({"_id": i, "text": t}, ensure_ascii=False) for i, t in queries.items()]
    (folder / "queries.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for split, judged in qrels.items():
        lines = ["query-id\tcorpus-id\tscore"]
        lines += [f"{q}\t{d}\t{g}" for q, grades in judged.items() for d, g in grades.items()]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
