"""ERank's second stage: GRPO whose rewards come from the scores of a whole candidate list.

A query's documents stay together in a step. Where every grade is one token, one forward pass gives the grades'
distribution: whether a grade is given at all is trained by its exact expectation, which grade by G draws. Otherwise,
and with reasoning, answers are generated and parsed, and a malformed one earns its penalty. Source: ERank,
arXiv 2509.00520, section 3.3. Knows tokenised lists and reward functions; nothing of collections.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from prorank.engine.generate import draw
from prorank.engine.reasoning import parse_grade
from prorank.erank.rewards import ndcg_reward, reciprocal_rank_reward, squared_error_reward
from prorank.model.backbone import Backbone
from prorank.model.packing import unpadded
from prorank.prompts.tokenization import PairTokenizer
from prorank.recipe.sections import ListwiseSection
from prorank.training.lists import ListItem
from prorank.training.trainer import RankingTrainer
from prorank.warmup import grpo
from prorank.warmup.answer_distribution import completion_log_probs, unwrapped

Reward = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]
# (scores (N, G), relevant (N,), reference (N,), highest) -> (N, G)
REWARDS: dict[str, Reward] = {
    "rr": reciprocal_rank_reward,
    "ndcg": ndcg_reward,
    "se": lambda scores, _, reference, highest: squared_error_reward(scores, reference, highest),
}


class ListwiseTrainer(RankingTrainer):
    """Reinforcement learning of grades over candidate lists, whose `teacher` holds the reward's reference grades.

    Arguments: see `RankingTrainer`.
    """

    def __init__(
        self,
        backbone: Backbone,
        tokenizer: PairTokenizer,
        settings: ListwiseSection,
        items: Sequence[ListItem],
        dev_metrics: Callable[[], dict[str, float]],
        folder: Path,
        seed: int,
        console: Console,
        log_to: Sequence[str] = (),
    ) -> None:
        self.settings = settings
        self.one_forward = tokenizer.stem is None and not tokenizer.prompt.thinks
        self.highest = len(tokenizer.answer_tokens) - 1
        super().__init__(
            backbone,
            tokenizer,
            settings,
            items,
            dev_metrics,
            folder,
            seed,
            console,
            log_to,
            batch_items=settings.queries_per_step,
            title="listwise",
            keep_start=settings.kl > 0,
        )

    def collate(self, items: list[ListItem]) -> dict[str, Any]:
        """All documents of a step in one padded batch, and how many each list has."""
        batch = self.pair_tokenizer.collate([ids for item in items for ids in item.sequences])
        return {
            **batch.tensors(),
            "sizes": [len(item.sequences) for item in items],
            "relevant": torch.tensor([label > 0 for item in items for label in item.labels]),
            "reference": torch.tensor([grade for item in items for grade in item.teacher or ()]),
        }

    def rewards(self, scores: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
        """(D, G) rewards of all documents' scores, list by list; D is the sum of the lists' sizes."""
        reward, sizes = REWARDS[self.settings.reward], inputs["sizes"]
        lists = zip(scores.split(sizes), inputs["relevant"].split(sizes), inputs["reference"].float().split(sizes))
        return torch.cat([reward(*one, float(self.highest)) for one in lists])

    def loss_on(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """GRPO over G grades of each document, by one forward pass or by generation."""
        if self.one_forward:
            return self._one_forward_loss(model, inputs)
        return self._generated_loss(model, inputs)

    def _one_forward_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        settings = self.settings
        arguments = (inputs["input_ids"], inputs["attention_mask"], inputs["slot"])
        logits = model(*arguments)  # (D, V)
        ids = torch.tensor(self.pair_tokenizer.answer_ids, device=logits.device)
        outcomes = grpo.answer_outcomes(logits, ids)  # (D, K + 1), the last is no grade
        grades = outcomes[:, :-1].log_softmax(-1)  # (D, K), given that a grade is given
        drawn = torch.multinomial(grades.detach().exp(), settings.num_generations, replacement=True)  # (D, G)
        reward = self.rewards(drawn.float(), inputs)
        advantages = grpo.group_advantages(reward, settings.scale_advantages).flatten()
        log_prob = grades.gather(-1, drawn).flatten()[:, None]  # (D * G, 1)
        policy = grpo.policy_loss(log_prob, log_prob.detach(), advantages, epsilon=settings.epsilon)
        given = torch.stack([outcomes[:, :-1].logsumexp(-1), outcomes[:, -1]], -1)  # (D, 2)
        wanted = given.new_tensor([1.0, 0.0]).expand_as(given)
        loss = policy.loss + settings.format_weight * grpo.exact_loss(given, wanted, scale="mean")
        entropy = grpo.entropy(grades).mean()
        loss = loss - settings.entropy_bonus * entropy
        self.note(reward=reward.mean(), entropy=entropy, answer_mass=given[:, 0].exp().mean())
        if settings.kl:
            with self.reference() as start:
                before = start(*arguments)
            kl = grpo.exact_kl(logits.log_softmax(-1), before.log_softmax(-1)).mean()
            self.note(kl=kl)
            loss = loss + settings.kl * kl
        return loss

    def _generated_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        settings, backbone, words = self.settings, unwrapped(model), self.pair_tokenizer.tokenizer
        device = inputs["input_ids"].device
        prompts = unpadded(inputs["input_ids"], inputs["attention_mask"])
        completions = draw(backbone, prompts, settings.num_generations, settings.max_new_tokens, [words.eos_token_id])
        opening = "" if self.pair_tokenizer.prompt.thinks else self.pair_tokenizer.prompt.opening
        texts = [[opening + words.decode(c, skip_special_tokens=True) for c in own] for own in completions]
        found = [[parse_grade(text, self.highest) for text in own] for own in texts]
        scores = torch.tensor([[float("nan") if g is None else float(g) for g in own] for own in found], device=device)
        reward = self.rewards(scores, inputs)
        advantages = grpo.group_advantages(reward, settings.scale_advantages).flatten()
        log_prob, mask = completion_log_probs(model, inputs, completions)  # (D * G, L)
        before = None
        if settings.kl:
            with self.reference() as start:
                before, _ = completion_log_probs(start, inputs, completions)
        policy = grpo.policy_loss(
            log_prob,
            log_prob.detach(),
            advantages,
            mask,
            epsilon=settings.epsilon,
            beta=settings.kl,
            ref_log_prob=before,
        )
        self.note(reward=reward.mean(), malformed=scores.isnan().float().mean(), length=mask.sum(-1).mean())
        if settings.kl:
            self.note(kl=policy.kl)
        return policy.loss
