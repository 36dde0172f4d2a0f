"""Recipes and trainers of a few steps on tiny models, and how their weights compare."""

import torch
from rich.console import Console
from safetensors.torch import load_file

from prorank.evaluation import streaming
from prorank.recipe.loading import validate_recipe
from prorank.recipe.sections import WarmupSection
from prorank.reranker import Reranker
from prorank.training.trainer import TrainContext
from prorank.warmup import rewards
from prorank.warmup.pairs import PairItem
from prorank.warmup.trainer import WarmupTrainer


def killed_at_the_third_block(monkeypatch, size):
    """Cut runs into blocks of so many pairs and let the third stop the process; pairs of each block that was asked."""
    scored, real = [], Reranker.score_detailed

    def dying(self, pairs, progress=None, lists=None):
        scored.append(len(pairs))
        if len(scored) == 3:
            raise KeyboardInterrupt
        return real(self, pairs, progress, lists)

    monkeypatch.setattr(streaming.blocks, "__defaults__", (size,))
    monkeypatch.setattr(Reranker, "score_detailed", dying)
    return scored


def tiny(model, collection, **changes):
    """A recipe of a few steps."""
    tree = {
        "name": "tiny",
        "seed": 5,
        "backbone": {"model": str(model), "prompt": "prorank-short", "max_length": 48, "precision": "fp32"},
        "data": {"collection": str(collection)},
        "first_stage": {},
        "warmup": {"steps": 4, "pairs_per_step": 4, "evaluate_every": 2, "held_out_pairs": 10},
        "score_learning": {
            "steps": 6,
            "queries_per_step": 2,
            "evaluate_every": 2,
            "dev_queries": 6,
            "negatives": {"hard": 2, "medium": 1, "random": 1},
        },
        "evaluation": {"rerank_depth": 5},
    }
    for key, value in changes.items():
        node = tree
        *parents, leaf = key.split("__")
        for part in parents:
            node = node.setdefault(part, {})
        node[leaf] = value
    return validate_recipe(tree)


def weights(folder):
    return load_file(folder / "checkpoint" / "model.safetensors")


def assert_equal_weights(a, b):
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def trainer_of(model, folder, lora=None, relevance_reward=rewards.relevance_reward, console=None, **settings):
    """A trainer over a few pairs, and one batch of them."""
    reranker = Reranker.from_pretrained(
        model, prompt="prorank-short", max_length=128, precision="fp32", for_training=True
    )
    section = WarmupSection(**{"steps": 4, "pairs_per_step": 4, "evaluate_every": 2, **settings})
    texts = [("river stone", "a river of stone"), ("river", "a cloud"), ("tiger", "the tiger"), ("piano", "a lemon")]
    sequences, _ = reranker.pair_tokenizer.encode(texts)
    items = [PairItem(ids, 1 - i % 2) for i, ids in enumerate(sequences)]
    backbone = reranker.backbone.train()
    if lora:
        backbone.add_lora(2, 4, 0.0)
    everything = items * section.batches
    context = TrainContext(
        backbone, reranker.pair_tokenizer, section, everything, folder, 1, console or Console(quiet=True)
    )
    trainer = WarmupTrainer(context, items, relevance_reward)
    return trainer, trainer.collate(items)
