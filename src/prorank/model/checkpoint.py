"""What a checkpoint folder says of itself: settings, description, model card.

`prorank.json` holds everything that turns a pair into a score; a mark in config.json says that it belongs there. This
module reads and writes words and numbers; it loads no weights.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from prorank.model import gguf_files, low_rank
from prorank.model.backbone import Backbone
from prorank.model.cards import card_head, stated
from prorank.model.cascade import Cascade
from prorank.model.loading import EMBEDDED, SMOLLM2, detect_family, read_config, resolve_source
from prorank.model.st_files import write_sentence_transformers_files
from prorank.model.weights import MARK, file_of, reading, validated
from prorank.prompts.builtin import load_prompt
from prorank.prompts.chat import chat_frame
from prorank.prompts.cross_encoder import CrossEncoderTokenizer
from prorank.prompts.prompt import Prompt
from prorank.prompts.published import recognise
from prorank.prompts.tokenization import PairTokenizer
from prorank.shipped import FOLDERS
from prorank.types import Family, ScoreKind
from prorank.util.errors import CheckpointError
from prorank.util.files import atomic_writer, read_json, refuse_no_folder, write_json
from prorank.util.provenance import fingerprint
from prorank.util.sources import expanded, is_gguf
from prorank.util.version import VERSION

logger = logging.getLogger(__name__)
SETTINGS_FILE = "prorank.json"
# What the backbones that need no hub are called where results and cards name them.
PUBLIC_NAMES = {
    EMBEDDED: "sentence-transformers/all-MiniLM-L6-v2",
    SMOLLM2: "SmolLM2-135M-Instruct, from a 4-bit file",
}
_UNIMPORTANT = frozenset({"transformers_version", "_name_or_path", "dtype", "torch_dtype"})
DEFAULT_LENGTH = 512  # tokens of a pair, where neither user nor checkpoint says


class CheckpointSettings(BaseModel):
    """What `prorank.json` holds: how a pair becomes a score, and where the weights came from."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    prorank_version: str = VERSION
    prompt: Prompt | None = Field(description="None for a classifier, which has its own head")
    frame: tuple[str, str] = Field(description="text before and after the prompt (chat template), or empty")
    answer_ids: list[int | list[int]] = Field(description="token ids of the answers; a list where one takes two")
    family: Family
    max_length: int = Field(ge=1, strict=True)
    instruction: str | None = None
    score: ScoreKind = "logit_difference"
    calibration: dict[str, float] | None = None
    cascade: Cascade | None = Field(None, description="chosen on dev lists, used where a caller asks for a cascade")
    built_in: list[int] | None = Field(None, description="ids that begin every sequence; an exported graph knows them")
    base_model: str = ""
    recipe: dict[str, Any] | None = None
    data_fingerprint: str | None = None
    config_fingerprint: str | None = Field(None, description="of config.json, which is written beside it")

    @field_validator("calibration")
    @classmethod
    def _two_finite_numbers(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value is None:
            return value
        if not {"slope", "intercept"} <= value.keys() or not all(map(math.isfinite, value.values())):
            raise ValueError(f"needs a finite slope and intercept, got {value}")
        if value["slope"] <= 0:
            raise ValueError(f"the slope must be positive, got {value['slope']}")
        return value

    @model_validator(mode="after")
    def _classifiers_alone_have_no_prompt(self) -> CheckpointSettings:
        if (self.prompt is None) != (self.family == "classifier"):
            raise ValueError(f"a {self.family} model with{'out' if self.prompt is None else ''} a prompt")
        return self

    @property
    def answer_tokens(self) -> list[list[int]]:
        """The tokens of each answer."""
        return [tokens if isinstance(tokens, list) else [tokens] for tokens in self.answer_ids]


def read_settings(source: str) -> CheckpointSettings | None:
    """Settings of a prorank checkpoint (folder or hub), or None for any other model.

    Raises:
        CheckpointError: `prorank.json` is damaged, or is missing from a folder that had it.
    """
    path = file_of(source, SETTINGS_FILE)
    if path is None:
        if _is_marked(file_of(source, "config.json")):
            raise CheckpointError(
                f"{source} is a prorank checkpoint without its {SETTINGS_FILE}",
                hint=f"copy {SETTINGS_FILE} back; save it again where a save was stopped; or, to use the bare model, "
                f"take {MARK} out of config.json",
            )
        return None
    with reading(path, f"copy {SETTINGS_FILE} again from where the checkpoint came from"):
        found = json.loads(path.read_bytes())
    settings = validated(CheckpointSettings, found, path)
    config = file_of(source, "config.json")
    if settings.config_fingerprint is not None and config is not None:
        with reading(config):
            found = config_fingerprint(json.loads(config.read_bytes()))
        if found != settings.config_fingerprint:
            raise CheckpointError(
                f"{config} is not the one that was saved with this checkpoint: the scores would be others",
                hint="copy config.json again from where the checkpoint came from",
            )
    if settings.prompt is not None and len(settings.answer_ids) != len(settings.prompt.answers):
        raise CheckpointError(
            f"{path}: answer_ids: {len(settings.answer_ids)} for {len(settings.prompt.answers)} answers",
            hint="copy the folder again",
        )
    return settings


def config_fingerprint(config: dict[str, Any]) -> str:
    """Fingerprint of what a config.json says of the model, whichever library wrote it.

    >>> one, two = {"hidden_size": 64, "transformers_version": "5.0"}, {"hidden_size": 64}
    >>> config_fingerprint(one) == config_fingerprint(two)
    True
    """
    told = {key: value for key, value in config.items() if key not in _UNIMPORTANT}
    return fingerprint(json.dumps(told, sort_keys=True))


def write_settings(folder: Path, settings: CheckpointSettings) -> None:
    """Write `prorank.json` beside a config.json; the last of a checkpoint's files, it marks the folder whole."""
    saved = settings.model_dump(mode="json")
    saved["config_fingerprint"] = config_fingerprint(read_json(folder / "config.json"))
    write_json(folder / SETTINGS_FILE, saved)


def saved_folder(model: str) -> Path:
    """The folder of a checkpoint that can be written to.

    Raises:
        CheckpointError: a name, or a folder without `prorank.json`.
    """
    if not (Path(model) / SETTINGS_FILE).is_file():
        raise CheckpointError(f"'{model}' is no checkpoint's folder", hint="save it to a folder first")
    return Path(model)


def save_cascade(folder: Path, cascade: Cascade) -> None:
    """Note a cascade in a checkpoint's `prorank.json`; all else stays."""
    file = folder / SETTINGS_FILE
    write_json(file, read_json(file) | {"cascade": cascade.model_dump(mode="json")})


def mark_checkpoint(folder: Path) -> None:
    """Note in config.json that the weights belong to a `prorank.json`, so that its loss is noticed."""
    file = folder / "config.json"
    write_json(file, read_json(file) | {MARK: True})


def save_checkpoint(
    folder: Path,
    backbone: Backbone,
    tokenizer: PairTokenizer | CrossEncoderTokenizer,
    settings: CheckpointSettings,
    card: str | None,
) -> None:
    """Write weights, tokenizer, settings, card and, where they suit, the files that sentence-transformers reads.

    A folder in which that was stopped is refused when it is loaded, whatever it held before: it has no `prorank.json`,
    and its config.json, written before the weights, is marked from the start.

    Raises:
        ProrankError: the folder is a file.
    """
    refuse_no_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (SETTINGS_FILE, "config.json"):
        (folder / name).unlink(missing_ok=True)
    setattr(backbone.config, MARK, True)
    backbone.save(folder)
    if isinstance(tokenizer, PairTokenizer) and (settings.family, settings.score) == ("causal", "logit_difference"):
        try:
            write_sentence_transformers_files(folder, tokenizer, settings.frame, settings.max_length)
        except CheckpointError as error:
            logger.warning("%s", error)
    with atomic_writer(folder / "README.md") as file:
        file.write(card or plain_card(settings, str(backbone.config._name_or_path)))
    write_settings(folder, settings)


def _is_marked(config: Path | None) -> bool:
    try:
        found = json.loads(config.read_bytes()) if config is not None else None
    except (OSError, ValueError, RecursionError):
        return False  # loading the model will say what is wrong
    return isinstance(found, dict) and bool(found.get(MARK))


def brings_its_own(path_or_name: str | Path, **options: Any) -> None:
    """Refuse what a checkpoint says itself.

    Raises:
        CheckpointError: one of the options is given.
    """
    for name, value in options.items():
        if value is not None:
            raise CheckpointError(f"{path_or_name} brings its own {name}", hint=f"leave out `{name}`")


def fresh_settings(
    path_or_name: str | Path,
    backbone: Backbone,
    prompt: str | Path | Prompt | None,
    instruction: str | None,
    score: ScoreKind | None,
) -> CheckpointSettings:
    """Settings of a model that is no prorank checkpoint."""
    shared: dict[str, Any] = {
        "answer_ids": [],
        "family": backbone.family,
        "instruction": instruction,
        "base_model": public_base(path_or_name),
    }
    if backbone.family == "classifier":
        if prompt is not None:
            raise CheckpointError(f"'{path_or_name}' is a classifier: it takes no prompt", hint="leave out `prompt`")
        shared["score"] = score or "logit_difference"
        return CheckpointSettings(prompt=None, frame=("", ""), max_length=DEFAULT_LENGTH, **shared)
    if backbone.tied_head:
        logger.warning("%s has no masked-language-model head: its word embeddings serve as the head.", path_or_name)
    published = recognise(str(path_or_name), backbone.config, backbone.tokenizer) if prompt is None else None
    if prompt is None:
        prompt = published.prompt if published else "prorank"
    chosen = prompt if isinstance(prompt, Prompt) else load_prompt(prompt)
    frame = chat_frame(backbone.tokenizer, chosen, backbone.config.model_type)
    shared["score"] = score or ("logit_difference" if len(chosen.answers) == 2 else "graded_confidence")
    length = published.max_length if published else DEFAULT_LENGTH
    return CheckpointSettings(prompt=chosen, frame=frame, max_length=length, **shared)


def public_base(name: str | Path) -> str:
    """The model that a chain of prorank checkpoints began with, by its public name where it has one.

    Args:
        name: what a model was loaded by; a folder of a prorank checkpoint stands for its own base model.

    >>> public_base("prorank-mini"), public_base("Qwen/Qwen2.5-0.5B-Instruct")
    ('sentence-transformers/all-MiniLM-L6-v2', 'Qwen/Qwen2.5-0.5B-Instruct')
    """
    name, seen = str(name), set[str]()
    while name not in seen:
        seen.add(name)
        if name in PUBLIC_NAMES:
            return PUBLIC_NAMES[name]
        settings = (FOLDERS.get(name) or expanded(name)) / SETTINGS_FILE
        if settings.is_file():
            name = read_json(settings).get("base_model") or name
    return name


def _card_facts(source: str) -> dict[str, Any]:
    """Licence and languages, as the head of the model card states them."""
    facts = stated(source)
    return {"licence": facts.get("license"), "languages": facts.get("language")}


def describe(path_or_name: str | Path) -> dict[str, Any]:
    """What a checkpoint is, without loading its weights.

    Args:
        path_or_name: checkpoint folder, model folder, GGUF file, hub name, `embedded` or `smollm2-135m`.

    Returns:
        Model type, parameters, bytes on disk, licence and languages that its card states, family, prompt, answers with
        their token ids, lengths, score, calibration, and where it came from.

    Raises:
        CheckpointError: no such model.
    """
    source = resolve_source(path_or_name)
    settings = read_settings(source)
    config = read_config(source, path_or_name)
    described = Path(source)
    files = [described] if is_gguf(source) else [file for file in described.rglob("*") if file.is_file()]
    description: dict[str, Any] = {
        "model": str(path_or_name),
        "type": config.model_type,
        "family": settings.family if settings else detect_family(config),
        "parameters": _parameters(described),
        "size on disk": sum(file.stat().st_size for file in files) or None,
        **_card_facts(source),
        **gguf_files.facts(source),
        **low_rank.described(source),
        "prorank checkpoint": settings is not None,
    }
    if str(path_or_name) in PUBLIC_NAMES:
        description["base model"] = PUBLIC_NAMES[str(path_or_name)]
    if settings is not None:
        recipe = settings.recipe or {}
        description |= {
            "base model": public_base(settings.base_model),
            "prompt": settings.prompt.name if settings.prompt else None,
            "answers": dict(zip(settings.prompt.answers, settings.answer_ids)) if settings.prompt else None,
            "score": settings.score,
            "calibration": settings.calibration,
            "max length": settings.max_length,
            "instruction": settings.instruction,
            "recipe": recipe.get("name"),
            "seed": recipe.get("seed"),
            "collection": _trained_on(recipe.get("data") or {}),
            "data fingerprint": settings.data_fingerprint,
            "made with prorank": settings.prorank_version,
        }
    return description


def _parameters(folder: Path) -> int | None:
    """Numbers in a folder's files of weights; None where there are none."""
    from safetensors import safe_open

    found = 0
    for file in sorted(folder.glob("*.safetensors")):
        with reading(file), safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - a file handle, not a mapping
                found += int(np.prod(tensors.get_slice(key).get_shape()))
    return found or None


def _trained_on(data: dict[str, Any]) -> str | None:
    """The recipe's collection, or those of its union."""
    names = [part.get("collection") for part in data.get("union") or ()]
    return ", ".join(map(str, names)) or data.get("collection")


def plain_card(settings: CheckpointSettings, source: str = "") -> str:
    """A model card with what the settings know, and what a card that is there already states.

    Args:
        settings: of the checkpoint.
        source: folder or hub name of the model that this is a copy of; empty for new weights, of which no card speaks.
    """
    how = (
        f"over the answers {', '.join(settings.prompt.answers)} to the prompt `{settings.prompt.name}`"
        if settings.prompt
        else "of its classification head"
    )
    return (
        f"{card_head(source)}# Reranker\n\n"
        f"Fine-tuned from `{settings.base_model}` with prorank {settings.prorank_version}. The score of a pair is "
        f"`{settings.score}` {how}.\n\n"
        "```python\nfrom prorank import Reranker\n\n"
        'reranker = Reranker.from_pretrained("path/to/this/folder")\n'
        'reranker.rank("a query", ["a document", "another"])\n```\n'
    )
