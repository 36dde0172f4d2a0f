"""Your own loss for score learning: the logit difference is an ordinary differentiable score, so any loss trains it."""

import torch
from torch.nn import functional as F

from prorank import Reranker
from prorank.engine.scores import logit_difference

LISTS = [  # the first document of each is the best
    ("when do owls hunt", ["Owls hunt mice at night.", "The moon is far away.", "Owls are birds."]),
    ("how far is the moon", ["The moon is far away.", "Owls hunt mice at night.", "The moon is bright."]),
]


def smooth_hinge(scores: torch.Tensor) -> torch.Tensor:
    """Mean over queries of softplus(1 - (s_best - s_other)). (Q, N) with the relevant document first -> scalar."""
    return F.softplus(1.0 - (scores[:, :1] - scores[:, 1:])).mean()


def train(reranker: Reranker, steps: int = 10, learning_rate: float = 1e-4) -> list[float]:
    """The loss before each step."""
    tokenizer, backbone = reranker.pair_tokenizer, reranker.backbone.train()
    sequences, _ = tokenizer.encode([(query, document) for query, documents in LISTS for document in documents])
    batch = tokenizer.collate(sequences)
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=learning_rate)
    losses = []
    for _ in range(steps):
        logits = backbone(batch.input_ids, batch.attention_mask, batch.slot, rows=tokenizer.answer_ids)  # (Q * N, 2)
        loss = smooth_hinge(logit_difference(logits).view(len(LISTS), -1))
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    backbone.eval()
    return losses


if __name__ == "__main__":
    found = train(Reranker(precision="fp32", for_training=True))
    print(f"loss {found[0]:.3f} -> {found[-1]:.3f}")
