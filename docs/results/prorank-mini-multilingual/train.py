"""Both stages on the cut multilingual-e5-small, against the clock.

python docs/results/prorank-mini-multilingual/train.py E5 LISTS OUT

Warmup: 200 steps of 16 pairs, positives of other queries as negatives. Score learning: lists of ten documents, 48 a
step, of up to 320 tokens a pair, for `SECONDS`; the learning rate rises over the first 4 % and falls to nothing at the
end. Judged queries (65 %) learn from a softmax over the judgment and from the teacher, those cut from documents from
the teacher alone. Word embeddings stay as they are: languages that no list holds keep their place among the others.
"""

import json
import pickle
import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from sources import TRAIN

from prorank import Reranker
from prorank.engine.scores import SCORES
from prorank.model.packing import one_pack
from prorank.pipeline.stages import without_dropout
from prorank.recipe.sections import WarmupSection
from prorank.score_learning.losses import listwise_kl, listwise_softmax
from prorank.training.trainer import TrainContext
from prorank.warmup.pairs import PairItem, exchanged_pairs
from prorank.warmup.trainer import WarmupTrainer

SECONDS, LENGTH, LISTS, SIZE, RATE, SEED = 70.0, 320, 48, 10, 1.5e-4, 13
OWN, TEACHER, TEMPERATURE, BUDGET = 0.35, 1.5, 0.5, 120_000
WARMED = ("squad11-dev", "medquad", "nl2bash")  # collections whose pairs stage 1 sees


class Source:
    """A collection's lists, tokenised."""

    def __init__(self, file: Path, tokenizer) -> None:
        found = pickle.loads(file.read_bytes())
        self.kinds, texts, self.relevant, self.candidates, self.teacher = zip(*found["lists"])
        self.queries = [np.array(ids[:LENGTH], np.int32) for ids in tokenizer.query_ids(texts)]
        self.documents = [np.array(ids[:LENGTH], np.int32) for ids in tokenizer.document_ids(found["documents"])]
        self.join = tokenizer.join

    def rows(self, kind: str) -> list[int]:
        """Queries of a kind."""
        return [i for i, one in enumerate(self.kinds) if one == kind]

    def pair(self, query: int, document: int) -> list[int]:
        """Token ids of a query and a document."""
        return self.join(self.queries[query].tolist(), self.documents[document].tolist())

    def draw(self, random: np.random.Generator, query: int) -> tuple[list[list[int]], list[float], list[float]] | None:
        """A list: a relevant document, near ones half of the teacher's best ten; None where there are too few."""
        own, judged = self.kinds[query] == "own", set(self.relevant[query])
        candidates, teacher = self.candidates[query], self.teacher[query]
        first = int(random.choice(self.relevant[query][:8]))
        order = [k for k in np.argsort(-teacher) if candidates[k] != first and (own or candidates[k] not in judged)]
        best = order[:10]
        chosen = list(random.choice(best, min(len(best), (SIZE - 1) // 2), replace=False))
        left = [k for k in order if k not in chosen]
        chosen += list(random.choice(left, min(len(left), SIZE - 1 - len(chosen)), replace=False))
        if len(chosen) < SIZE - 1:
            return None
        at = int(np.flatnonzero(candidates == first)[0])
        pairs = [self.pair(query, int(candidates[k])) for k in (at, *chosen)]
        return pairs, [float(not own)] + [0.0] * (SIZE - 1), [float(teacher[k]) for k in (at, *chosen)]


class Steps(torch.utils.data.IterableDataset):
    """Endless steps, each in parts of at most `BUDGET` tokens: a pack, labels (Q, N), the teacher's scores (Q, N)."""

    def __init__(self, sources: dict[str, Source], tokenizer) -> None:
        self.sources, self.end = list(sources.values()), tokenizer.slot_from_end
        self.rows = [(one.rows("judged"), one.rows("own")) for one in self.sources]
        shares = np.array([TRAIN[name] for name in sources])
        self.shares = shares / shares.sum(0)

    def one(self, random: np.random.Generator):
        """A list of a drawn collection and kind."""
        while True:
            own = int(random.random() < OWN)
            number = random.choice(len(self.sources), p=self.shares[:, own])
            found = self.sources[number].draw(random, int(random.choice(self.rows[number][own])))
            if found is not None:
                return found

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        random = np.random.default_rng([SEED, worker.id if worker else 0])
        torch.set_num_threads(1)
        while True:
            lists = sorted((self.one(random) for _ in range(LISTS)), key=lambda one: sum(map(len, one[0])))
            parts, tokens = [[]], 0
            for one in lists:
                own = sum(map(len, one[0]))
                if parts[-1] and tokens + own > BUDGET:
                    parts.append([])
                    tokens = 0
                parts[-1].append(one)
                tokens += own
            yield [self.part(part) for part in parts]

    def part(self, lists):
        """Lists as tensors."""
        pairs, labels, teacher = zip(*lists)
        pack = one_pack([ids for own in pairs for ids in own], causal=False, slot_from_end=self.end)
        return pack, torch.tensor(labels), torch.tensor(teacher)


def warm_up(reranker: Reranker, sources: dict[str, Source], folder: Path) -> dict[str, object]:
    """Stage 1; held-out metrics before and after."""
    settings = WarmupSection(steps=200, learning_rate=2e-4, evaluate_every=66, pairs_per_step=16)

    def pairs(kind: str, count: int, seed: int) -> list[PairItem]:
        found = []
        for source in (sources[name] for name in WARMED):
            qrels = {str(i): {str(d): 1 for d in source.relevant[i]} for i in source.rows(kind)}
            drawn = exchanged_pairs(qrels, count, seed)
            found.append([PairItem(source.pair(int(p[0]), int(p[1])), int(p.relevant)) for p in drawn])
        return [found[k % len(found)][2 * (k // len(found)) + half] for k in range(count // 2) for half in (0, 1)]

    tokenizer, items = reranker.pair_tokenizer, pairs("judged", 16 * settings.steps, SEED)
    context = TrainContext(reranker.backbone.train(), tokenizer, settings, items, folder, SEED, Console())
    trainer = WarmupTrainer(context, pairs("dev", 300, 1))
    start = trainer.metrics(trainer.held_out_items)
    trainer.run(resume=False)
    return {"start": start._asdict(), "end": trainer.metrics(trainer.held_out_items)._asdict()}


def learn_scores(reranker: Reranker, sources: dict[str, Source]) -> dict[str, float]:
    """Stage 2; steps, pairs and tokens."""
    backbone, tokenizer, score = reranker.backbone, reranker.pair_tokenizer, SCORES["logit_difference"]
    steps = torch.utils.data.DataLoader(Steps(sources, tokenizer), batch_size=None, num_workers=6, prefetch_factor=4)
    trained = [p for p in backbone.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98), fused=backbone.device.type == "cuda")
    counts = {"steps": 0, "pairs": 0, "tokens": 0}
    backbone.train()
    begun = time.monotonic()
    for parts in steps:
        done = (time.monotonic() - begun) / SECONDS
        if done >= 1:
            return counts
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, done / 0.04) * min(1, (1 - done) / 0.96) + 1e-7
        for pack, label, teacher in parts:
            label, teacher = label.to(backbone.device), teacher.to(backbone.device)
            logits = backbone.project(backbone(pack=pack.to(backbone.device)), tokenizer.answer_ids)
            scores = score(logits).view_as(label)  # (Q, N)
            judged = (label.sum(-1) > 0).float().mean()
            loss = listwise_softmax(scores, label) * judged + TEACHER * listwise_kl(scores, teacher / TEMPERATURE)
            (loss * len(label) / LISTS).backward()
            counts["pairs"] += label.numel()
            counts["tokens"] += pack.input_ids.numel()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        counts["steps"] += 1
    raise AssertionError("unreachable: steps have no end")


def main(e5: str, lists: str, output: str) -> None:
    """Train, and save the checkpoint."""
    torch.manual_seed(SEED)
    reranker = Reranker(e5, prompt="prorank-short", max_length=LENGTH, for_training=True, precision="bf16")
    without_dropout(reranker.backbone)
    reranker.backbone.core.get_input_embeddings().weight.requires_grad_(False)
    sources = {name: Source(Path(lists) / f"{name}.pkl", reranker.pair_tokenizer) for name in TRAIN}
    log = {"warmup": warm_up(reranker, sources, Path(output) / "warmup")} | learn_scores(reranker, sources)
    reranker.backbone.eval()
    base = "multilingual-e5-small, from a 4-bit file"
    reranker.settings = reranker.settings.model_copy(update={"max_length": 384, "base_model": base})
    reranker.save_pretrained(Path(output) / "checkpoint")
    (Path(output) / "log.json").write_text(json.dumps(log, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
