"""Both stages on MiniLM, against the clock, of one GPU.

export PYTHONPATH=docs/results/prorank-mini-multilingual
python docs/results/english-transfer/train.py LISTS OUT [COLLECTION...]

The collections that are named are left out, to be measured on. Warmup: 150 steps of 16 pairs. Score learning: 32 lists
of ten documents a step. A pair is cut at a length that is drawn for its list, mostly short: many subjects teach more
than long documents do. Judged queries (45 %) learn from a softmax over the judgment and from the teacher, those cut
from documents from the teacher alone. Word embeddings stay as they are. The learning rate rises over the first 4 % of
the time and falls to nothing at the end.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from steps import SIZE, Learner, Source, Steps, learn, warm_up

from prorank import Reranker
from prorank.pipeline.stages import without_dropout

SECONDS, RATE, SEED = 170.0, 2e-4, 13
LISTS, OWN, BUDGET, WORKERS = 32, 0.55, 120_000, 3
LENGTHS, ODDS, LONGEST_QUERY, LEAST = (96, 128, 192, 288, 384), (0.3, 0.3, 0.2, 0.12, 0.08), 96, 24
SHARES = {  # how often a source's judged queries come, and those cut from its documents
    "squad11-dev": (1.0, 0.7),
    "medquad": (0.8, 1.2),
    "covidqa-200423": (1.0, 1.0),
    "nl2bash": (0.8, 0.1),
    "cosqa": (0.6, 1.2),
    "scifact": (1.0, 1.8),
    "selqa-sections": (0.5, 0.6),
    "pubmedqa": (0.4, 0.4),
    "wordnet": (0.0, 0.8),
    "foldoc": (0.0, 1.2),
    "python": (0.0, 1.4),
    "manuals": (0.0, 2.0),
}


class CutSource(Source):
    """Lists whose pairs are cut at a drawn length."""

    NEAR = SIZE // 2

    def room(self, random: np.random.Generator, query: int) -> int:
        """What the query leaves of a drawn length."""
        return max(LEAST, int(random.choice(LENGTHS, p=ODDS)) - len(self.queries[query]))


def learn_scores(reranker: Reranker, sources: dict[str, Source]) -> dict[str, int]:
    """Stage 2; steps, pairs and tokens."""
    tokenizer = reranker.pair_tokenizer
    steps = Steps(sources, SHARES, own=OWN, lists=LISTS, budget=BUDGET, end=tokenizer.slot_from_end)
    return learn(steps, Learner(reranker.backbone, tokenizer.answer_ids, RATE), SECONDS, WORKERS, SEED)


def main(lists: str, output: str, *left_out: str) -> None:
    """Train, and save the checkpoint."""
    torch.manual_seed(SEED)
    reranker = Reranker(
        "embedded", prompt="prorank-short", max_length=max(LENGTHS), for_training=True, precision="bf16"
    )
    without_dropout(reranker.backbone)
    reranker.backbone.core.get_input_embeddings().weight.requires_grad_(False)
    longest = LONGEST_QUERY, max(LENGTHS)
    names = [name for name in SHARES if name not in left_out]
    sources = {name: CutSource(Path(lists) / f"{name}.pkl", reranker.pair_tokenizer, *longest) for name in names}
    log = {"left_out": left_out, "warmup": warm_up(reranker, sources, 150, Path(output) / "warmup", SEED)}
    log |= learn_scores(reranker, sources)
    reranker.backbone.eval()
    reranker.settings = reranker.settings.model_copy(update={"calibration": None})
    reranker.save_pretrained(Path(output) / "checkpoint")
    (Path(output) / "log.json").write_text(json.dumps(log, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
