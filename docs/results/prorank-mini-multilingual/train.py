"""Both stages on the cut multilingual-e5-small, against the clock.

python docs/results/prorank-mini-multilingual/train.py E5 LISTS OUT

Warmup: 200 steps of 16 pairs, positives of other queries as negatives. Score learning: lists of ten documents, 48 a
step, of up to 320 tokens a pair, for `SECONDS`; the learning rate rises over the first 4 % and falls to nothing at the
end. Judged queries (65 %) learn from a softmax over the judgment and from the teacher, those cut from documents from
the teacher alone. Word embeddings stay as they are: languages that no list holds keep their place among the others.
"""

import json
import sys
from pathlib import Path

import torch
from sources import TRAIN
from steps import Learner, Source, Steps, learn, warm_up

from prorank import Reranker
from prorank.pipeline.stages import without_dropout

SECONDS, LENGTH, LISTS, RATE, SEED = 70.0, 320, 48, 1.5e-4, 13
OWN, BUDGET = 0.35, 120_000


def learn_scores(reranker: Reranker, sources: dict[str, Source]) -> dict[str, int]:
    """Stage 2; steps, pairs and tokens."""
    tokenizer = reranker.pair_tokenizer
    steps = Steps(sources, TRAIN, own=OWN, lists=LISTS, budget=BUDGET, end=tokenizer.slot_from_end)
    return learn(steps, Learner(reranker.backbone, tokenizer.answer_ids, RATE), SECONDS, 6, SEED)


def main(e5: str, lists: str, output: str) -> None:
    """Train, and save the checkpoint."""
    torch.manual_seed(SEED)
    reranker = Reranker(e5, prompt="prorank-short", max_length=LENGTH, for_training=True, precision="bf16")
    without_dropout(reranker.backbone)
    reranker.backbone.core.get_input_embeddings().weight.requires_grad_(False)
    sources = {name: Source(Path(lists) / f"{name}.pkl", reranker.pair_tokenizer, LENGTH, LENGTH) for name in TRAIN}
    log = {"warmup": warm_up(reranker, sources, 200, Path(output) / "warmup", SEED)} | learn_scores(reranker, sources)
    reranker.backbone.eval()
    base = "multilingual-e5-small, from a 4-bit file"
    reranker.settings = reranker.settings.model_copy(update={"max_length": 384, "base_model": base})
    reranker.save_pretrained(Path(output) / "checkpoint")
    (Path(output) / "log.json").write_text(json.dumps(log, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
