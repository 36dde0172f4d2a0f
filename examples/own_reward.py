"""Your own reward for prompt warmup: a false alarm costs more than a miss. Exact GRPO over the two verdicts."""

import torch

from prorank import Reranker
from prorank.warmup import grpo

PAIRS = [
    ("when do owls hunt", "Owls hunt mice at night.", 1),
    ("when do owls hunt", "The moon is far away.", 0),
    ("how far is the moon", "The moon is far away.", 1),
    ("how far is the moon", "Owls hunt mice at night.", 0),
]


def careful_reward(verdict: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """1 for a right verdict, 0 for a miss, -1 for a false alarm. (B, K), (B, 1) -> (B, K)."""
    false_alarm = (verdict == 1) & (label == 0)
    return (verdict == label).float() - false_alarm.float()


def warm_up(reranker: Reranker, steps: int = 10, learning_rate: float = 1e-4) -> list[float]:
    """Expected reward before each step."""
    tokenizer, backbone = reranker.pair_tokenizer, reranker.backbone.train()
    sequences, _ = tokenizer.encode([(query, document) for query, document, _ in PAIRS])
    batch, label = tokenizer.collate(sequences), torch.tensor([[label] for _, _, label in PAIRS])  # (B, 1)
    verdict = torch.arange(2).expand(len(PAIRS), 2)  # every verdict once: the expectation is exact
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=learning_rate)
    expected = []
    for _ in range(steps):
        logits = backbone(batch.input_ids, batch.attention_mask, batch.slot, rows=tokenizer.answer_ids)  # (B, 2)
        log_probs = logits.log_softmax(-1)
        reward = careful_reward(verdict, label)
        expected.append(float((log_probs.detach().exp() * reward).sum(-1).mean()))
        optimizer.zero_grad()
        grpo.exact_loss(log_probs, reward, scale="std").backward()
        optimizer.step()
    backbone.eval()
    return expected


if __name__ == "__main__":
    rewards = warm_up(Reranker("embedded", prompt="prorank-short", precision="fp32", for_training=True))
    print(f"expected reward {rewards[0]:+.2f} -> {rewards[-1]:+.2f}")
