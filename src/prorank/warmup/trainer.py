"""Stage 1, prompt warmup: GRPO teaches the model to answer with exactly one member of the answer set.

The verdict is one token, so one forward pass gives the distribution of all samples. The loss is either GRPO over G
sampled verdicts or its exact expectation (see `grpo`). For causal models the turn must end after the answer: what
follows each answer is read in the same forward pass, from a tree that branches after the prompt. The guards against
cold start and collapse are part of the method: balanced batches, an entropy bonus over the answers, a format reward
that fades once it is met, rewards weighted against the verdict that is given too often, KL to the start, an annealed
supervised term, and held-out metrics that name a collapse (docs/warmup.md).

What it does not know: multi-token answers (see `completions`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from prorank.engine.scorer import slot_logits
from prorank.training import distributed
from prorank.training.checkpoints import last_checkpoint
from prorank.training.parts import Outputs, without_gradient
from prorank.training.reading import read_slots
from prorank.training.resume import part_of_checkpoint
from prorank.training.trainer import SlotTrainer, TrainContext
from prorank.util.errors import TrainingError
from prorank.warmup import grpo, rewards
from prorank.warmup.answer_distribution import (
    after_verdicts,
    answer_distribution,
    distinct,
    drawn_log_probs,
    end_of_turn,
)
from prorank.warmup.metrics import PairOutcome, VerdictMetrics, diagnosis, pair_outcomes, verdict_metrics
from prorank.warmup.pairs import PairItem
from prorank.warmup.rollouts import Rollout, Rollouts, batch_of_step

RelevanceReward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Reward(NamedTuple):
    """A reward's parts, each (B, N), and the factor of each verdict that keeps them in balance.

    What counts is (weight * format + relevance) * balance.
    """

    format: torch.Tensor
    relevance: torch.Tensor
    weight: float
    balance: torch.Tensor

    def terms(self, separate: bool) -> list[tuple[float, torch.Tensor]]:
        """(weight, reward) of what is scaled to advantages: one sum, or format and relevance apart (GDPO)."""
        if separate:
            return [(self.weight, self.format * self.balance), (1.0, self.relevance * self.balance)]
        return [(1.0, (self.weight * self.format + self.relevance) * self.balance)]


class WarmupTrainer(SlotTrainer):
    """Prompt warmup over balanced pairs.

    Args:
        context: its items are relevant and not in turn, `settings.batches` batches of `settings.pairs_per_step`.
        held_out: pairs for the held-out metrics.
        relevance_reward: (B, N) verdicts and (B, 1) right answers -> (B, N) rewards. Another one than the paper's 0/1
            is for experiments; the format reward and the guards stay.
    """

    title, items_setting, best_by = "warmup", "pairs_per_step", "balanced_accuracy"

    def __init__(
        self,
        context: TrainContext,
        held_out: Sequence[PairItem],
        relevance_reward: RelevanceReward = rewards.relevance_reward,
    ) -> None:
        backbone, tokenizer, settings, items = context.backbone, context.tokenizer, context.settings, context.items
        self.held_out_items, self.relevance_reward = held_out, relevance_reward
        self.answer_ids = torch.tensor(tokenizer.answer_ids, device=backbone.device)
        self.end_id = end_of_turn(backbone, tokenizer) if settings.end_of_turn else None
        self.rollouts = Rollouts(settings)
        size = settings.pairs_per_step
        batches = [batch_of_step(step, settings) for step in range(settings.steps)]
        order = [item for batch in batches for item in items[batch * size : (batch + 1) * size]]
        super().__init__(replace(context, items=order))

    def collate(self, items: Sequence[PairItem]) -> dict[str, Any]:
        """Pairs with their right answers."""
        label = torch.tensor([item.label for item in items], device=self.answer_ids.device)
        return {"sequences": [item.input_ids for item in items], "label": label}

    @property
    def draws(self) -> bool:
        """Whether verdicts are drawn; otherwise the expectation over them is exact."""
        return self.settings.num_generations != "exact" and self.settings.experimental.policy_weight > 0

    def separable(self) -> bool:
        """A weight that fades with the batch's format rate, or follows its verdicts' balance, needs the whole step."""
        switches = self.settings.experimental
        measured = switches.fade_format or switches.balance_verdicts
        return not self.draws and not (switches.policy_weight > 0 and measured)

    def added_tokens(self, inputs: dict[str, Any]) -> int:
        """The branches behind a prompt."""
        if self.end_id is None:
            return 0
        return max(len(self.answer_ids), int(self.settings.num_generations) if self.draws else 0)

    def prepare(self, model: Any, inputs: dict[str, Any], parts: Sequence[slice]) -> None:
        """First tokens of the verdicts, drawn now or kept from before; and the parts, for the reference."""
        inputs["parts"] = parts
        if not self.draws:
            return
        rollout = self.rollouts.get(self.state.global_step)
        if rollout is not None:
            inputs["first"] = rollout.tokens[..., 0]
        elif self.end_id is not None:
            logits = without_gradient(lambda part: {"logits": self._slots(model, inputs, part)}, parts)["logits"]
            inputs["first"] = self._first_tokens(logits)

    def _first_tokens(self, logits: torch.Tensor) -> torch.Tensor:
        """(B, G) tokens drawn from logits (B, V)."""
        return torch.multinomial(logits.detach().softmax(-1), int(self.settings.num_generations), replacement=True)

    def _slots(self, model: Any, inputs: dict[str, Any], part: slice) -> torch.Tensor:
        return read_slots(model, self.pair_tokenizer, inputs["sequences"][part])

    def read(self, model: Any, inputs: dict[str, Any], part: slice) -> Outputs:
        """The answers' distribution, and that around drawn verdicts."""
        outputs: Outputs = {}
        if self.supervised_weight() or not self.draws:
            seen = answer_distribution(model, self.pair_tokenizer, inputs["sequences"][part], self.end_id)
            outputs["logits"] = seen.logits
            if seen.ending is not None:
                outputs["ending"] = seen.ending
        if self.draws:
            outputs |= self._read_drawn(model, inputs, part)
        return outputs

    def _read_drawn(self, model: Any, inputs: dict[str, Any], part: slice) -> Outputs:
        if self.end_id is None:
            return {"drawn": self._slots(model, inputs, part)}
        verdicts = distinct(inputs["first"][part])
        return dict(zip(("drawn", "after"), after_verdicts(model, inputs["sequences"][part], verdicts)))

    def supervised_weight(self) -> float:
        """Weight of the supervised term: linear from its start to 0 over the first part of the run, or constant."""
        settings = self.settings
        if settings.experimental.supervised_share is None:
            return settings.experimental.supervised_weight
        progress = self.state.global_step / (settings.experimental.supervised_share * settings.steps)
        return settings.experimental.supervised_weight * max(0.0, 1.0 - progress)

    def loss(self, outputs: Outputs, inputs: dict[str, Any], whole: dict[str, Any]) -> torch.Tensor:
        """GRPO loss (exact or drawn), entropy bonus and supervised term, as the recipe weighs them."""
        settings, supervised, label = self.settings, self.supervised_weight(), inputs["label"]
        logits = outputs["drawn" if self.draws else "logits"]
        answers = logits[:, self.answer_ids].log_softmax(-1)  # (B, K)
        outcomes = grpo.answer_outcomes(logits, self.answer_ids)  # (B, K + 1)
        share = answers.detach().exp().mean(0)
        if settings.experimental.balance_verdicts and settings.experimental.policy_weight > 0:
            share = self.averaged(share)
        entropy = grpo.entropy(answers).mean()
        mass = 1.0 - outcomes.detach()[:, -1].exp().mean()
        self.note(entropy=entropy, answer_mass=mass, verdict_balance=share[-1])
        loss = torch.zeros((), device=logits.device)
        if self.draws:
            loss = self._drawn_loss(outputs, inputs, share)
        elif settings.experimental.policy_weight > 0:
            loss = self._exact_loss(outputs, inputs, outcomes, share, mass)
        loss = settings.experimental.policy_weight * loss - settings.entropy_bonus * entropy
        if supervised:
            term = self.supervised_loss(outputs, label)
            self.note(supervised_loss=term, supervised_weight=supervised)
            loss = loss + supervised * term
        return loss * (len(label) / len(whole["label"]))

    def supervised_loss(self, outputs: Outputs, label: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of the right answer, and of the end of the turn after it."""
        rows = torch.arange(len(label), device=label.device)
        log_prob = outputs["logits"].log_softmax(-1)[rows, self.answer_ids[label]]
        if "ending" in outputs:
            log_prob = log_prob + outputs["ending"][rows, label, 0]
        return -log_prob.mean()

    def _exact_loss(
        self,
        outputs: Outputs,
        inputs: dict[str, Any],
        outcomes: torch.Tensor,
        share: torch.Tensor,
        mass: torch.Tensor,
    ) -> torch.Tensor:
        """Loss of the exact expectation over all outcomes.

        Whether the turn ends after an answer is a decision of its own, with its own advantages: in one group with the
        verdict its reward would be met too rarely to be found (docs/log.md).
        """
        settings, count = self.settings, len(self.answer_ids)
        p = outcomes.detach().exp()
        verdict = torch.arange(count + 1, device=p.device)
        verdict = torch.where(verdict < count, verdict, -1).expand_as(p)
        met = self.averaged(mass) if settings.experimental.fade_format else mass
        reward = self.reward(verdict, None, inputs["label"], share, met)
        loss = torch.zeros((), device=p.device)
        for weight, part in reward.terms(settings.separate_rewards):
            loss = loss + weight * grpo.exact_loss(outcomes, part, scale=settings.scale_advantages)
        self.note(
            reward_format=(p * reward.format).sum(-1).mean(), reward_relevance=(p * reward.relevance).sum(-1).mean()
        )
        ending = outputs.get("ending")
        if ending is not None:
            ended = ending.flatten(0, 1)  # (B * K, 2)
            wanted = ended.new_tensor([settings.format_weight, 0.0]).expand_as(ended)
            loss = loss + grpo.exact_loss(ended, wanted, scale=settings.scale_advantages)
            self.note(end_mass=ended[:, 0].exp().mean())
        if settings.kl:
            with self.reference() as start:
                before = without_gradient(lambda part: self.read(start, inputs, part), inputs["parts"])
            kl = grpo.exact_kl(outputs["logits"].log_softmax(-1), before["logits"].log_softmax(-1))  # (B,)
            if ending is not None:  # chain rule over the second decision
                kl = kl + (outcomes[:, :-1].exp() * grpo.exact_kl(ending, before["ending"])).sum(-1)
            self.note(kl=kl.mean())
            loss = loss + settings.kl * kl.mean()
        return loss

    def reward(
        self,
        verdict: torch.Tensor,
        ended: torch.Tensor | None,
        label: torch.Tensor,
        share: torch.Tensor,
        met: torch.Tensor,
    ) -> Reward:
        """Format, relevance and balance of each verdict.

        Args:
            verdict: (B, N) answer index, or -1 for what is none.
            ended: (B, N), whether the turn ends after it; None where there is no turn.
            label: (B,) right answer index.
            share: (K,) each answer's part of the batch.
            met: share of well-formed completions now.

        Raises:
            TrainingError: the relevance reward raised, or gave something else than one finite number a verdict.
        """
        settings = self.settings
        weight = settings.format_weight
        if settings.experimental.fade_format:
            weight = rewards.faded_format_weight(float(met), weight)
        well_formed = rewards.format_reward(verdict, ended)
        balance = torch.ones_like(well_formed)
        if settings.experimental.balance_verdicts:
            balance = rewards.balance_factors(share)[verdict]  # verdict -1 takes the last factor, which is 1
        return Reward(well_formed, self._relevance(verdict, label[:, None]), weight, balance)

    def _relevance(self, verdict: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        name = getattr(self.relevance_reward, "__name__", "relevance_reward")
        newest = last_checkpoint(self.args.output_dir)
        hint = f"mend it and resume from {newest.name}" if newest else "mend it and start again"
        try:
            found = self.relevance_reward(verdict, label)
        except Exception as error:
            step = self.state.global_step + 1
            raise TrainingError(
                f"reward function {name} raised {type(error).__name__} at step {step}: {error}", hint=hint
            ) from error
        if found.shape != verdict.shape or not torch.isfinite(found).all():
            raise TrainingError(
                f"reward function {name} gave shape {tuple(found.shape)} for verdicts of {tuple(verdict.shape)}, "
                f"or a value that is not finite, at step {self.state.global_step + 1}",
                hint=hint,
            )
        return found

    def _drawn_loss(self, outputs: Outputs, inputs: dict[str, Any], share: torch.Tensor) -> torch.Tensor:
        """GRPO loss over G drawn verdicts per prompt, drawn now or kept from before."""
        settings, step = self.settings, self.state.global_step
        rollout, after = self.rollouts.get(step), outputs.get("after")
        first = inputs["first"] if "first" in inputs else self._first_tokens(outputs["drawn"])
        known = None if rollout is None else rollout.tokens
        tokens, log_prob = drawn_log_probs(outputs["drawn"], after, first, known)
        log_prob = log_prob.flatten(0, 1)  # (B * G, L)
        verdict = rewards.verdicts(tokens[..., 0], self.answer_ids)
        ended = tokens[..., 1] == self.end_id if self.end_id is not None else None
        met = self.averaged((verdict >= 0 if ended is None else (verdict >= 0) & ended).float().mean())
        reward = self.reward(verdict, ended, inputs["label"], share, met)
        ((_, total),) = reward.terms(separate=False)
        if rollout is None:
            scaled = [
                weight * grpo.group_advantages(part, settings.scale_advantages)
                for weight, part in reward.terms(settings.separate_rewards)
            ]
            rollout = Rollout(tokens, log_prob.detach(), torch.stack(scaled).sum(0).flatten(), step)
            self.rollouts.keep(step, rollout)
        reference = None
        if settings.kl:
            with self.reference() as start:
                before = without_gradient(lambda part: self._read_drawn(start, inputs, part), inputs["parts"])
            reference = drawn_log_probs(before["drawn"], before.get("after"), first, tokens)[1].flatten(0, 1)
        loss = grpo.policy_loss(
            log_prob,
            rollout.log_prob,
            rollout.advantages,
            epsilon=settings.epsilon,
            epsilon_high=settings.experimental.epsilon_high,
            beta=settings.kl,
            ref_log_prob=reference,
        )
        self.note(
            reward_format=reward.format.mean(),
            reward_relevance=reward.relevance.mean(),
            equal_groups=(total.amax(-1) - total.amin(-1) < grpo.EPS).float().mean(),
            clip_fraction=loss.clip_fraction,
            staleness=float(step - rollout.step),
            **({"kl": loss.kl} if settings.kl else {}),
        )
        return loss.loss

    def outcomes(self, items: Sequence[PairItem]) -> list[PairOutcome]:
        """What the model as it is does with pairs; shared out over the processes."""
        mine = distributed.shard(items)
        sequences = [item.input_ids for item in mine]
        found: list[PairOutcome] = []
        if mine:
            logits = slot_logits(self.backbone, self.pair_tokenizer, sequences, None)
            ended = None
            if self.end_id is not None:
                answered = [[*ids, token] for ids, token in zip(sequences, logits.argmax(-1).tolist())]
                following = slot_logits(self.backbone, self.pair_tokenizer, answered, None).argmax(-1)
                ended = following == self.end_id
            found = pair_outcomes(logits, self.answer_ids.cpu(), [item.label for item in mine], ended)
        return distributed.gather(found)

    def metrics(self, items: Sequence[PairItem]) -> VerdictMetrics:
        """Metrics of the model as it is, on pairs that it is not trained on."""
        return verdict_metrics(self.outcomes(items), best=len(self.answer_ids) - 1)

    def held_out(self) -> dict[str, float]:
        """Format rate, balanced accuracy, verdict balance and entropy; prints a collapse."""
        metrics = self.metrics(self.held_out_items)
        problem = diagnosis(metrics)
        if problem and self.is_world_process_zero():
            self.console.print(f"  [yellow]{problem}[/yellow]")
        return {name: float(getattr(metrics, name)) for name in metrics._fields[:5]}

    def check_notes(self, means: dict[str, float]) -> None:
        """Say so when no drawn group could teach anything."""
        if means.get("equal_groups") == 1.0 and self.is_world_process_zero():
            self.console.print(
                "  [yellow]all verdicts of each prompt earn the same: nothing to learn from "
                "(set warmup.num_generations=exact, or a larger warmup.entropy_bonus)[/yellow]"
            )

    def save_extra(self, folder: Path) -> None:
        """Kept rollouts, each process its own."""
        self.rollouts.save(folder / f"rollouts-{distributed.state().process_index}.safetensors")

    def load_extra(self, folder: Path) -> None:
        """Rollouts that the interrupted run had kept."""
        file = folder / f"rollouts-{distributed.state().process_index}.safetensors"
        with part_of_checkpoint(file):
            self.rollouts.load(file, self.answer_ids.device)
