"""What all stages share: a transformers Trainer over a backbone, with safe checkpoints and exact resume.

Subclasses say how a step is computed (see `steps`) and give held-out metrics (`held_out`). The order of the data is
fixed before training starts, so a resumed run sees what the uninterrupted one would have seen. Under a launcher
(`torchrun` or `accelerate launch`) each process takes its part of every step's items. This module knows nothing of
rewards, losses or collections.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor, distribute_tensor

from prorank.model.backbone import Backbone
from prorank.prompts.tokenization import PairTokenizer
from prorank.training import distributed
from prorank.training.checkpoints import COMPLETE, drop_torn, last_checkpoint, step_of
from prorank.training.progress import RichProgress
from prorank.training.resume import OPTIMIZER, WEIGHTS, check_checkpoint, part_of_checkpoint
from prorank.training.steps import Items, StepTrainer, mean_of
from prorank.util.errors import TrainingError


def trainable_parameters(backbone: Backbone) -> dict[str, torch.Tensor]:
    """Name -> tensor of everything that training changes (shared tensors once)."""
    return {name: p.detach() for name, p in backbone.named_parameters() if p.requires_grad}


def items_a_process(items: int, processes: int) -> int:
    """Each process's part of a step.

    Raises:
        TrainingError: the step's items cannot be shared out evenly.

    >>> items_a_process(16, 2)
    8
    """
    if items % processes:
        raise TrainingError(f"a step of {items} items cannot be shared by {processes} processes")
    return items // processes


@dataclass(frozen=True)
class TrainContext:
    """What a stage's training is made from.

    Args:
        backbone: the model; what `requires_grad` is trained.
        tokenizer: pair tokenizer (answer ids, the slot, padding).
        settings: the recipe's section of the stage.
        items: training items in the order of training.
        folder: where checkpoints and `log.json` go.
        seed: seed of everything random.
        console: where to print.
        log_to: where else the log goes: `tensorboard`, `wandb`.
        dev_metrics: of the model as it is, `dev_ndcg@10` among them; only the stages that rank need it.
    """

    backbone: Backbone
    tokenizer: PairTokenizer
    settings: Any
    items: Sequence[Any]
    folder: Path
    seed: int
    console: Console
    log_to: Sequence[str] = ()
    dev_metrics: Callable[[], dict[str, float]] | None = None


class SlotTrainer(StepTrainer):
    """Trainer over a `Backbone`: atomic checkpoints of what is trained, best model by a held-out metric.

    Args:
        context: model, settings, items and places.
    """

    title: str  # of the progress bar
    items_setting: str  # field of the settings that holds the items of a step
    best_by: str  # held-out metric whose best checkpoint is kept (greater is better)
    start_competes = False  # whether the starting model is the first of the checkpoints to choose from

    def __init__(self, context: TrainContext) -> None:
        self.context, self.backbone, self.console = context, context.backbone, context.console
        self.pair_tokenizer, self.settings = context.tokenizer, context.settings
        keeps_start = getattr(context.settings, "kl", 0) > 0 and not self.backbone.has_lora
        self.frozen = copy.deepcopy(self.backbone).eval() if keeps_start else None
        if not any(p.requires_grad for p in self.backbone.parameters()):
            raise TrainingError("no parameter of the model is trained", hint="train adapters (backbone.lora) or all")
        # written by TensorBoard's callback, which takes its folder from the environment
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(context.folder / "tensorboard")
        callbacks: list[Any] = [RichProgress(self.title, self.console, context.folder / "log.json")]
        if context.settings.patience:
            callbacks.append(transformers.EarlyStoppingCallback(context.settings.patience))
        super().__init__(
            model=self.backbone,
            args=self._arguments(context),
            train_dataset=context.items,
            eval_dataset=[],
            data_collator=lambda items: {"items": Items(items)},
            callbacks=callbacks,
        )
        self.remove_callback(transformers.PrinterCallback)
        self.notes, self.token_budget = {}, context.settings.token_budget

    def _arguments(self, context: TrainContext) -> transformers.TrainingArguments:
        """The recipe's settings in the Trainer's words."""
        settings, on_cpu = context.settings, self.backbone.device.type == "cpu"
        return transformers.TrainingArguments(
            output_dir=str(context.folder),
            run_name=f"{context.folder.parent.parent.name}/{self.title}",
            max_steps=settings.steps,
            per_device_train_batch_size=items_a_process(getattr(settings, self.items_setting), distributed.count()),
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            warmup_steps=int(settings.lr_warmup_ratio * settings.steps),
            lr_scheduler_type="linear",
            seed=context.seed,
            eval_strategy="steps",
            eval_steps=settings.evaluate_every,
            save_strategy="steps",
            save_steps=settings.evaluate_every,
            save_total_limit=2,
            load_best_model_at_end=True,
            metric_for_best_model=self.best_by,
            greater_is_better=True,
            logging_steps=max(1, min(10, settings.evaluate_every)),
            train_sampling_strategy="sequential",
            remove_unused_columns=False,
            use_cpu=on_cpu,
            ddp_backend="gloo" if on_cpu and distributed.count() > 1 else None,
            ddp_find_unused_parameters=False,
            dataloader_pin_memory=False,  # items are token ids; tensors are made on the device
            disable_tqdm=True,
            report_to=list(context.log_to) or "none",
        )

    @contextmanager
    def reference(self) -> Iterator[Backbone]:
        """The starting model, without gradient: LoRA switched off, or a frozen copy."""
        with torch.no_grad():
            if self.frozen is not None:
                yield self.frozen
                return
            training = self.backbone.training
            self.backbone.eval()
            with self.backbone.without_lora():
                yield self.backbone
            self.backbone.train(training)

    def held_out(self) -> dict[str, float]:
        """Metrics on held-out data."""
        raise NotImplementedError

    def save_extra(self, folder: Path) -> None:
        """Write what else a subclass needs to resume, in every process."""

    def load_extra(self, folder: Path) -> None:
        """Read what `save_extra` wrote."""

    def check_notes(self, means: dict[str, float]) -> None:
        """Look at the notes' means whenever they are logged."""

    def log(self, logs: dict[str, float], *arguments: Any, **others: Any) -> None:
        """Add the means of the notes, over steps and processes, to a line about training."""
        if "loss" in logs and self.notes:
            means = torch.stack([mean_of(values) for values in self.notes.values()])
            found = dict(zip(self.notes, self.averaged(means.to(self.backbone.device)).tolist()))
            self.check_notes(found)
            logs = {**logs, **found}
            self.notes = {}
        super().log(logs, *arguments, **others)

    @contextmanager
    def whole_weights(self) -> Iterator[None]:
        """Sharded weights (FSDP2) whole in every process, so that each may run the model as often as it needs."""
        for module in self.sharded():
            module.unshard()
        try:
            yield
        finally:
            for module in self.sharded():
                module.reshard()

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Held-out metrics, logged under `eval_`."""
        with self.whole_weights():
            metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.held_out().items()}
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        if self.state.global_step == 0:
            self._save_start(metrics)
        return metrics

    def _save_start(self, metrics: dict[str, float]) -> None:
        """Make the starting model the first checkpoint.

        There is no optimiser's state to save yet; FSDP would make one by a step of its own.
        """
        self._determine_best_metric(metrics, None)
        self.state.best_model_checkpoint = str(Path(self.args.output_dir) / "checkpoint-0")
        self.args.save_only_model = True
        self._save_checkpoint(self.model, None)
        self.args.save_only_model = False

    def run(self, resume: bool) -> None:
        """Train to the end (from the last whole checkpoint when resuming) and keep the best weights."""
        if resume:
            distributed.run_on_main(lambda: drop_torn(self.args.output_dir))
        checkpoint = last_checkpoint(self.args.output_dir) if resume else None
        if checkpoint is not None:
            check_checkpoint(checkpoint, sharded=self.is_fsdp_enabled)
        self.args.eval_on_start = self.start_competes and checkpoint is None
        torch.manual_seed(self.args.seed + distributed.state().process_index)  # processes draw differently
        self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        gradients = [entry["grad_norm"] for entry in self.state.log_history if "grad_norm" in entry]
        if gradients and not any(gradients):
            self.console.print("  [yellow]every gradient that was logged is 0: nothing was learned[/yellow]")

    def best_step(self) -> int | None:
        """The step after which the kept weights were reached; 0 is the start, None where none was chosen."""
        best = self.state.best_model_checkpoint
        return step_of(best) if best else None

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        found = trainable_parameters(self.backbone)
        whole = found if state_dict is None else state_dict  # sharded weights come together in `state_dict`
        save_file({name: whole[name].cpu().contiguous() for name in found}, folder / WEIGHTS)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        self.save_extra(folder)
        distributed.wait()
        if self.args.should_save:
            (folder / COMPLETE).touch()

    def load_best(self, backbone: Backbone) -> None:
        """Put the best checkpoint's weights into a model like the one that was trained."""
        name = Path(self.state.best_model_checkpoint).name  # the run's folder may have been moved
        self._load_weights(Path(self.args.output_dir) / name, backbone)

    def load_last(self, backbone: Backbone) -> None:
        """Put the last checkpoint's weights into a model like the one that was trained."""
        last = last_checkpoint(self.args.output_dir)
        assert last is not None, "training always ends with a checkpoint"
        self._load_weights(last, backbone)

    def _load_weights(self, folder: str | Path, backbone: Backbone) -> None:
        with part_of_checkpoint(Path(folder) / WEIGHTS):
            weights = load_file(Path(folder) / WEIGHTS)
        own = trainable_parameters(backbone)
        if {name: own[name].shape for name in own} != {name: weights[name].shape for name in weights}:
            raise TrainingError(f"{folder} holds other weights than this model", hint="resume with the same recipe")
        with torch.no_grad():
            for name, tensor in weights.items():
                mine = own[name]
                if isinstance(mine, DTensor):
                    tensor = distribute_tensor(tensor.to(mine.device), mine.device_mesh, mine.placements)
                mine.copy_(tensor)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._load_weights(resume_from_checkpoint, self.backbone)
        self.load_extra(Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with part_of_checkpoint(Path(checkpoint or "") / OPTIMIZER):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        names = "rng_state.pth" if distributed.count() == 1 else f"rng_state_{distributed.state().process_index}.pth"
        with part_of_checkpoint(Path(checkpoint or "") / names):
            super()._load_rng_state(checkpoint)

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint:
            self.load_best(self.backbone)


class RankingTrainer(SlotTrainer):
    """A `SlotTrainer` that keeps the checkpoint with the highest dev NDCG@10; it never ends below its start."""

    best_by, start_competes = "dev_ndcg@10", True

    def held_out(self) -> dict[str, float]:
        """Dev NDCG@10 of reranked first-stage lists."""
        assert self.context.dev_metrics is not None, "a stage that ranks is chosen by dev metrics"
        return self.context.dev_metrics()
