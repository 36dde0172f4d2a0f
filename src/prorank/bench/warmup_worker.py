"""One contender of the warmup benchmark, alone in a process: `python -m prorank.bench.warmup_worker SPEC RESULT`.

The model has random weights of a given shape, the prompts random tokens of varying length; a step is a whole one:
drawing (where verdicts are drawn), rewards, loss, backward pass, optimiser, and each library's own trainer around it.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import TrainerCallback

from prorank.bench.models import QWEN25_05B, byte_tokenizer
from prorank.bench.worker import Memory
from prorank.engine.generate import completion_log_probs, draw
from prorank.model.backbone import Backbone
from prorank.prompts.builtin import load_prompt
from prorank.prompts.tokenization import PairTokenizer
from prorank.recipe.sections import ExperimentalSection, WarmupSection
from prorank.training.trainer import TrainContext
from prorank.warmup import grpo, rewards
from prorank.warmup.pairs import PairItem
from prorank.warmup.trainer import WarmupTrainer

SMALL = QWEN25_05B | {
    "vocab_size": 32_000,
    "hidden_size": 256,
    "intermediate_size": 1_024,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}
WORDS = "stone river cloud apple tiger piano lemon candle forest silver window garden rocket pepper violin".split()


def make_model(spec: dict[str, Any]) -> tuple[Any, Any]:
    """(model, tokenizer) of the shape, float32 weights as in training."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = byte_tokenizer([" ".join(WORDS)] * 50, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), 1_000)
    shape = SMALL if spec["shape"] == "small" else QWEN25_05B
    torch.manual_seed(0)
    config = Qwen2Config(**shape, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return Qwen2ForCausalLM(config).to(spec["device"]), tokenizer


def make_prompts(spec: dict[str, Any], tokenizer: Any) -> tuple[list[str], list[list[int]]]:
    """Prompts of half to one and a half times the wanted tokens, as texts and as ids."""
    generator = torch.Generator().manual_seed(1)
    texts = []
    for _ in range(spec["prompts"]):
        length = int(spec["prompt_tokens"] * (0.5 + float(torch.rand(1, generator=generator))))
        chosen = torch.randint(len(WORDS), (length,), generator=generator).tolist()
        texts.append(" " + " ".join(WORDS[i] for i in chosen))
    return texts, [tokenizer(text)["input_ids"] for text in texts]


class Clock(TrainerCallback):
    """Seconds of each optimisation step, drawing included; the first is left out."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self.start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop the clock."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.start)

    def timed(self, steps: int) -> list[float]:
        """Seconds of the steps after the first; ends the process where there were not so many."""
        seconds = self.seconds[1:]
        if len(seconds) != steps:
            raise SystemExit(f"{len(seconds)} steps were timed, {steps} wanted")
        return seconds


class Supervised(WarmupTrainer):
    """Plain supervised training on the same prompts: the answer and the end of the turn."""

    def loss_on(self, model: Any, inputs: dict[str, Any], whole: dict[str, Any] | None = None) -> torch.Tensor:
        """Mean cross-entropy of the two tokens."""
        answers = self.answer_ids[inputs["label"]].tolist()
        completions = [[[answer, int(self.end_id or 0)]] for answer in answers]
        return -completion_log_probs(model, inputs["sequences"], completions)[0].mean()


class General(WarmupTrainer):
    """The general path: G completions of many tokens drawn from each prompt's cache, then GRPO."""

    group, tokens = 8, 64

    def loss_on(self, model: Any, inputs: dict[str, Any], whole: dict[str, Any] | None = None) -> torch.Tensor:
        """GRPO over whole completions; the reward is that of the first token."""
        prompts = inputs["sequences"]
        completions = draw(self.backbone, prompts, self.group, self.tokens, [int(self.end_id or 0)])
        log_prob, mask = completion_log_probs(model, prompts, completions)
        first = torch.tensor([[row[0] for row in rows] for rows in completions], device=log_prob.device)
        even = log_prob.new_full((len(self.answer_ids),), 1 / len(self.answer_ids))
        verdict = rewards.verdicts(first, self.answer_ids)
        reward = self.reward(verdict, None, inputs["label"], even, met=torch.zeros(()))
        advantages = grpo.group_advantages(reward.format + reward.relevance).flatten()
        return grpo.policy_loss(log_prob, log_prob.detach(), advantages, mask).loss


def prorank_trainer(spec: dict[str, Any], kind: str, folder: Path) -> WarmupTrainer:
    """prorank's own trainer over the same prompts."""
    model, tokenizer = make_model(spec)
    _, prompts = make_prompts(spec, tokenizer)
    backbone = Backbone(model, tokenizer, "causal", torch.bfloat16 if spec["bf16"] else torch.float32)
    pairs = PairTokenizer(tokenizer, load_prompt("prorank-short"), "causal", max_length=spec["prompt_tokens"] * 4)
    items = [PairItem(ids, i % 2) for i, ids in enumerate(prompts)] * (spec["steps"] + 1)
    settings = WarmupSection(
        pairs_per_step=len(prompts),
        steps=spec["steps"] + 1,
        evaluate_every=spec["steps"] + 1,
        learning_rate=1e-6,
        num_generations=spec["group"] if kind == "sampled" else "exact",
        experimental=ExperimentalSection(fade_format=False),
    )
    General.group, General.tokens = spec["group"], spec["tokens"]
    trainer_class = {"supervised": Supervised, "general": General}.get(kind, WarmupTrainer)
    return trainer_class(TrainContext(backbone, pairs, settings, items, folder, 0, Console(quiet=True)), items[:2])


def trl_trainer(spec: dict[str, Any], folder: Path) -> Any:
    """TRL's trainer with the rewards that the warmup gives."""
    import trl
    from datasets import Dataset

    model, tokenizer = make_model(spec)
    texts, _ = make_prompts(spec, tokenizer)

    def reward(completions: list[str], **_: Any) -> list[float]:
        return [float(len(text) == 1) + float(text.startswith("1")) for text in completions]

    arguments = trl.GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=spec["prompts"] * spec["group"],
        num_generations=spec["group"],
        max_completion_length=spec["tokens"],
        max_steps=spec["steps"] + 1,
        learning_rate=1e-6,
        loss_type="grpo",
        beta=0.0,
        use_cpu=spec["device"] == "cpu",
        bf16=spec["bf16"],
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    dataset = Dataset.from_dict({"prompt": texts * (spec["steps"] + 2)})
    return trl.GRPOTrainer(
        model=model, reward_funcs=reward, args=arguments, train_dataset=dataset, processing_class=tokenizer
    )


def main(spec_file: str, result_file: str) -> None:
    """Measure one contender."""
    spec = json.loads(Path(spec_file).read_text(encoding="utf-8"))
    kind, clock = spec["contender"].removeprefix("prorank-"), Clock()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        trainer = trl_trainer(spec, place) if kind == "trl" else prorank_trainer(spec, kind, place)
        trainer.add_callback(clock)
        memory = Memory(spec["device"])
        trainer.train()
        peak = memory.peak()
    seconds = clock.timed(spec["steps"])
    result = {"seconds": statistics.median(seconds), "all_seconds": seconds, "extra_bytes": peak}
    Path(result_file).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
