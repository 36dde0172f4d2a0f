"""The files that checkpoints and exports consist of, by name."""

from __future__ import annotations

from pathlib import Path

from prorank.util.errors import CheckpointError
from prorank.util.files import refuse_folder_overwrite
from prorank.util.own_files import PARTS, refuse_foreign

_WEIGHTS = "model*.safetensors model*.safetensors.index.json model.onnx* openvino_model.xml openvino_model.bin"
_TOKENIZER = (
    "tokenizer*.json special_tokens_map.json added_tokens.json chat_template.jinja vocab.json vocab.txt merges.txt "
    "tokenizer.model spiece.model sentencepiece*.model spm.model"
)
_SENTENCE_TRANSFORMERS = (
    "modules.json sentence_bert_config.json config_sentence_transformers.json 1_LogitScore/config.json"
)
_MODEL_CODE = "configuration_*.py modeling_*.py tokenization_*.py"  # copied from a model that brings its own
_SETTINGS = ("prorank.json", "config.json")
SAVED_FILES = (
    *_SETTINGS,
    "generation_config.json",
    "README.md",
    *f"{_WEIGHTS} {_TOKENIZER} {_SENTENCE_TRANSFORMERS} {_MODEL_CODE}".split(),
    *PARTS,
)


def refuse_model_overwrite(folder: Path, force: bool) -> None:
    """Raise unless a model can be written to a folder: a free one, or with `force` an earlier checkpoint or export.

    Raises:
        ProrankError: the folder is taken, or holds files that no model of prorank has; those are named.
        CheckpointError: it is no checkpoint or export.
    """
    refuse_folder_overwrite(folder, force)
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not any((folder / name).is_file() for name in _SETTINGS):
        raise CheckpointError(
            f"{folder} is no checkpoint or export", hint="--force replaces only those: choose another output"
        )
    refuse_foreign(folder, SAVED_FILES, "a checkpoint or export")
