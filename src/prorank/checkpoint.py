"""What a checkpoint folder says of itself: settings, description, model card.

`prorank.json` holds everything that turns a pair into a score. This module reads and writes words and numbers; it
loads no weights.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prorank import __version__
from prorank.backbone import EMBEDDED, detect_family, resolve_source
from prorank.errors import CheckpointError
from prorank.files import read_json, read_text
from prorank.models import FOLDER, MINI
from prorank.prompts import Family, Prompt
from prorank.scores import ScoreKind
from prorank.sources import expanded

SETTINGS_FILE = "prorank.json"
EMBEDDED_NAME = "sentence-transformers/all-MiniLM-L6-v2"  # what the embedded backbone is called on the hub


class CheckpointSettings(BaseModel):
    """What `prorank.json` holds: how a pair becomes a score, and where the weights came from."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    prorank_version: str = __version__
    prompt: Prompt | None = Field(description="None for a classifier, which has its own head")
    frame: tuple[str, str] = Field(description="text before and after the prompt (chat template), or empty")
    answer_ids: list[int | list[int]] = Field(description="token ids of the answers; a list where one takes two")
    family: Family
    max_length: int = Field(ge=1)
    instruction: str | None = None
    score: ScoreKind = "logit_difference"
    calibration: dict[str, float] | None = None
    base_model: str = ""
    recipe: dict[str, Any] | None = None
    data_fingerprint: str | None = None

    @property
    def answer_tokens(self) -> list[list[int]]:
        """The tokens of each answer."""
        return [tokens if isinstance(tokens, list) else [tokens] for tokens in self.answer_ids]


def read_settings(source: str) -> CheckpointSettings | None:
    """Settings of a prorank checkpoint (folder or hub), or None for any other model."""
    path = Path(source) / SETTINGS_FILE
    if not Path(source).is_dir():
        from transformers.utils import cached_file

        try:
            found = cached_file(source, SETTINGS_FILE, _raise_exceptions_for_missing_entries=False)
        except OSError:
            return None  # offline or no such model: loading the weights will say what is wrong
        if found is None:
            return None
        path = Path(found)
    if not path.is_file():
        return None
    try:
        return CheckpointSettings.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{path}: {where}: {first['msg']}", hint="was it made by a newer prorank?") from error


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
        if name == EMBEDDED:
            return EMBEDDED_NAME
        settings = (FOLDER if name == MINI else expanded(name)) / SETTINGS_FILE
        if settings.is_file():
            name = read_json(settings).get("base_model") or name
    return name


def _card_facts(folder: Path) -> dict[str, Any]:
    """Licence and languages, as the head of the model card states them."""
    card = folder / "README.md"
    head = re.match(r"---\n(.*?)\n---", read_text(card), re.DOTALL) if card.is_file() else None
    try:
        facts = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError:
        facts = None
    facts = facts if isinstance(facts, dict) else {}
    languages = facts.get("language")
    return {
        "licence": facts.get("license"),
        "languages": [str(language) for language in languages] if isinstance(languages, list) else languages,
    }


def describe(path_or_name: str | Path) -> dict[str, Any]:
    """What a checkpoint is, without loading its weights.

    Args:
        path_or_name: checkpoint folder, model folder, hub name, or `embedded`.

    Returns:
        Model type, parameters, bytes on disk, licence and languages that its card states, family, prompt, answers with
        their token ids, lengths, score, calibration, and where it came from.

    Raises:
        CheckpointError: no such model.
    """
    from safetensors import safe_open
    from transformers import AutoConfig

    source = resolve_source(path_or_name)
    settings = read_settings(source)
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"no model at '{path_or_name}'", hint="give a checkpoint folder or a hub name") from error
    parameters = 0
    for file in sorted(Path(source).glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - a file handle, not a mapping
                parameters += int(np.prod(tensors.get_slice(key).get_shape()))
    description: dict[str, Any] = {
        "model": str(path_or_name),
        "type": config.model_type,
        "family": settings.family if settings else detect_family(config),
        "parameters": parameters or None,
        "size on disk": sum(f.stat().st_size for f in Path(source).rglob("*") if f.is_file()) or None,
        **_card_facts(Path(source)),
        "prorank checkpoint": settings is not None,
    }
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
            "collection": (recipe.get("data") or {}).get("collection"),
            "data fingerprint": settings.data_fingerprint,
            "made with prorank": settings.prorank_version,
        }
    return description


def plain_card(settings: CheckpointSettings) -> str:
    """A model card with what the settings know."""
    how = (
        f"over the answers {', '.join(settings.prompt.answers)} to the prompt `{settings.prompt.name}`"
        if settings.prompt
        else "of its classification head"
    )
    return (
        "---\nlibrary_name: prorank\npipeline_tag: text-ranking\ntags:\n- reranker\n- prorank\n---\n\n"
        "# Reranker\n\n"
        f"Fine-tuned from `{settings.base_model}` with prorank {settings.prorank_version}. The score of a pair is "
        f"`{settings.score}` {how}.\n\n"
        "```python\nfrom prorank import Reranker\n\n"
        'reranker = Reranker.from_pretrained("path/to/this/folder")\n'
        'reranker.rank("a query", ["a document", "another"])\n```\n'
    )
