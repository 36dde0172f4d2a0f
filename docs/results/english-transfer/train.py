"""Score learning from prorank-mini on, against the clock.

python docs/results/english-transfer/train.py LISTS OUT

Lists of ten documents, eight a step. A pair is cut at a length that is drawn for its list, mostly short: many subjects
teach more than long documents do. Judged queries (45 %) learn from a softmax over the judgment and from the teacher,
those cut from documents from the teacher alone. Word embeddings stay as they are. The learning rate rises for two
minutes, and falls to nothing in the last forty.
"""

import json
import pickle
import sys
import time
from pathlib import Path

import numpy as np
import torch

from prorank import Reranker
from prorank.engine.scores import SCORES
from prorank.model.packing import one_pack
from prorank.pipeline.stages import without_dropout
from prorank.score_learning.losses import listwise_kl, listwise_softmax

MINUTES, RISE, FALL, RATE, SEED = 46.0, 2.0, 40.0, 1.2e-4, 13
LISTS, SIZE, OWN, TEACHER, TEMPERATURE, BUDGET = 8, 10, 0.55, 1.5, 0.5, 9_000
LENGTHS, ODDS, LONGEST_QUERY, LEAST = (96, 128, 192, 288), (0.35, 0.3, 0.25, 0.1), 96, 24
SHARES = {  # how often a source's judged queries come, and those cut from its documents
    "squad11-dev": (1.0, 0.6),
    "medquad": (0.8, 1.5),
    "covidqa-200423": (1.0, 1.0),
    "nl2bash": (0.8, 0.1),
    "cosqa": (0.6, 1.2),
    "scifact": (1.0, 1.8),
    "selqa-sections": (0.5, 0.5),
    "pubmedqa": (0.4, 0.4),
    "wordnet": (0.0, 0.8),
    "foldoc": (0.0, 1.4),
    "python": (0.0, 1.4),
}


class Source:
    """A source's lists, tokenised."""

    def __init__(self, file: Path, tokenizer) -> None:
        found = pickle.loads(file.read_bytes())
        self.kinds, texts, self.relevant, self.candidates, self.teacher = zip(*found["lists"])
        self.queries = [ids[:LONGEST_QUERY] for ids in tokenizer.query_ids(texts)]
        self.documents = [np.array(ids[: max(LENGTHS)], np.int32) for ids in tokenizer.document_ids(found["documents"])]
        self.join = tokenizer.join

    def rows(self, kind: str) -> list[int]:
        """Queries of a kind."""
        return [i for i, one in enumerate(self.kinds) if one == kind]

    def draw(self, random: np.random.Generator, query: int) -> tuple[list[list[int]], list[float], list[float]] | None:
        """A list: a relevant document, five of the teacher's best ten, others; None where there are too few."""
        own, judged = self.kinds[query] == "own", self.relevant[query]
        candidates, teacher = self.candidates[query], self.teacher[query]
        first = int(random.choice(judged))
        order = [k for k in np.argsort(-teacher) if candidates[k] != first and (own or candidates[k] not in judged)]
        best = order[:10]
        chosen = list(random.choice(best, min(len(best), SIZE // 2), replace=False))
        left = [k for k in order if k not in chosen]
        chosen += list(random.choice(left, min(len(left), SIZE - 1 - len(chosen)), replace=False))
        if len(chosen) < SIZE - 1:
            return None
        at = (int(np.flatnonzero(candidates == first)[0]), *chosen)
        asked = self.queries[query]
        room = max(LEAST, int(random.choice(LENGTHS, p=ODDS)) - len(asked))
        pairs = [self.join(list(asked), self.documents[int(candidates[k])][:room].tolist()) for k in at]
        return pairs, [float(not own)] + [0.0] * (SIZE - 1), [float(teacher[k]) for k in at]


def step(random: np.random.Generator, sources: list[Source], shares: np.ndarray, end: int):
    """A step's parts of at most `BUDGET` tokens: a pack, labels (Q, N), the teacher's scores (Q, N)."""
    lists = []
    while len(lists) < LISTS:
        own = int(random.random() < OWN)
        source = sources[random.choice(len(sources), p=shares[:, own])]
        found = source.draw(random, int(random.choice(source.rows("own" if own else "judged"))))
        lists += [found] if found is not None else []
    parts, tokens = [[]], 0
    for one in sorted(lists, key=lambda found: sum(map(len, found[0]))):
        own = sum(map(len, one[0]))
        if parts[-1] and tokens + own > BUDGET:
            parts.append([])
            tokens = 0
        parts[-1].append(one)
        tokens += own
    for part in parts:
        pairs, labels, teacher = zip(*part)
        pack = one_pack([ids for own in pairs for ids in own], causal=False, slot_from_end=end)
        yield pack, torch.tensor(labels), torch.tensor(teacher)


def learn_scores(reranker: Reranker, sources: dict[str, Source]) -> dict[str, float]:
    """Steps, pairs and tokens."""
    backbone, tokenizer, score = reranker.backbone, reranker.pair_tokenizer, SCORES["logit_difference"]
    shares = np.array([SHARES[name] for name in sources])
    shares = shares / shares.sum(0)
    trained = [p for p in backbone.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98))
    counts, random = {"steps": 0, "pairs": 0, "tokens": 0}, np.random.default_rng(SEED)
    backbone.train()
    begun = time.monotonic()
    while (minutes := (time.monotonic() - begun) / 60) < MINUTES:
        rate = RATE * min(1, minutes / RISE) * min(1, (MINUTES - minutes) / FALL) + 1e-7
        for group in optimizer.param_groups:
            group["lr"] = rate
        for pack, label, teacher in step(random, list(sources.values()), shares, tokenizer.slot_from_end):
            scores = score(backbone.project(backbone(pack=pack), tokenizer.answer_ids)).view_as(label)  # (Q, N)
            judged = (label.sum(-1) > 0).float().mean()
            loss = listwise_softmax(scores, label) * judged + TEACHER * listwise_kl(scores, teacher / TEMPERATURE)
            (loss * len(label) / LISTS).backward()
            counts["pairs"] += label.numel()
            counts["tokens"] += pack.input_ids.numel()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        counts["steps"] += 1
        if counts["steps"] % 40 == 0:
            print(counts, f"loss of the last part {float(loss):.3f}", flush=True)
    return counts


def main(lists: str, output: str) -> None:
    """Train, and save the checkpoint."""
    torch.manual_seed(SEED)
    reranker = Reranker("prorank-mini", max_length=max(LENGTHS), for_training=True, precision="bf16")
    without_dropout(reranker.backbone)
    reranker.backbone.core.get_input_embeddings().weight.requires_grad_(False)
    sources = {name: Source(Path(lists) / f"{name}.pkl", reranker.pair_tokenizer) for name in SHARES}
    log = learn_scores(reranker, sources)
    reranker.backbone.eval()
    reranker.settings = reranker.settings.model_copy(update={"max_length": 384, "calibration": None})
    reranker.save_pretrained(Path(output) / "checkpoint")
    (Path(output) / "log.json").write_text(json.dumps(log, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
