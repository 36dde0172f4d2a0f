"""Score learning from prorank-mini on, against the clock.

export PYTHONPATH=docs/results/prorank-mini-multilingual
python docs/results/english-transfer/train.py LISTS OUT

Lists of ten documents, eight a step. A pair is cut at a length that is drawn for its list, mostly short: many subjects
teach more than long documents do. Judged queries (45 %) learn from a softmax over the judgment and from the teacher,
those cut from documents from the teacher alone. Word embeddings stay as they are. The learning rate rises for two
minutes, and falls to nothing in the last forty.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from steps import SIZE, Learner, Source, Steps

from prorank import Reranker
from prorank.pipeline.stages import without_dropout

MINUTES, RISE, FALL, RATE, SEED = 46.0, 2.0, 40.0, 1.2e-4, 13
LISTS, OWN, BUDGET = 8, 0.55, 9_000
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


class CutSource(Source):
    """Lists whose pairs are cut at a drawn length."""

    NEAR = SIZE // 2

    def room(self, random: np.random.Generator, query: int) -> int:
        """What the query leaves of a drawn length."""
        return max(LEAST, int(random.choice(LENGTHS, p=ODDS)) - len(self.queries[query]))


def learn_scores(reranker: Reranker, sources: dict[str, Source]) -> dict[str, int]:
    """Steps, pairs and tokens."""
    tokenizer = reranker.pair_tokenizer
    steps = Steps(sources, SHARES, own=OWN, lists=LISTS, budget=BUDGET, end=tokenizer.slot_from_end)
    learner, random = Learner(reranker.backbone, tokenizer.answer_ids, RATE), np.random.default_rng(SEED)
    begun = time.monotonic()
    while (minutes := (time.monotonic() - begun) / 60) < MINUTES:
        loss = learner.step(steps.draw(random), min(1, minutes / RISE) * min(1, (MINUTES - minutes) / FALL))
        if learner.counts["steps"] % 40 == 0:
            print(learner.counts, f"loss of the last part {float(loss):.3f}", flush=True)
    return learner.counts


def main(lists: str, output: str) -> None:
    """Train, and save the checkpoint."""
    torch.manual_seed(SEED)
    reranker = Reranker("prorank-mini", max_length=max(LENGTHS), for_training=True, precision="bf16")
    without_dropout(reranker.backbone)
    reranker.backbone.core.get_input_embeddings().weight.requires_grad_(False)
    longest = LONGEST_QUERY, max(LENGTHS)
    sources = {n: CutSource(Path(lists) / f"{n}.pkl", reranker.pair_tokenizer, *longest) for n in SHARES}
    log = learn_scores(reranker, sources)
    reranker.backbone.eval()
    reranker.settings = reranker.settings.model_copy(update={"max_length": 384, "calibration": None})
    reranker.save_pretrained(Path(output) / "checkpoint")
    (Path(output) / "log.json").write_text(json.dumps(log, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
