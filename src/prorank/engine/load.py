"""From a name to what a reranker is made of: the backend, its pair tokenizer, the checkpoint's settings.

Knows checkpoints, exports and any Hugging Face model; nothing of scores or ranking.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypedDict

from prorank.engine.backend import ScorerBackend
from prorank.engine.runtime import RuntimeBackend, is_exported, scores_only
from prorank.model.cascade import Cascade
from prorank.model.checkpoint import (
    SETTINGS_FILE,
    CheckpointSettings,
    brings_its_own,
    fresh_settings,
    read_settings,
)
from prorank.model.loading import load_backbone, resolve_source
from prorank.prompts.cross_encoder import CrossEncoderTokenizer
from prorank.prompts.prompt import Prompt
from prorank.prompts.tokenization import PairTokenizer
from prorank.types import Family, Passages, Precision, ScoreKind
from prorank.util.errors import CheckpointError, InputTypeError
from prorank.util.inputs import of_type, one_of, whole_numbers

logger = logging.getLogger(__name__)


class Parts(NamedTuple):
    """What a reranker is made of."""

    backend: ScorerBackend
    tokenizer: PairTokenizer | CrossEncoderTokenizer
    settings: CheckpointSettings


OWN = ("passages", "cascade", "max_new_tokens")  # options of a reranker itself


def known_options(options: Mapping[str, object]) -> None:
    """Refuse options that `load_parts` does not have.

    Raises:
        InputTypeError: the message lists those that there are.
    """
    known = load_parts.__kwdefaults__ or {}
    for name in options:
        if name not in known:
            raise InputTypeError(f"there is no option '{name}'", hint=f"{', '.join(OWN)}, {', '.join(known)}")


class LoadOptions(TypedDict, total=False):
    """How a model is loaded; `load_parts` explains each."""

    prompt: str | Path | Prompt | None
    max_length: int | None
    instruction: str | None
    score: ScoreKind | None
    family: Family | None
    device: str
    precision: Precision
    token_budget: int | None
    compile_layers: bool
    for_training: bool
    trust_remote_code: bool


class RerankerOptions(LoadOptions, total=False):
    """What `Reranker.from_pretrained` takes besides a name."""

    passages: Passages | None
    cascade: bool | Cascade
    max_new_tokens: int


def load_parts(
    path_or_name: str | Path,
    *,
    prompt: str | Path | Prompt | None = None,
    max_length: int | None = None,
    instruction: str | None = None,
    score: ScoreKind | None = None,
    family: Family | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    token_budget: int | None = None,
    compile_layers: bool = False,
    for_training: bool = False,
    trust_remote_code: bool = False,
) -> Parts:
    """Load what a reranker is made of.

    Args:
        path_or_name: checkpoint folder, model folder, GGUF file or a folder with one, hub name, `embedded`,
            `smollm2-135m`, or one that ships: `prorank-mini`, `prorank-mini-multilingual`, `prorank-smol`.
        prompt: built-in name, YAML file or `Prompt`; only for models that are no prorank checkpoint
            (default: the published checkpoint's, else `prorank`).
        max_length: tokens of a pair, template included; default the checkpoint's, else 512.
        instruction: line for the prompt; default the checkpoint's.
        score, family: as for `prompt`: a checkpoint brings its own. Scores are logit differences of two answers, and
            `graded_confidence` of more, unless said otherwise.
        device: `auto`, `cpu`, `cuda`, ...
        precision: `auto` (bf16 where fast), `fp32` or `bf16`.
        token_budget: tokens of one forward pass; None chooses by device and free memory.
        compile_layers: compile the layers with `torch.compile` on first use.
        for_training: keep float32 weights.
        trust_remote_code: run the checkpoint's own Python code; off unless you say so.

    Raises:
        CheckpointError, PromptError: what does not fit, and how to mend it.
    """
    whole_numbers(max_length=max_length, token_budget=token_budget)
    of_type(str, "a text", instruction=instruction)
    of_type(
        bool,
        "True or False",
        compile_layers=compile_layers,
        for_training=for_training,
        trust_remote_code=trust_remote_code,
    )
    if not isinstance(path_or_name, (str, Path)):
        raise InputTypeError(f"a model is a name or a folder, got {path_or_name!r}")
    of_type((str, Path, Prompt), "a name, a YAML file or a Prompt", prompt=prompt)
    one_of("score", score, ScoreKind)
    one_of("family", family, Family)
    one_of("precision", precision, Precision)
    source = resolve_source(path_or_name)
    saved = read_settings(source)
    if saved is not None:
        brings_its_own(path_or_name, prompt=prompt, score=score, family=family)
    if saved is not None and is_exported(source):
        scores_only(path_or_name, device=device, compile_layers=compile_layers, for_training=for_training)
        backend: ScorerBackend = RuntimeBackend(source, saved.family, precision, saved.built_in)
    else:
        backend = backbone = load_backbone(
            source,
            family=saved.family if saved else family,
            device=device,
            precision=precision,
            for_training=for_training,
            trust_remote_code=trust_remote_code,
        )
        if compile_layers:
            backbone.compile_layers()
        saved = saved or fresh_settings(path_or_name, backbone, prompt, instruction, score)
    backend.token_budget = token_budget
    settings = saved.model_copy(
        update={
            "max_length": fitting_length(saved.max_length if max_length is None else max_length, backend),
            "instruction": instruction if instruction is not None else saved.instruction,
        }
    )
    tokenizer = pair_tokenizer(backend, settings)
    if settings.answer_tokens and settings.answer_tokens != tokenizer.answer_tokens:
        raise CheckpointError(
            f"{path_or_name}: the tokenizer's answer ids {tokenizer.answer_tokens} are not those in "
            f"{SETTINGS_FILE}: {settings.answer_ids}",
            hint="the folder mixes files of two models",
        )
    return Parts(backend, tokenizer, settings)


def fitting_length(wanted: int, backend: ScorerBackend) -> int:
    """The wanted length, or the model's own limit where that is shorter; logs a warning then."""
    limit = getattr(backend.config, "max_position_embeddings", None)
    if limit:
        limit -= backend.position_offset
    if limit and wanted > limit:
        logger.warning("max_length %d is beyond the model's %d positions; using %d.", wanted, limit, limit)
        return int(limit)
    return wanted


def pair_tokenizer(backend: ScorerBackend, settings: CheckpointSettings) -> PairTokenizer | CrossEncoderTokenizer:
    """The tokenizer that the settings describe: of a prompt, or of somebody else's cross-encoder."""
    if settings.prompt is None:
        return CrossEncoderTokenizer(backend.tokenizer, settings.max_length)
    return PairTokenizer(
        backend.tokenizer,
        settings.prompt,
        backend.family,
        settings.frame,
        settings.max_length,
        settings.instruction,
    )
