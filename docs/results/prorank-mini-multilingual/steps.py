"""Both stages on prepared lists: drawing them, packing them, one step. What the `train.py` of two rounds share.

A round says which sources there are and how often each comes, how long pairs are, and how the learning rate goes.
"""

import pickle
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from prorank import Reranker
from prorank.engine.scores import SCORES
from prorank.model.backbone import Backbone
from prorank.model.packing import one_pack
from prorank.recipe.sections import WarmupSection
from prorank.score_learning.losses import listwise_kl, listwise_softmax
from prorank.training.trainer import TrainContext
from prorank.warmup.pairs import PairItem, exchanged_pairs
from prorank.warmup.trainer import WarmupTrainer

SIZE, TEACHER, TEMPERATURE = 10, 1.5, 0.5
WARMED = ("squad11-dev", "medquad", "nl2bash")  # collections whose pairs stage 1 sees


class Source:
    """A source's lists, tokenised: queries and documents of at most so many tokens."""

    NEAR = (SIZE - 1) // 2  # documents of a list that are of the teacher's best ten

    def __init__(self, file: Path, tokenizer, longest_query: int, longest_document: int) -> None:
        found = pickle.loads(file.read_bytes())
        self.kinds, texts, self.relevant, self.candidates, self.teacher = zip(*found["lists"])
        self.queries = [np.array(ids[:longest_query], np.int32) for ids in tokenizer.query_ids(texts)]
        documents = tokenizer.document_ids(found["documents"])
        self.documents = [np.array(ids[:longest_document], np.int32) for ids in documents]
        self.join = tokenizer.join

    def rows(self, kind: str) -> list[int]:
        """Queries of a kind."""
        return [i for i, one in enumerate(self.kinds) if one == kind]

    def pair(self, query: int, document: int, room: int | None = None) -> list[int]:
        """Token ids of a query and a document, or of the document's first `room` tokens."""
        return self.join(self.queries[query].tolist(), self.documents[document][:room].tolist())

    def room(self, random: np.random.Generator, query: int) -> int | None:
        """Tokens of each document that a list of the query holds; None takes all."""
        return None

    @staticmethod
    def near_and_others(random: np.random.Generator, order: list[int], near: int, count: int) -> list[int] | None:
        """Places of `near` of the best ten and of others, `count` in all; None where there are too few.

        `order` has places, best first.
        """
        best = order[:10]
        chosen = list(random.choice(best, min(len(best), near), replace=False))
        left = [k for k in order if k not in chosen]
        chosen += list(random.choice(left, min(len(left), count - len(chosen)), replace=False))
        return chosen if len(chosen) == count else None

    def draw(self, random: np.random.Generator, query: int) -> tuple[list[list[int]], list[float], list[float]] | None:
        """A list: a relevant document, `NEAR` of the teacher's best ten, others; None where there are too few."""
        own, judged = self.kinds[query] == "own", set(self.relevant[query])
        candidates, teacher = self.candidates[query], self.teacher[query]
        first = int(random.choice(self.relevant[query][:8]))
        order = [k for k in np.argsort(-teacher) if candidates[k] != first and (own or candidates[k] not in judged)]
        chosen = self.near_and_others(random, order, self.NEAR, SIZE - 1)
        if chosen is None:
            return None
        places = (int(np.flatnonzero(candidates == first)[0]), *chosen)
        room = self.room(random, query)
        pairs = [self.pair(query, int(candidates[k]), room) for k in places]
        return pairs, [float(not own)] + [0.0] * (SIZE - 1), [float(teacher[k]) for k in places]


class Steps:
    """Steps of some lists, in parts of at most `budget` tokens.

    Args:
        sources: by name.
        shares: how often a source's judged queries come, and those cut from its documents.
        own: share of the latter.
        lists: of a step.
        budget: tokens of a part.
        end: the answer slot, counted from a pair's end.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        shares: Mapping[str, tuple[float, float]],
        *,
        own: float,
        lists: int,
        budget: int,
        end: int,
    ) -> None:
        self.sources, self.own, self.lists, self.budget, self.end = list(sources.values()), own, lists, budget, end
        self.rows = [(one.rows("judged"), one.rows("own")) for one in self.sources]
        weights = np.array([shares[name] for name in sources])
        self.shares = weights / weights.sum(0)

    def one(self, random: np.random.Generator):
        """A list of a drawn source and kind."""
        while True:
            own = int(random.random() < self.own)
            number = random.choice(len(self.sources), p=self.shares[:, own])
            found = self.sources[number].draw(random, int(random.choice(self.rows[number][own])))
            if found is not None:
                return found

    def draw(self, random: np.random.Generator) -> list[tuple]:
        """A step's parts: a pack, labels (Q, N), the teacher's scores (Q, N)."""
        lists = sorted((self.one(random) for _ in range(self.lists)), key=lambda one: sum(map(len, one[0])))
        parts, tokens = [[]], 0
        for one in lists:
            own = sum(map(len, one[0]))
            if parts[-1] and tokens + own > self.budget:
                parts.append([])
                tokens = 0
            parts[-1].append(one)
            tokens += own
        return [self.part(part) for part in parts]

    def part(self, lists):
        """Lists as tensors."""
        pairs, labels, teacher = zip(*lists)
        pack = one_pack([ids for own in pairs for ids in own], causal=False, slot_from_end=self.end)
        return pack, torch.tensor(labels), torch.tensor(teacher)


class Stream(torch.utils.data.IterableDataset):
    """Endless steps, drawn by the workers of a DataLoader."""

    def __init__(self, steps: Steps, seed: int) -> None:
        self.steps, self.seed = steps, seed

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        random = np.random.default_rng([self.seed, worker.id if worker else 0])
        torch.set_num_threads(1)
        while True:
            yield self.steps.draw(random)


def warm_up(
    reranker: Reranker, sources: Mapping[str, Source], steps: int, folder: Path, seed: int
) -> dict[str, object]:
    """Stage 1 on pairs of `WARMED`; held-out metrics before and after."""
    settings = WarmupSection(steps=steps, learning_rate=2e-4, evaluate_every=steps // 3, pairs_per_step=16)

    def pairs(kind: str, count: int, seed: int) -> list[PairItem]:
        found = []
        for source in (sources[name] for name in WARMED):
            qrels = {str(i): {str(d): 1 for d in source.relevant[i]} for i in source.rows(kind)}
            drawn = exchanged_pairs(qrels, count, seed)
            found.append([PairItem(source.pair(int(p[0]), int(p[1])), int(p.relevant)) for p in drawn])
        return [found[k % len(found)][2 * (k // len(found)) + half] for k in range(count // 2) for half in (0, 1)]

    tokenizer, items = reranker.pair_tokenizer, pairs("judged", 16 * steps, seed)
    context = TrainContext(reranker.backbone.train(), tokenizer, settings, items, folder, seed, Console())
    trainer = WarmupTrainer(context, pairs("dev", 300, 1))
    start = trainer.metrics(trainer.held_out_items)
    trainer.run(resume=False)
    return {"start": start._asdict(), "end": trainer.metrics(trainer.held_out_items)._asdict()}


class Learner:
    """The optimizer, and what it has seen."""

    def __init__(self, backbone: Backbone, answers: list[int], rate: float) -> None:
        self.backbone, self.answers, self.rate = backbone.train(), answers, rate
        self.trained = [p for p in backbone.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in self.trained if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in self.trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=backbone.device.type == "cuda")
        self.counts = {"steps": 0, "pairs": 0, "tokens": 0}

    def step(self, parts: list[tuple], share: float) -> torch.Tensor:
        """One step, at a share of the learning rate; the last part's loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * share + 1e-7
        lists, device = sum(len(label) for _, label, _ in parts), self.backbone.device
        for pack, label, teacher in parts:
            label, teacher = label.to(device), teacher.to(device)
            logits = self.backbone.project(self.backbone(pack=pack.to(device)), self.answers)
            scores = SCORES["logit_difference"](logits).view_as(label)  # (Q, N)
            judged = (label.sum(-1) > 0).float().mean()
            loss = listwise_softmax(scores, label) * judged + TEACHER * listwise_kl(scores, teacher / TEMPERATURE)
            (loss * len(label) / lists).backward()
            self.counts["pairs"] += label.numel()
            self.counts["tokens"] += pack.input_ids.numel()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.counts["steps"] += 1
        return loss.detach()


def learn(steps: Steps, learner: Learner, seconds: float, workers: int, seed: int) -> dict[str, int]:
    """Stage 2 against the clock; steps, pairs and tokens. The rate rises for 4 % of the time and falls to nothing."""
    loader = torch.utils.data.DataLoader(Stream(steps, seed), batch_size=None, num_workers=workers, prefetch_factor=8)
    begun = time.monotonic()
    for parts in loader:
        done = (time.monotonic() - begun) / seconds
        if done >= 1:
            return learner.counts
        loss = learner.step(parts, min(1, done / 0.04) * min(1, (1 - done) / 0.96))
        if learner.counts["steps"] % 100 == 0:
            print(learner.counts, f"{done:.2f} of the time, loss of the last part {float(loss):.3f}", flush=True)
    raise AssertionError("unreachable: steps have no end")
