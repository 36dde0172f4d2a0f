"""Stage 1, prompt warmup: GRPO teaches the model to answer with exactly one member of the answer set.

The verdict is one token, so one forward pass gives the distribution of all samples. The loss is either GRPO over G
sampled verdicts or its exact expectation (see `grpo`). For causal models the turn must end after the answer: what
follows each answer is read in the same forward pass, from a tree that branches after the prompt. The guards against
cold start and collapse are part of the method: balanced batches, an entropy bonus over the answers, a format reward
that fades once it is met, rewards weighted against the verdict that is given too often, KL to the start, an annealed
supervised term, and held-out figures that name a collapse.

What it does not know: multi-token answers (see `completions`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch.nn import functional as F

from prorank.backbone import Backbone
from prorank.engine import slot_logits
from prorank.errors import TrainingError
from prorank.packing import unpadded
from prorank.tokenization import PairTokenizer
from prorank.training import grpo, rewards
from prorank.training.completions import build_tree, token_log_probs
from prorank.training.recipe import WarmupSection
from prorank.training.trainer import SlotTrainer


class PairItem(NamedTuple):
    """A tokenised pair and the index of its right answer."""

    input_ids: list[int]
    label: int


class VerdictFigures(NamedTuple):
    """Held-out behaviour of the greedy verdict (the likeliest token of the whole vocabulary).

    Attributes:
        format_rate: share of pairs answered with a member of the answer set, and nothing after it.
        balanced_accuracy: mean over the two classes of the share answered rightly; a malformed answer is wrong.
        verdict_balance: share of best-answer verdicts among the well-formed (0 if there is none).
        entropy: mean entropy of the answers' distribution, in nats (at most ln K).
        answer_mass: mean probability of the answer set.
        correct: pairs answered rightly.
        total: pairs.
    """

    format_rate: float
    balanced_accuracy: float
    verdict_balance: float
    entropy: float
    answer_mass: float
    correct: int
    total: int


def verdict_figures(
    logits: torch.Tensor, answer_ids: torch.Tensor, labels: torch.Tensor, ended: torch.Tensor | None = None
) -> VerdictFigures:
    """Held-out figures from vocabulary logits.

    Args:
        logits: (N, V); answer_ids: (K,); labels: (N,) right answer index, 0 or K - 1.
        ended: (N,) whether the turn ends after the first token; None where there is no turn (masked models).

    >>> figures = verdict_figures(torch.eye(4)[[0, 1, 1, 3]], torch.tensor([0, 1]), torch.tensor([0, 1, 0, 1]))
    >>> figures.format_rate, figures.balanced_accuracy
    (0.75, 0.5)
    """
    verdict = rewards.verdicts(logits.argmax(-1), answer_ids)  # (N,)
    if ended is not None:
        verdict = torch.where(ended, verdict, -1)
    right = verdict == labels
    well_formed = verdict >= 0
    classes = [right[labels == label].float().mean().item() for label in labels.unique()]
    best = (verdict == len(answer_ids) - 1).sum().item()
    outcomes = grpo.answer_outcomes(logits, answer_ids)
    return VerdictFigures(
        format_rate=well_formed.float().mean().item(),
        balanced_accuracy=sum(classes) / len(classes),
        verdict_balance=best / max(1, int(well_formed.sum())),
        entropy=grpo.entropy(logits[:, answer_ids].log_softmax(-1)).mean().item(),
        answer_mass=1.0 - outcomes[:, -1].exp().mean().item(),
        correct=int(right.sum()),
        total=len(labels),
    )


def diagnosis(figures: VerdictFigures) -> str:
    """A plain sentence when training has gone wrong, else an empty string.

    >>> diagnosis(VerdictFigures(0.0, 0.0, 0.0, 0.6, 0.0, 0, 100))
    'no reward found: the model never answers from the answer set'
    """
    if figures.format_rate < 0.01:
        return "no reward found: the model never answers from the answer set"
    if figures.format_rate < 0.9:
        return f"format not learned: {figures.format_rate:.0%} of the answers are from the answer set"
    if not 0.05 < figures.verdict_balance < 0.95:
        return (
            f"collapsed: {max(figures.verdict_balance, 1 - figures.verdict_balance):.0%} of the verdicts are the same"
        )
    return ""


def end_of_turn(backbone: Backbone, tokenizer: PairTokenizer) -> int | None:
    """The token that ends a causal model's turn; None for masked models, whose answer has no next token.

    Raises:
        TrainingError: the tokenizer names none, or the model cannot branch after a prompt.
    """
    if backbone.family != "causal":
        return None
    if not backbone.packs:
        raise TrainingError(
            f"{type(backbone.core).__name__} runs in padded batches only, which cannot look behind each answer",
            hint="set warmup.end_of_turn=false",
        )
    if tokenizer.tokenizer.eos_token_id is None:
        raise TrainingError("the tokenizer names no end of turn (eos_token)", hint="set warmup.end_of_turn=false")
    return int(tokenizer.tokenizer.eos_token_id)


class WarmupTrainer(SlotTrainer):
    """Prompt warmup over balanced pairs.

    Args:
        backbone: the model.
        tokenizer: pair tokenizer (answer ids, padding).
        settings: the recipe's `warmup` section.
        items: training pairs in order, relevant and not in turn.
        held_out: pairs for the held-out figures.
        folder, seed, console: see `SlotTrainer`.
    """

    def __init__(
        self,
        backbone: Backbone,
        tokenizer: PairTokenizer,
        settings: WarmupSection,
        items: Sequence[PairItem],
        held_out: Sequence[PairItem],
        folder: Path,
        seed: int,
        console: Console,
    ) -> None:
        self.pair_tokenizer, self.settings, self.held_out_items = tokenizer, settings, held_out
        self.answer_ids = torch.tensor(tokenizer.answer_ids, device=backbone.device)
        self.end_id = end_of_turn(backbone, tokenizer) if settings.end_of_turn else None
        self.reference = copy.deepcopy(backbone).eval() if settings.kl and not backbone.has_lora else None
        super().__init__(
            backbone,
            settings,
            items,
            settings.pairs_per_step,
            self.collate,
            folder,
            seed,
            best_by="balanced_accuracy",
            title="warmup",
            console=console,
        )

    def collate(self, items: list[PairItem]) -> dict[str, Any]:
        """Padded batch with the labels."""
        batch = self.pair_tokenizer.collate([item.input_ids for item in items])
        tensors = {name: value for name, value in vars(batch).items() if value is not None}
        return {**tensors, "label": torch.tensor([item.label for item in items])}

    def reference_logits(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Vocabulary logits (B, V) of the starting model: LoRA switched off, or a frozen copy."""
        arguments = (inputs["input_ids"], inputs["attention_mask"], inputs["slot"])
        with torch.no_grad():
            if self.reference is not None:
                return self.reference(*arguments)
            training = self.backbone.training
            self.backbone.eval()
            with self.backbone.without_lora():
                logits = self.backbone(*arguments)
            self.backbone.train(training)
            return logits

    def supervised_weight(self) -> float:
        """Weight of the supervised term: linear from its start to 0 over the first part of the run."""
        progress = self.state.global_step / (self.settings.supervised_share * self.settings.steps)
        return self.settings.supervised_weight * max(0.0, 1.0 - progress)

    def loss_on(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """GRPO loss (exact or sampled) with the guards that the recipe switches on."""
        settings, label = self.settings, inputs["label"]
        logits, loss = self._exact(model, inputs) if settings.samples == "exact" else self._sampled(model, inputs)
        loss = loss - settings.entropy_bonus * grpo.entropy(self._answers(logits)).mean()
        weight = self.supervised_weight()
        return loss + weight * F.cross_entropy(logits, self.answer_ids[label]) if weight else loss

    def _answers(self, logits: torch.Tensor) -> torch.Tensor:
        """Log-probabilities within the answer set, (B, K)."""
        return logits[:, self.answer_ids].log_softmax(-1)

    def _exact(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, V) at the slot and the loss of the exact expectation over all outcomes.

        Whether the turn ends after an answer is a decision of its own, with its own advantages: in one group with the
        verdict its reward would be met too rarely to be found (docs/log.md).
        """
        settings, count = self.settings, len(self.answer_ids)
        arguments = (inputs["input_ids"], inputs["attention_mask"], inputs["slot"])
        ending = torch.zeros((), device=self.answer_ids.device)
        if self.end_id is None:
            logits = model(*arguments)
        else:
            prompts = unpadded(inputs["input_ids"], inputs["attention_mask"])
            branches = [[answer, self.end_id] for answer in self.answer_ids.tolist()]
            tree = build_tree(prompts, [branches] * len(prompts), inputs["input_ids"].device)
            hidden = model(*arguments, pack=tree.pack)
            hidden = hidden.view(len(prompts), count, 2, -1)  # after the prompt, after the answer
            logits = self.backbone.project(hidden[:, 0, 0])
            ends = torch.full((len(prompts) * count,), self.end_id, device=logits.device)
            ended = grpo.either_way(token_log_probs(self.backbone, hidden[:, :, 1].flatten(0, 1), ends))  # (B * K, 2)
            reward = ended.new_tensor([settings.format_weight, 0.0]).expand_as(ended)
            ending = grpo.exact_loss(ended, reward, scale=settings.scale_advantages)
        outcomes = grpo.answer_outcomes(logits, self.answer_ids)  # (B, K + 1)
        verdict = torch.arange(count + 1, device=outcomes.device)
        verdict = torch.where(verdict < count, verdict, -1).expand_as(outcomes)
        met = 1.0 - outcomes.detach()[:, -1].exp().mean().item()
        reward = self._reward(verdict, None, inputs["label"], self._answers(logits.detach()), met)
        loss = ending + grpo.exact_loss(outcomes, reward, scale=settings.scale_advantages)
        if settings.kl:
            reference = self.reference_logits(inputs).log_softmax(-1)
            loss = loss + settings.kl * grpo.exact_kl(logits.log_softmax(-1), reference).mean()
        return logits, loss

    def _reward(
        self,
        verdict: torch.Tensor,
        ended: torch.Tensor | None,
        label: torch.Tensor,
        answers: torch.Tensor,
        met: float,
    ) -> torch.Tensor:
        """(format + relevance) * balance of each verdict.

        Args:
            verdict: (B, N) answer index, or -1 for what is none.
            ended: (B, N) or (N,), whether the turn ends after it; None where there is no turn.
            label: (B,) right answer index.
            answers: (B, K) log-probabilities within the answer set.
            met: share of well-formed completions now.
        """
        settings = self.settings
        weight = settings.format_weight
        if settings.fade_format:
            weight = rewards.faded_format_weight(met, weight)
        reward = weight * rewards.format_reward(verdict, ended)
        reward = reward + rewards.relevance_reward(verdict, label[:, None])
        if settings.balance_verdicts:
            reward = reward * rewards.balance_factors(answers)[verdict]  # verdict -1 takes the last factor, which is 1
        return reward

    def _sampled(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, V) at the slot and GRPO loss over G drawn verdicts a prompt."""
        settings, count = self.settings, int(self.settings.samples)
        arguments = (inputs["input_ids"], inputs["attention_mask"], inputs["slot"])
        if self.end_id is None:
            logits = model(*arguments)
            tokens = torch.multinomial(logits.detach().softmax(-1), count, replacement=True)  # (B, G)
            verdict = rewards.verdicts(tokens, self.answer_ids)
            log_prob = logits.log_softmax(-1).gather(-1, tokens)[..., None]  # (B, G, 1)
            ended = None
        else:
            logits, tokens, log_prob = self._two_tokens(model, inputs, count)  # (B, V), (B, G, 2), (B, G, 2)
            verdict = rewards.verdicts(tokens[..., 0], self.answer_ids)
            ended = tokens[..., 1] == self.end_id
        reference = None
        if settings.kl:
            if self.end_id is not None:
                raise TrainingError("drawn verdicts with end_of_turn have no KL", hint="set warmup.samples=exact")
            reference = self.reference_logits(inputs).log_softmax(-1).gather(-1, tokens).view(-1, 1)
        log_prob = log_prob.flatten(0, 1)  # (B * G, L)
        met = (verdict >= 0 if ended is None else (verdict >= 0) & ended).float().mean().item()
        reward = self._reward(verdict, ended, inputs["label"], self._answers(logits.detach()), met)
        loss = grpo.policy_loss(
            log_prob,
            log_prob.detach(),
            grpo.group_advantages(reward, settings.scale_advantages).flatten(),
            epsilon=settings.epsilon,
            epsilon_high=settings.epsilon_high,
            beta=settings.kl,
            ref_log_prob=reference,
        ).loss
        return logits, loss

    def _two_tokens(
        self, model: Any, inputs: dict[str, Any], count: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits (B, V) after the prompt, G drawn (verdict, next token) pairs and their log-probabilities (B, G, 2).

        Verdicts are drawn in a pass without gradient; then one pass reads the prompt and, once each, what follows
        the distinct ones.
        """
        arguments = (inputs["input_ids"], inputs["attention_mask"], inputs["slot"])
        with torch.no_grad():
            first = torch.multinomial(self.backbone(*arguments).softmax(-1), count, replacement=True)  # (B, G)
        distinct = [list(dict.fromkeys(row)) for row in first.tolist()]
        # the second token of a branch only marks the place whose logits are wanted
        tree = build_tree(
            unpadded(inputs["input_ids"], inputs["attention_mask"]),
            [[[token, 0] for token in row] for row in distinct],
            first.device,
        )
        hidden = model(*arguments, pack=tree.pack)
        hidden = hidden.view(-1, 2, hidden.shape[-1])  # (D, 2, H): after the prompt, after the verdict
        starts = torch.tensor([0, *(len(row) for row in distinct[:-1])], device=first.device).cumsum(0)  # (B,)
        logits = self.backbone.project(hidden[starts, 0])
        places = [[row.index(token) for token in drawn] for row, drawn in zip(distinct, first.tolist())]
        index = starts[:, None] + torch.tensor(places, device=first.device)  # (B, G)
        after = self.backbone.project(hidden[:, 1]).log_softmax(-1)[index]  # (B, G, V)
        second = torch.multinomial(after.detach().exp().flatten(0, 1), 1).view_as(first)
        log_prob = [logits.log_softmax(-1).gather(-1, first), after.gather(-1, second[..., None])[..., 0]]
        return logits, torch.stack([first, second], -1), torch.stack(log_prob, -1)

    def figures(self) -> VerdictFigures:
        """Held-out figures of the model as it is."""
        sequences = [item.input_ids for item in self.held_out_items]
        logits = slot_logits(self.backbone, self.pair_tokenizer, sequences, None)
        labels = torch.tensor([item.label for item in self.held_out_items])
        ended = None
        if self.end_id is not None:
            answered = [[*ids, token] for ids, token in zip(sequences, logits.argmax(-1).tolist())]
            following = slot_logits(self.backbone, self.pair_tokenizer, answered, None).argmax(-1)
            ended = following == self.end_id
        return verdict_figures(logits, self.answer_ids.cpu(), labels, ended)

    def held_out(self) -> dict[str, float]:
        """Format rate, balanced accuracy, verdict balance and entropy; a collapse is said aloud."""
        figures = self.figures()
        problem = diagnosis(figures)
        if problem and self.is_world_process_zero():
            self.console.print(f"  [yellow]{problem}[/yellow]")
        return {name: float(getattr(figures, name)) for name in figures._fields[:5]}
