"""The files of a model folder, read so that what is missing or damaged is named."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from safetensors import safe_open

from prorank.model import gguf_files
from prorank.model.int8_rowwise import INT8_ROWWISE_FILE, load_int8_rowwise
from prorank.util.errors import CheckpointError, ProrankError
from prorank.util.sources import is_gguf

MARK = "prorank_checkpoint"  # in config.json: without prorank.json these weights mean something else
WHOLE = "give a folder with config.json, model.safetensors and tokenizer, or a hub name when online"
AGAIN = "copy or download the folder again"
_UNHEARD = ("extra_forbidden", "literal_error")  # pydantic's names for a field or a word that is not known here

Described = TypeVar("Described", bound=BaseModel)


@contextmanager
def reading(what: str | Path, hint: str = AGAIN) -> Iterator[None]:
    """Whatever a library raises inside becomes a `CheckpointError` about `what`; lack of memory stays what it is."""
    try:
        yield
    except (ProrankError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if "trust_remote_code" in str(error):
            hint = "if you trust its authors: Reranker(..., trust_remote_code=True), prorank train --trust-remote-code"
        raise CheckpointError(f"cannot load '{what}': {reason(error)}", hint=hint) from error


def reason(error: BaseException) -> str:
    """What an error says, on one line and not longer than a line should be.

    >>> reason(ValueError("first\\nsecond")), reason(KeyError())
    ('first second', 'KeyError')
    """
    text = " ".join(str(error).split())
    if not text or not isinstance(error, (OSError, ValueError)):  # others speak to programmers: a bare key, a bare fact
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return text if len(text) <= 200 else f"{text[:200]} ..."


def validated(kind: type[Described], found: Any, file: Path) -> Described:
    """What a file says, checked.

    Raises:
        CheckpointError: a field is missing, unknown or not valid; the message names the first.
    """
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "as a whole"
        unheard = any(one["type"] in _UNHEARD for one in error.errors())
        hint = "was it made by a newer prorank?" if unheard else f"correct it, or copy {file.name} again"
        raise CheckpointError(f"{file}: {where}: {first['msg'].removeprefix('Value error, ')}", hint=hint) from error


def file_of(source: str, name: str) -> Path | None:
    """Where a file of a folder or of a hub's model lies on this machine; None where there is none."""
    if Path(source).is_dir():
        path = Path(source) / name
        return path if os.path.lexists(path) else None  # a broken link is no missing file
    if is_gguf(source):
        return None  # it holds everything itself
    from transformers.utils import cached_file

    try:
        found = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError):
        return None  # offline or no such model: loading the weights will say what is wrong
    return None if found is None else Path(found)


def load_weights(auto: Any, config: Any, source: str, name: str | Path, options: dict[str, Any]) -> Any:
    """A model of class `auto` with the weights of a folder or hub name; every weight is from there.

    Args:
        auto: transformers' class for the model's family.
        config: what its config.json says.
        source: folder, GGUF file or hub name.
        name: what the user called it.
        options: of `from_pretrained` and `from_config`.

    Raises:
        CheckpointError: a file is missing or damaged, or holds other weights than config.json describes.
    """
    eight_bit = file_of(source, INT8_ROWWISE_FILE)
    if eight_bit is not None:
        refuse_other_weights(eight_bit)
        with reading(eight_bit):
            stored = load_int8_rowwise(eight_bit)
        with reading(eight_bit.parent / "config.json"):
            model = auto.from_config(config, **options)
        missing, unexpected, shapes = _put(model, stored)
    elif is_gguf(source):
        with reading(source):
            model, report = gguf_files.decode(auto, config, source, options)
        missing, unexpected, shapes = _differences(report)
    else:
        try:
            with reading(_built_from(source, name), WHOLE):
                model, report = auto.from_pretrained(
                    source,
                    config=config,
                    use_safetensors=True,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,
                    **options,
                )
        except CheckpointError:
            _check_readable(Path(source))
            raise
        missing, unexpected, shapes = _differences(report)
    if shapes:
        raise CheckpointError(
            f"'{name}': {len(shapes)} weights of another shape than config.json says, {shapes[0]}",
            hint="the folder mixes files of two models, or config.json was changed",
        )
    if missing:
        raise CheckpointError(
            f"'{name}' lacks {len(missing)} weights, {missing[0]} for one; they would be random",
            hint=AGAIN if getattr(config, MARK, False) else "use a checkpoint with its language-model head",
        )
    if unexpected and getattr(config, MARK, False):  # other people's models may bring heads that are not needed
        raise CheckpointError(
            f"'{name}': config.json describes no place for {len(unexpected)} of its weights, {unexpected[0]} for one",
            hint="the folder mixes files of two models, or config.json was changed",
        )
    return model


def refuse_other_weights(file: Path) -> None:
    """Refuse a file of weights of one kind beside another kind's: which of them is meant?"""
    others = [other.name for other in sorted(file.parent.glob("*.safetensors")) if other.name != file.name]
    if others:
        raise CheckpointError(f"{file.parent} holds {file.name} and {others[0]}", hint="remove the one that is old")


def _differences(report: dict[str, Any]) -> tuple[list[str], list[str], list[str]]:
    """As `_put`, from transformers' report of what was loaded."""
    shapes = [f"{key}: {list(own)} stored, {list(want)} expected" for key, own, want in report["mismatched_keys"]]
    return sorted(report["missing_keys"]), sorted(report["unexpected_keys"]), shapes


def _built_from(source: str, name: str | Path) -> str | Path:
    """What to blame when a model cannot be built: its description, where the weights are there."""
    folder = Path(source)
    return folder / "config.json" if any(folder.glob("*.safetensors")) else name


def _put(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> tuple[list[str], list[str], list[str]]:
    """Put weights into a model; names that got none, that have no place, and what differs in shape."""
    own = dict(model.named_parameters())
    shapes = [
        f"{key}: {list(weights[key].shape)} stored, {list(own[key].shape)} expected"
        for key in sorted(own.keys() & weights.keys())
        if own[key].shape != weights[key].shape
    ]
    if not shapes:
        model.load_state_dict(weights, strict=False)
        model.tie_weights()  # type: ignore[operator]
    return sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys()), shapes


def _check_readable(folder: Path) -> None:
    """Open every file of weights; the first that cannot be read is named."""
    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        with reading(file), safe_open(file, framework="pt") as tensors:
            list(tensors.keys())


def load_tokenizer(source: str | Path, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a folder, GGUF file or hub name.

    Raises:
        CheckpointError: it is missing or damaged, or knows no words.
    """
    from transformers import AutoTokenizer

    folder = Path(source)
    own = folder / "tokenizer.json"
    what = own if own.is_file() else f"{folder} (its tokenizer)" if folder.exists() else source
    place, gguf = gguf_files.arguments(str(source))
    with reading(what, AGAIN if folder.exists() else WHOLE):
        tokenizer = AutoTokenizer.from_pretrained(place, **gguf, trust_remote_code=trust_remote_code)
        words = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    if not words:  # what transformers makes up where the vocabulary is missing
        raise CheckpointError(f"the tokenizer of '{source}' knows no words", hint="is tokenizer.json missing?")
    return tokenizer


def check_vocabulary(tokenizer: Any, rows: int, name: str | Path) -> None:
    """Refuse a tokenizer with more words than the model has embeddings.

    Raises:
        CheckpointError: it is another model's.
    """
    words: Iterable[int] = tokenizer.get_vocab().values()
    added = set(tokenizer.added_tokens_decoder)  # some models leave these without a row, and never use them
    largest = max((word for word in words if word not in added), default=0)
    if largest >= rows:
        raise CheckpointError(
            f"'{name}': the tokenizer's words go up to number {largest}, the model has {rows}",
            hint="the folder mixes files of two models",
        )
