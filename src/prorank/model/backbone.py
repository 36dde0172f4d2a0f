"""The Hugging Face model behind a reranker: hidden states and logits at the answer slot, LoRA, saving.

All families end in the same place: `Backbone.forward` returns logits at the answer slot only, in float32. For causal
models the slot's hidden state meets the language-model head; for masked models it passes the masked-language-model
transform first. A masked checkpoint without such a head (a sentence encoder, say) uses its word embeddings as the
head (`Backbone.tied_head`).

This module knows nothing of queries, training or files other than model weights.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from prorank.model.attention import packed_layers, stay_uncompiled
from prorank.model.heads import masked_transform
from prorank.model.int8_rowwise import INT8_ROWWISE_FILE
from prorank.model.last_layer import checkpointed_layers, layers_of
from prorank.model.low_rank import LOW_RANK_FILE
from prorank.model.packing import Pack, plan_packs
from prorank.model.sharing import ModelLock
from prorank.model.weights import reason
from prorank.prompts.tokenization import Batch
from prorank.types import Family
from prorank.util.errors import CheckpointError, require
from prorank.util.files import read_json, write_json

logger = logging.getLogger(__name__)
UNPACKED = "texts of a %s model cannot be packed without padding (%s): scores stay the same, but take longer"
CHUNK_ROWS = 32  # rows that share one padded length in `Backbone.forward`
COUNT_FROM_PADDING = ("roberta", "xlm-roberta", "camembert")  # positions start behind the padding id


class Backbone(nn.Module):
    """A language model with one job: logits at the answer slot.

    Args:
        model: the Hugging Face model (or its LoRA-wrapped form).
        tokenizer: its tokenizer.
        family: `causal`, `masked` or `classifier`.
        compute_dtype: bfloat16 runs the layers under autocast; the head is always float32.
        tied_head: the word embeddings stand in for a missing masked-language-model head.

    Attributes:
        token_budget: tokens a forward pass may hold in inference; None lets the engine choose.
        gradient_checkpointing: keep each layer's input only, and run the layer again in the backward pass.
        lock: held by every forward pass, for it switches the layers over and back.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        family: Family,
        compute_dtype: torch.dtype = torch.float32,
        tied_head: bool = False,
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.tokenizer = tokenizer
        self.family: Family = family
        self.compute_dtype = compute_dtype
        self.tied_head = tied_head
        self.token_budget: int | None = None
        self.gradient_checkpointing = False
        self.lock = ModelLock()
        self.train(model.training)

    @property
    def core(self) -> Any:
        """The Hugging Face model without LoRA's wrapper (its layers stay inside)."""
        return self.model.get_base_model() if self.has_lora else self.model

    @property
    def has_lora(self) -> bool:
        """Whether LoRA adapters are attached."""
        return hasattr(self.model, "peft_config")

    @property
    def config(self) -> Any:
        """The Hugging Face config."""
        return self.core.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def autocast(self) -> AbstractContextManager[Any]:
        """Autocast to `compute_dtype`, or nothing for float32."""
        if self.compute_dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.compute_dtype)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """The model in scoring mode and to this thread alone, for as long as the context is open.

        Afterwards every layer is in the mode that it had before.
        """
        with self.lock:
            training = [module for module in self.modules() if module.training]
            if training:
                self.eval()
            try:
                yield
            finally:
                for module in training:
                    module.training = True

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles hold: the structure as it is between two forward passes; weights are not doubled."""
        with self.lock:
            shared = {id(part): part for part in (*self.parameters(), *self.buffers(), self.tokenizer)}
            return copy.deepcopy(self.__dict__, shared)

    @property
    def position_offset(self) -> int:
        """The position of a sequence's first token; above 0 where the model counts from its padding id."""
        return first_position(self.config)

    def slot_hidden(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        slot: torch.Tensor,
        type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden state at the answer slot, ready for the vocabulary matrix.

        Rows are sorted by length and run in chunks of `CHUNK_ROWS`, each trimmed to its own longest row, so a
        long document among short ones costs its own padding only.

        Args:
            input_ids, attention_mask: (B, T), padded on the right.
            slot: (B,) positions, or (B, S) where several are read.
            type_ids: (B, T) token types, or None.

        Returns:
            (B, H) float32, or (B, S, H).
        """
        lengths = attention_mask.sum(-1)
        order = lengths.argsort(stable=True)
        pieces = []
        with self.lock, self.autocast(), self._layers(nullcontext):
            for rows in order.split(CHUNK_ROWS):
                longest = int(lengths[rows].max())
                types = {} if type_ids is None else {"token_type_ids": type_ids[rows, :longest]}
                states = self.core.base_model(
                    input_ids=input_ids[rows, :longest],
                    attention_mask=attention_mask[rows, :longest],
                    **types,
                    **self.uncached,
                ).last_hidden_state  # (b, t, H)
                index = torch.arange(len(rows), device=states.device).view(-1, *[1] * (slot.ndim - 1))
                pieces.append(states[index, slot[rows]])
        return self.transformed(torch.cat(pieces).float()[order.argsort()])  # (B, H), input order again

    def packed_hidden(self, pack: Pack) -> torch.Tensor:
        """Hidden states at the answer slots of a pack, ready for the vocabulary matrix.

        Args:
            pack: from `prorank.model.packing`, on the model's device.

        Returns:
            (B, H) float32, in the order of `pack.slots`.
        """
        if torch.is_grad_enabled() and any(getattr(m, "gradient_checkpointing", False) for m in self.core.modules()):
            raise CheckpointError(
                "transformers' gradient checkpointing would run the layers again unpacked",
                hint="switch it off and set `gradient_checkpointing` of the backbone or in the recipe",
            )
        base = self.core.base_model
        types = {} if pack.type_ids is None else {"token_type_ids": pack.type_ids}
        slots = pack.slots.unique() if torch.is_grad_enabled() else pack.slots  # one read twice has one gradient
        with self.lock, self.autocast(), self._layers(lambda: packed_layers(base, slots)):
            states = base(
                input_ids=pack.input_ids, position_ids=pack.position_ids, pack=pack, **types, **self.uncached
            ).last_hidden_state  # (1, N, H)
        return self.transformed(states[0, pack.slots].float())

    @contextmanager
    def _layers(self, switched: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
        """The layers as `switched` makes them; where `gradient_checkpointing` is set, in their second run too."""

        @contextmanager
        def again() -> Iterator[None]:
            with self.lock, switched():
                yield

        twice = self.gradient_checkpointing and torch.is_grad_enabled()
        with switched(), checkpointed_layers(self.core.base_model, again) if twice else nullcontext():
            yield

    @property
    def uncached(self) -> dict[str, bool]:
        """Arguments that switch off the key-value cache, which a single pass does not need; masked models have none."""
        return {"use_cache": False} if self.family == "causal" else {}

    def transformed(self, hidden: torch.Tensor) -> torch.Tensor:
        """A masked model's transform before its vocabulary matrix; (B, H) -> (B, H)."""
        if self.family != "masked" or self.tied_head:
            return hidden
        return masked_transform(self.core)(hidden.to(self.device, next(self.core.parameters()).dtype)).float()

    @cached_property
    def supports_packing(self) -> bool:
        """Whether packed rows give this model's own hidden states; found out once, on a few tokens.

        Models that mix tokens outside the attention interface (convolutions, recurrent layers, soft-capped
        attention) do not; they run in padded batches.
        """
        padding = self.config.pad_token_id or 0  # a token that some models do not count
        ids = [i for i in range(1, min(self.config.vocab_size, 99), 3) if i != padding][:24]
        sequences = [ids[:14], [*ids[:10], *ids[14:20]], ids[5:16]]
        mask = torch.zeros(3, 16, dtype=torch.long)
        padded = torch.full((3, 16), padding)
        for row, sequence in enumerate(sequences):
            mask[row, : len(sequence)] = 1
            padded[row, : len(sequence)] = torch.tensor(sequence)
        try:
            with self.inference(), torch.inference_mode():
                causal = self.family == "causal"
                (pack,) = plan_packs(sequences, [0, 0, 1], 99, causal=causal, position_offset=self.position_offset)
                device = self.device
                expected = self.slot_hidden(padded.to(device), mask.to(device), mask.sum(-1).to(device) - 1)
                found = self.packed_hidden(pack.to(device))[torch.tensor(pack.sequences).argsort()]
        except (TypeError, NotImplementedError) as error:  # the model refuses the argument or the attention function
            logger.warning(UNPACKED, self.config.model_type, reason(error))
            return False
        if not torch.isfinite(expected).all():
            return True  # a weight is damaged: whoever asks for scores is told so
        tolerance = 1e-3 if self.compute_dtype == torch.float32 else 0.1
        same = bool((found - expected).abs().max() <= tolerance * expected.abs().max())
        if not same:
            logger.warning(UNPACKED, self.config.model_type, "its layers mix tokens outside their attention")
        return same

    def head(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Vocabulary matrix (V, H) and bias (V,) or None."""
        core = self.core
        if self.tied_head:
            return core.get_input_embeddings().weight, None
        output = core.get_output_embeddings()
        return output.weight, getattr(output, "bias", None)

    def project(self, hidden: torch.Tensor, rows: Sequence[int] | None = None) -> torch.Tensor:
        """Hidden states -> logits, in float32, of the whole vocabulary or of some rows of it.

        Args:
            hidden: (B, H) from `slot_hidden`.
            rows: token ids, or None for all.

        Returns:
            (B, V) or (B, len(rows)).
        """
        weight, bias = self.head()
        if rows is not None:
            index = torch.tensor(list(rows), device=weight.device)
            weight, bias = weight[index], None if bias is None else bias[index]
        with torch.autocast(hidden.device.type, enabled=False):
            logits = F.linear(hidden.float(), weight.float(), None if bias is None else bias.float())
        return self.rescale(logits)

    def read(self, work: Pack | Batch, rows: Sequence[int] | None = None) -> torch.Tensor:
        """Logits (B, K) at the answer slots of a pack or of a padded batch, which are brought to the model's device."""
        if isinstance(work, Pack):
            return self.project(self.packed_hidden(work.to(self.device)), rows)
        batch = work.to(self.device)
        logits: torch.Tensor = self(batch.input_ids, batch.attention_mask, batch.slot, rows, batch.type_ids)
        return logits

    def rescale(self, logits: torch.Tensor) -> torch.Tensor:
        """What some families do after the head: Cohere's factor, Granite's divisor, Gemma's soft cap."""
        config = self.config
        logits = logits * (getattr(config, "logit_scale", None) or 1.0)
        logits = logits / (getattr(config, "logits_scaling", None) or 1.0)
        cap = getattr(config, "final_logit_softcapping", None)
        return cap * torch.tanh(logits / cap) if cap else logits

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        slot: torch.Tensor | None = None,
        rows: Sequence[int] | None = None,
        type_ids: torch.Tensor | None = None,
        *,
        pack: Pack | None = None,
    ) -> torch.Tensor:
        """Of a padded batch, logits at the answer slot; of a pack, hidden states (B, H) at its slots for `project`.

        Wrappers for several processes see this one forward; everything that is trained passes it.

        Args:
            input_ids, attention_mask, slot, type_ids: see `slot_hidden`.
            rows: see `project`.
            pack: in place of all others.

        Returns:
            (B, V), or (B, len(rows)) for the tokens in `rows`, or (B, H); float32.
        """
        if pack is not None:
            return self.packed_hidden(pack)
        assert input_ids is not None and attention_mask is not None and slot is not None
        return self.project(self.slot_hidden(input_ids, attention_mask, slot, type_ids), rows)

    def compile_layers(self) -> None:
        """Compile each layer with `torch.compile` on first use; attention over a pack's spans stays as it is."""
        stay_uncompiled()
        for layer in layers_of(self.core.base_model):
            layer.compile(dynamic=True)

    def add_lora(self, rank: int, alpha: int, dropout: float = 0.0) -> None:
        """Attach LoRA adapters to all linear layers and freeze the rest (peft).

        What is frozen in the layers is kept as it is computed: in bf16 where the products are bf16.

        Raises:
            MissingExtraError: peft is not installed.
        """
        peft = require("peft", "train")
        settings = peft.LoraConfig(
            r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear", bias="none"
        )
        from prorank.model.adapters import in_one_pass

        self.model = peft.get_peft_model(self.model, settings)
        in_one_pass(self.model)
        cast_frozen(self.model, self.compute_dtype)

    def merge_lora(self) -> None:
        """Add what the adapters learned to the weights, in float32, and take the adapters off."""
        if self.has_lora:
            self.model = merged(self.model)

    def without_lora(self) -> AbstractContextManager[Any]:
        """The starting model, for as long as the context is open (LoRA only)."""
        if not self.has_lora:
            raise CheckpointError("without_lora needs LoRA adapters")
        return self.model.disable_adapter()

    def save(self, folder: str | Path) -> None:
        """Write weights (LoRA merged, safetensors) and tokenizer. The model in memory stays as it is."""
        with self.lock:
            core = merged(copy.deepcopy(self.model)) if self.has_lora else self.model
            core.save_pretrained(folder)
        for other in (INT8_ROWWISE_FILE, LOW_RANK_FILE):  # of a model that was here before
            (Path(folder) / other).unlink(missing_ok=True)
        self.tokenizer.save_pretrained(folder)
        spell_out_rope(Path(folder) / "config.json")


def first_position(config: Any) -> int:
    """The position of a sequence's first token by a Hugging Face config."""
    return config.pad_token_id + 1 if config.model_type in COUNT_FROM_PADDING else 0


def spell_out_rope(file: Path) -> None:
    """Add the key `rope_theta` to a config.json that has it under `rope_parameters` only.

    transformers before 5, and engines that read the file themselves, know nothing else and would fall back to another
    base in silence.
    """
    config = read_json(file)
    theta = (config.get("rope_parameters") or {}).get("rope_theta")
    if theta is not None and "rope_theta" not in config:
        write_json(file, config | {"rope_theta": theta})


def cast_frozen(model: Any, dtype: torch.dtype) -> None:
    """Give the layers' matrices that LoRA adapters stand beside this type; the adapters stay as they are."""
    for layer in layers_of(model.get_base_model().base_model):
        for module in layer.modules():
            if hasattr(module, "lora_A") and hasattr(module.base_layer, "weight"):  # experts hold theirs elsewhere
                module.base_layer.weight.data = module.base_layer.weight.data.to(dtype)


def merged(model: Any) -> Any:
    """The Hugging Face model with its LoRA adapters added to the weights, in float32."""
    cast_frozen(model, torch.float32)
    return model.merge_and_unload()


def unwrapped(model: Any) -> Backbone:
    """The backbone inside a wrapper for several processes (DDP); FSDP2 wraps in place."""
    found: Backbone = getattr(model, "module", model)
    return found
