"""ERank's second stage: GRPO whose rewards come from the scores of a whole candidate list.

A query's documents stay together in a step. Where every grade is one token, one forward pass gives the grades'
distribution: whether a grade is given at all is trained by its exact expectation, which grade by G draws. Otherwise,
and with reasoning, answers are generated and parsed, and a malformed one earns its penalty. Source: ERank,
arXiv 2509.00520, section 3.3. Knows tokenised lists and reward functions; nothing of collections.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from prorank.engine.generate import completion_log_probs, draw
from prorank.engine.reasoning import parse_grade
from prorank.erank.rewards import ndcg_reward, reciprocal_rank_reward, squared_error_reward
from prorank.model.backbone import unwrapped
from prorank.training.lists import ListItem
from prorank.training.parts import Outputs, without_gradient
from prorank.training.reading import read_slots
from prorank.training.trainer import RankingTrainer
from prorank.warmup import grpo

Reward = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]
# (scores (N, G), relevant (N,), reference (N,), highest) -> (N, G)
REWARDS: dict[str, Reward] = {
    "rr": reciprocal_rank_reward,
    "ndcg": ndcg_reward,
    "se": lambda scores, _, reference, highest: squared_error_reward(scores, reference, highest),
}


class ListwiseTrainer(RankingTrainer):
    """Reinforcement learning of grades over candidate lists, whose `teacher` holds the reward's reference grades."""

    title, items_setting = "listwise", "queries_per_step"

    @property
    def one_forward(self) -> bool:
        """Whether every grade is one token right after the prompt."""
        return self.pair_tokenizer.stem is None and not self.pair_tokenizer.prompt.thinks

    @property
    def highest(self) -> int:
        """The best grade."""
        return len(self.pair_tokenizer.answer_tokens) - 1

    def collate(self, items: Sequence[ListItem]) -> dict[str, Any]:
        """All documents of a step, list after list, and how many each list has."""
        device, sizes = self.backbone.device, [len(item.sequences) for item in items]
        return {
            "sequences": [ids for item in items for ids in item.sequences],
            "sizes": sizes,
            "groups": [number for number, size in enumerate(sizes) for _ in range(size)] if self.one_forward else None,
            "relevant": torch.tensor([label > 0 for item in items for label in item.labels], device=device),
            "reference": torch.tensor([grade for item in items for grade in item.teacher or ()], device=device),
        }

    def rewards(self, scores: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
        """(D, G) rewards of all documents' scores, list by list; D is the sum of the lists' sizes."""
        reward, sizes = REWARDS[self.settings.reward], inputs["sizes"]
        lists = zip(scores.split(sizes), inputs["relevant"].split(sizes), inputs["reference"].float().split(sizes))
        return torch.cat([reward(*one, float(self.highest)) for one in lists])

    def added_tokens(self, inputs: dict[str, Any]) -> int:
        """All of a document's answers, at their longest."""
        return 0 if self.one_forward else self.settings.num_generations * self.settings.max_new_tokens

    def prepare(self, model: Any, inputs: dict[str, Any], parts: Sequence[slice]) -> None:
        """Generated answers, and the parts for the reference."""
        inputs["parts"] = parts
        if not self.one_forward:
            end = self.pair_tokenizer.tokenizer.eos_token_id
            settings = self.settings
            inputs["completions"] = [
                answers
                for part in parts
                for answers in draw(
                    unwrapped(model),
                    inputs["sequences"][part],
                    settings.num_generations,
                    settings.max_new_tokens,
                    [end],
                )
            ]

    def read(self, model: Any, inputs: dict[str, Any], part: slice) -> Outputs:
        """Logits (D, V) behind the prompts, or token log-probabilities (D * G, L) of generated answers."""
        sequences = inputs["sequences"][part]
        if self.one_forward:
            return {"logits": read_slots(model, self.pair_tokenizer, sequences, groups=inputs["groups"][part])}
        longest = max(len(answer) for answers in inputs["completions"] for answer in answers)
        rows, mask = completion_log_probs(model, sequences, inputs["completions"][part])
        wider = (0, longest - rows.shape[1])  # all parts of a step have one width
        return {"log_prob": F.pad(rows, wider), "mask": F.pad(mask, wider)}

    def loss(self, outputs: Outputs, inputs: dict[str, Any], whole: dict[str, Any]) -> torch.Tensor:
        """GRPO over G grades of each document, by one forward pass or by generation."""
        loss = self._one_forward_loss(outputs, inputs) if self.one_forward else self._generated_loss(outputs, inputs)
        return loss * (len(inputs["sequences"]) / len(whole["sequences"]))

    def _before(self, inputs: dict[str, Any]) -> Outputs:
        """The starting model's outputs."""
        with self.reference() as start:
            return without_gradient(lambda part: self.read(start, inputs, part), inputs["parts"])

    def _one_forward_loss(self, outputs: Outputs, inputs: dict[str, Any]) -> torch.Tensor:
        settings, logits = self.settings, outputs["logits"]
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
            before = self._before(inputs)["logits"]
            kl = grpo.exact_kl(logits.log_softmax(-1), before.log_softmax(-1)).mean()
            self.note(kl=kl)
            loss = loss + settings.kl * kl
        return loss

    def _generated_loss(self, outputs: Outputs, inputs: dict[str, Any]) -> torch.Tensor:
        settings, words = self.settings, self.pair_tokenizer.tokenizer
        opening = "" if self.pair_tokenizer.prompt.thinks else self.pair_tokenizer.prompt.opening
        completions = inputs["completions"]
        texts = [[opening + words.decode(c, skip_special_tokens=True) for c in own] for own in completions]
        found = [[parse_grade(text, self.highest) for text in own] for own in texts]
        values = [[float("nan") if grade is None else float(grade) for grade in own] for own in found]
        log_prob, mask = outputs["log_prob"], outputs["mask"]  # (D * G, L)
        scores = torch.tensor(values, device=log_prob.device)
        reward = self.rewards(scores, inputs)
        policy = grpo.policy_loss(
            log_prob,
            log_prob.detach(),
            grpo.group_advantages(reward, settings.scale_advantages).flatten(),
            mask,
            epsilon=settings.epsilon,
            beta=settings.kl,
            ref_log_prob=self._before(inputs)["log_prob"] if settings.kl else None,
        )
        self.note(reward=reward.mean(), malformed=scores.isnan().float().mean(), length=mask.sum(-1).mean())
        if settings.kl:
            self.note(kl=policy.kl)
        return policy.loss
