"""More score learning for a checkpoint of `train.py`, on lists without the document that a query was cut from.

export PYTHONPATH=docs/results/prorank-mini-multilingual
python docs/results/english-transfer/without_source.py LISTS CHECKPOINT OUT

The best document of such a list no longer holds the query's own words, so the teacher's order is one of meaning.
Judged queries keep their relevant documents. Two cores, 80 minutes, eight lists a step.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from steps import SIZE, Learner, Steps, learn
from train import LENGTHS, LONGEST_QUERY, SHARES, CutSource

from prorank import Reranker
from prorank.pipeline.stages import without_dropout

SECONDS, RATE, SEED = 4_800.0, 1.2e-4, 5
LISTS, OWN, BUDGET, LONGEST = 8, 0.65, 9_000, 288


class WithoutSource(CutSource):
    """Lists of queries cut from documents, without those documents."""

    def draw(self, random: np.random.Generator, query: int) -> tuple[list[list[int]], list[float], list[float]] | None:
        """As `Source.draw`: six of the teacher's best ten, and others; None where there are too few."""
        if self.kinds[query] != "own":
            return super().draw(random, query)
        sources, candidates, teacher = set(self.relevant[query]), self.candidates[query], self.teacher[query]
        order = [k for k in np.argsort(-teacher) if candidates[k] not in sources]
        chosen = self.near_and_others(random, order, self.NEAR + 1, SIZE)
        if chosen is None:
            return None
        room = self.room(random, query)
        pairs = [self.pair(query, int(candidates[k]), room) for k in chosen]
        return pairs, [0.0] * SIZE, [float(teacher[k]) for k in chosen]


def main(lists: str, checkpoint: str, output: str) -> None:
    """Train, and save the checkpoint."""
    torch.manual_seed(SEED)
    reranker = Reranker(checkpoint, max_length=max(LENGTHS), for_training=True, precision="bf16")
    without_dropout(reranker.backbone)
    reranker.backbone.core.get_input_embeddings().weight.requires_grad_(False)
    tokenizer = reranker.pair_tokenizer
    sources = {name: WithoutSource(Path(lists) / f"{name}.pkl", tokenizer, LONGEST_QUERY, LONGEST) for name in SHARES}
    steps = Steps(sources, SHARES, own=OWN, lists=LISTS, budget=BUDGET, end=tokenizer.slot_from_end)
    log = learn(steps, Learner(reranker.backbone, tokenizer.answer_ids, RATE), SECONDS, 1, SEED)
    reranker.backbone.eval()
    reranker.save_pretrained(Path(output) / "checkpoint")
    (Path(output) / "log.json").write_text(json.dumps(log, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
