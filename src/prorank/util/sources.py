"""Where a name leads: to a folder on this machine, or to a repository of the Hugging Face hub.

A mistyped path is told at once and never looked for on the hub; the hub is asked once, for seconds. Knows nothing of
what the folders hold beyond the names of their files.
"""

from __future__ import annotations

import difflib
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Literal

from prorank.util.errors import CheckpointError, DataError, ProrankError

ASK_SECONDS = 5.0  # what the hub may take to answer
TOO_MANY_REQUESTS = 429
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)
_FILE_SUFFIXES = frozenset(
    ".bin .csv .gguf .gz .json .jsonl .md .ndjson .onnx .pt .run .safetensors .trec .tsv .txt .xml .yaml .zip".split()
)
_MODEL_FILES = ("config.json", "prorank.json", "modules.json")
GGUF = ".gguf"
Kind = Literal["model", "dataset"]
_ERRORS: dict[Kind, type[ProrankError]] = {"model": CheckpointError, "dataset": DataError}


def expanded(name: str | Path) -> Path:
    """The path that a name spells, `~` expanded."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # ~nobody
        return Path(name)


def is_path(name: str) -> bool:
    """Whether a name that is no folder here can only be a mistyped path: the hub has no such names.

    A name with one slash is one where the folder before the slash stands here.

    >>> is_path("./model"), is_path("a/b/c"), is_path("owner/model.safetensors"), is_path("owner/name-2.5")
    (True, True, True, False)
    """
    path = expanded(name)
    return (
        _HUB_NAME.fullmatch(name) is None
        or path.suffix.lower() in _FILE_SUFFIXES
        or ("/" in name and os.path.isdir(path.parent))
    )


def did_you_mean(path: Path) -> str:
    """A hint: the neighbour whose name is nearest, or the first missing folder of the path; empty for a bare name."""
    if not os.path.isdir(path.parent):
        absent = next((p for p in reversed(path.parents) if not os.path.isdir(p)), path.parent)
        return f"there is no {absent} either"
    try:
        neighbours = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, neighbours, n=1)
    if near:
        return f"did you mean {path.parent / near[0]}?"
    return "" if path.parent == Path() else f"{path.parent} is a folder here, so the hub is not asked"


def is_gguf(source: str | Path) -> bool:
    """Whether a model's source is a GGUF file here.

    >>> is_gguf("owner/name"), is_gguf("absent.gguf")
    (False, False)
    """
    path = Path(source)
    return path.suffix.lower() == GGUF and path.is_file()


def _gguf_in(folder: Path) -> Path | None:
    """The GGUF file of a folder whose weights lie in no other form.

    Raises:
        CheckpointError: there are several.
    """
    files = sorted(filter(is_gguf, folder.iterdir()))
    others = any((folder / file).is_file() for file in _MODEL_FILES[1:]) or any(folder.glob("*.safetensors"))
    if others or not files:
        return None
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise CheckpointError(f"'{folder}' holds {len(files)} GGUF files: {names}", hint=f"give one: {files[0]}")
    return files[0]


def find_model(name: str) -> str:
    """The folder or GGUF file of a model, or its name where the hub has it.

    Args:
        name: a folder, a GGUF file, a folder that holds one, or a hub name.

    Raises:
        CheckpointError: a mistyped path, another file, a folder without a model, or nothing that the hub has.
    """
    path = expanded(name)
    if not name.strip():
        raise CheckpointError("the model's name is empty", hint="give a folder, a hub name or prorank-mini")
    if os.path.isdir(path):
        if (file := _gguf_in(path)) is not None:
            return str(file)
        _check_folder(path)
        return str(path)
    if is_gguf(path):
        return str(path)
    if os.path.isfile(path):
        folder = path.parent
        shape = "a model is a folder with config.json and weights, or a GGUF file"
        hint = f"did you mean {folder}?" if _holds_model(folder) else shape
        raise CheckpointError(f"cannot load '{name}': this is a file, not a folder", hint=hint)
    if is_path(name) and not _downloaded(name):
        raise CheckpointError(f"cannot load '{name}': no model at that path, no such folder", hint=did_you_mean(path))
    return on_hub(name, "model")


def _holds_model(folder: Path) -> bool:
    return any((folder / file).is_file() for file in _MODEL_FILES)


def _check_folder(folder: Path) -> None:
    """Refuse a folder without a model; a run's folder is told from its checkpoint."""
    if _holds_model(folder):
        return
    inside = sorted(p.parent for p in folder.glob("*/config.json"))
    best = folder / "checkpoint"
    if inside:
        hint = f"did you mean {best if best in inside else inside[0]}?"
    elif (folder / "recipe.yaml").is_file():
        hint = "a run that has no checkpoint yet; `prorank train` with --resume resumes it"
    else:
        hint = "a model's folder has config.json, model.safetensors and tokenizer files"
    raise CheckpointError(f"cannot load '{folder}': the folder has no config.json", hint=hint)


def _downloaded(name: str, kind: Kind = "model") -> str | None:
    """The folder of an earlier download from the hub."""
    if not _HUB_NAME.fullmatch(name):
        return None
    from huggingface_hub import snapshot_download

    try:
        return str(snapshot_download(name, repo_type=kind, local_files_only=True))
    except (OSError, ValueError):
        return None


@lru_cache
def on_hub(name: str, kind: Kind) -> str:
    """A name that the hub has; the folder of an earlier download where the hub cannot be asked. Asks once.

    Args:
        name: `owner/name`, or an old model's bare name.
        kind: `model` or `dataset`.

    Raises:
        CheckpointError, DataError: no such repository, or no answer and nothing downloaded before.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        HfApi().repo_info(name, repo_type=kind, timeout=ASK_SECONDS)
        return name
    except Exception as error:  # each HTTP library has its own errors of connection, and they share no base
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
        if status in (401, 404):
            what = f"cannot load '{name}': no such folder here, and no such {kind} on the hub"
            raise _ERRORS[kind](what, hint="check the name; private ones need `hf auth login`") from error
        if 400 <= status < 500 and status != TOO_MANY_REQUESTS:
            return name  # the hub has it: fetching the files will say what is wrong
        if (found := _downloaded(name, kind)) is not None:
            return found if kind == "model" else name  # `datasets` finds its own downloads by name
        off = isinstance(error, OfflineModeIsEnabled)
        if off and kind == "dataset":
            return name  # its own copies, made without the hub's cache, count too; without one it fails at once
        why = f"answers with status {status}" if status else "cannot be reached"
        why = "is switched off by HF_HUB_OFFLINE" if off else why
        what = f"cannot load '{name}': no such folder here, and the hub {why}"
        raise _ERRORS[kind](what, hint="check the name" if off else "check the name and the network") from error
