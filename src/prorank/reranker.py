"""Reranker: the public face. Load a checkpoint, score pairs, rank documents, save.

A checkpoint is a folder with Hugging Face weights and tokenizer, `prorank.json` (everything that turns a pair
into a score) and a model card. This module knows nothing of training or evaluation.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prorank import __version__
from prorank.backbone import Backbone, Precision, detect_family, load_backbone, resolve_source
from prorank.engine import ScoredPairs, score_pairs
from prorank.errors import CheckpointError
from prorank.files import atomic_writer, read_json, write_json
from prorank.prompts import Family, PairTokenizer, Prompt, chat_frame, load_prompt
from prorank.scores import ScoreKind

logger = logging.getLogger(__name__)
SETTINGS_FILE = "prorank.json"

Document = str | Mapping[str, Any]


class CheckpointSettings(BaseModel):
    """What `prorank.json` holds: how a pair becomes a score, and where the weights came from."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    prorank_version: str = __version__
    prompt: Prompt
    frame: tuple[str, str] = Field(description="text before and after the prompt (chat template), or empty")
    answer_ids: list[int]
    family: Family
    max_length: int = Field(ge=1)
    instruction: str | None = None
    score: ScoreKind = "logit_difference"
    calibration: dict[str, float] | None = None
    base_model: str = ""
    recipe: dict[str, Any] | None = None
    data_fingerprint: str | None = None


class Reranker:
    """Scores and ranks documents for a query.

    Make one with `Reranker.from_pretrained`.

    Args:
        backbone: the model.
        tokenizer: turns pairs into token ids.
        settings: what `prorank.json` records.
    """

    def __init__(self, backbone: Backbone, tokenizer: PairTokenizer, settings: CheckpointSettings) -> None:
        self.backbone, self.tokenizer, self.settings = backbone, tokenizer, settings

    @classmethod
    def from_pretrained(
        cls,
        path_or_name: str | Path,
        *,
        prompt: str | Path | Prompt | None = None,
        max_length: int | None = None,
        instruction: str | None = None,
        score: ScoreKind = "logit_difference",
        family: Family | None = None,
        device: str = "auto",
        precision: Precision = "auto",
        for_training: bool = False,
        trust_remote_code: bool = False,
    ) -> Reranker:
        """Load a prorank checkpoint, or any causal or masked language model as a zero-shot reranker.

        Args:
            path_or_name: checkpoint folder, model folder, hub name, or `embedded`.
            prompt: built-in name, YAML file or `Prompt`; only for models that are no prorank checkpoint
                (default `prorank`).
            max_length: tokens of a pair, template included; default the checkpoint's, else 512.
            instruction: line for the prompt; default the checkpoint's.
            score, family: as for `prompt`: a checkpoint brings its own.
            device: `auto`, `cpu`, `cuda`, ...
            precision: `auto` (bf16 where fast), `fp32` or `bf16`.
            for_training: keep float32 weights.
            trust_remote_code: run the checkpoint's own Python code; off unless you say so.

        Raises:
            CheckpointError, PromptError: what does not fit, and how to mend it.
        """
        source = resolve_source(path_or_name)
        saved = _read_settings(source)
        if saved is not None and prompt is not None:
            raise CheckpointError(f"{path_or_name} brings its own prompt", hint="leave out `prompt`")
        backbone = load_backbone(
            source,
            family=saved.family if saved else family,
            device=device,
            precision=precision,
            for_training=for_training,
            trust_remote_code=trust_remote_code,
        )
        if saved is None:
            if backbone.tied_head:
                logger.warning(
                    "%s has no masked-language-model head: its word embeddings serve as the head.", path_or_name
                )
            chosen = prompt if isinstance(prompt, Prompt) else load_prompt(prompt or "prorank")
            saved = CheckpointSettings(
                prompt=chosen,
                frame=chat_frame(backbone.tokenizer, chosen, backbone.config.model_type),
                answer_ids=[],
                family=backbone.family,
                max_length=max_length or 512,
                instruction=instruction,
                score=score,
                base_model=str(path_or_name),
            )
        settings = saved.model_copy(
            update={
                "max_length": _fitting_length(max_length or saved.max_length, backbone),
                "instruction": instruction if instruction is not None else saved.instruction,
            }
        )
        tokenizer = PairTokenizer(
            backbone.tokenizer,
            settings.prompt,
            backbone.family,
            settings.frame,
            settings.max_length,
            settings.instruction,
        )
        if settings.answer_ids and settings.answer_ids != tokenizer.answer_ids:
            raise CheckpointError(
                f"{path_or_name}: the tokenizer's answer ids {tokenizer.answer_ids} are not those in "
                f"{SETTINGS_FILE}: {settings.answer_ids}",
                hint="the folder mixes files of two models",
            )
        return cls(backbone, tokenizer, settings.model_copy(update={"answer_ids": tokenizer.answer_ids}))

    def score_detailed(self, pairs: Sequence[tuple[str, Document]], progress: str | None = None) -> ScoredPairs:
        """Scores of pairs together with what was cut to fit.

        Args:
            pairs: (query, document); a document is a string or a mapping with `text` and maybe `title`.
            progress: text of a progress bar, or None.

        Raises:
            TypeError: a query or document of another type.
            ValueError: an empty query.
        """
        texts = [(_query_text(query), document_text(document)) for query, document in pairs]
        result = score_pairs(self.backbone, self.tokenizer, texts, kind=self.settings.score, progress=progress)
        if result.truncation.pairs:
            logger.warning(
                "%d of %d pairs were cut to %d tokens (longest text: %d tokens); the end of the document is not seen",
                result.truncation.pairs,
                len(texts),
                self.settings.max_length,
                result.truncation.longest,
            )
        return result

    def score(self, pairs: Sequence[tuple[str, Document]]) -> list[float]:
        """Ranking scores of (query, document) pairs: any real number, higher is more relevant.

        The score is a logit difference unless the checkpoint says otherwise; its sigmoid is the model's
        probability of "relevant". Over-long pairs are cut (document first) and reported by a warning.

        Args:
            pairs: (query, document); a document is a string or a mapping with `text` and maybe `title`.

        Returns:
            One score a pair, in order; an empty list for no pairs.

        Raises:
            TypeError: a query or document of another type.
            ValueError: an empty query.
        """
        return [float(score) for score in self.score_detailed(pairs).scores]

    def rank(
        self,
        query: str,
        documents: Sequence[Document],
        top_k: int | None = None,
        return_documents: bool = False,
    ) -> list[dict[str, Any]]:
        """Documents in order of relevance, as sentence-transformers' `CrossEncoder.rank` returns them.

        Args:
            query: a non-empty string.
            documents: strings, or mappings with `text` and maybe `title`.
            top_k: how many to return; None for all.
            return_documents: add each document under `text`.

        Returns:
            `[{"corpus_id": position in documents, "score": float, "text"?: document}]`, best first; ties keep
            the input order. Empty for no documents.

        Raises:
            TypeError: a query or document of another type, or a bare string as `documents`.
            ValueError: an empty query, or `top_k` below 1.
        """
        if isinstance(documents, (str, Mapping)):
            raise TypeError("documents must be a list of documents, not a single one")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        _query_text(query)
        documents = list(documents)
        scores = np.array(self.score([(query, document) for document in documents]))
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [
            {"corpus_id": int(i), "score": float(scores[i])} | ({"text": documents[i]} if return_documents else {})
            for i in order
        ]

    def save_pretrained(self, folder: str | Path, card: str | None = None) -> None:
        """Write the checkpoint: weights (safetensors), tokenizer, `prorank.json`, model card.

        Args:
            folder: where; made if absent, files of the same name are replaced.
            card: text of README.md; None writes a plain one.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.backbone.save(folder)
        with atomic_writer(folder / "README.md") as file:
            file.write(card or plain_card(self.settings))
        write_json(folder / SETTINGS_FILE, self.settings.model_dump(mode="json"))  # last: marks the folder whole

    def push_to_hub(self, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
        """Upload the checkpoint to the Hugging Face hub.

        Args:
            repo_id: `owner/name`.
            private: make the repository private if it is new.
            token: access token; None uses the one of `hf auth login`.

        Returns:
            Address of the commit.
        """
        import tempfile

        from huggingface_hub import HfApi

        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload reranker"))


def document_text(document: Document) -> str:
    """The text that the model reads: a string as it is, or title and text of a mapping joined as in BEIR.

    Raises:
        TypeError: neither a string nor a mapping with a string `text`.

    >>> document_text({"title": "Owls", "text": "They hunt at night."})
    'Owls They hunt at night.'
    """
    if isinstance(document, str):
        return document
    if isinstance(document, Mapping):
        title, text = document.get("title") or "", document.get("text")
        if isinstance(text, str) and isinstance(title, str):
            return f"{title} {text}".strip()
        raise TypeError(f"a document mapping needs a string under 'text', got keys {sorted(map(str, document))}")
    raise TypeError(f"a document must be a string or a mapping with 'text', got {type(document).__name__}")


def _query_text(query: object) -> str:
    if not isinstance(query, str):
        raise TypeError(f"a query must be a string, got {type(query).__name__}")
    if not query.strip():
        raise ValueError("the query is empty")
    return query


def _fitting_length(wanted: int, backbone: Backbone) -> int:
    """The wanted length, or the model's own limit where that is shorter (said aloud)."""
    limit = getattr(backbone.config, "max_position_embeddings", None)
    if limit and backbone.config.model_type in ("roberta", "xlm-roberta", "camembert"):
        limit -= backbone.config.pad_token_id + 1  # these count positions from behind the padding id
    if limit and wanted > limit:
        logger.warning("max_length %d is beyond the model's %d positions; using %d.", wanted, limit, limit)
        return int(limit)
    return wanted


def _read_settings(source: str) -> CheckpointSettings | None:
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


def describe(path_or_name: str | Path) -> dict[str, Any]:
    """What a checkpoint is, without loading its weights.

    Args:
        path_or_name: checkpoint folder, model folder, hub name, or `embedded`.

    Returns:
        Model type, size, family, prompt, answers, lengths, score, and where it came from.

    Raises:
        CheckpointError: no such model.
    """
    from safetensors import safe_open
    from transformers import AutoConfig

    source = resolve_source(path_or_name)
    settings = _read_settings(source)
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
        "prorank checkpoint": settings is not None,
    }
    if settings is not None:
        recipe = settings.recipe or {}
        description |= {
            "base model": settings.base_model,
            "prompt": settings.prompt.name,
            "answers": dict(zip(settings.prompt.answers, settings.answer_ids)),
            "score": settings.score,
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
    return (
        "---\nlibrary_name: prorank\npipeline_tag: text-ranking\ntags:\n- reranker\n- prorank\n---\n\n"
        "# Reranker\n\n"
        f"Fine-tuned from `{settings.base_model}` with prorank {settings.prorank_version}. The score of a pair is "
        f"`{settings.score}` over the answers {', '.join(settings.prompt.answers)} to the prompt "
        f"`{settings.prompt.name}`.\n\n"
        "```python\nfrom prorank import Reranker\n\n"
        'reranker = Reranker.from_pretrained("path/to/this/folder")\n'
        'reranker.rank("a query", ["a document", "another"])\n```\n'
    )
