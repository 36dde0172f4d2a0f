"""GGUF files: model, tokenizer and chat template from one file, as transformers decodes them.

A decoded model is an ordinary one and is saved as such. Decoding takes some seconds for every hundred thousand words
and every hundred million weights, so a line says that it is going on. Knows nothing of prompts or scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from rich.console import Console

from prorank.util.errors import require
from prorank.util.sources import is_gguf


def arguments(source: str) -> tuple[str, dict[str, str]]:
    """A source as transformers' `from_pretrained` takes it: a folder or hub name, and the GGUF file's name in it.

    Raises:
        MissingExtraError: it is a GGUF file, and a package that decoding needs is not installed.

    >>> arguments("owner/name")
    ('owner/name', {})
    """
    if not is_gguf(source):
        return source, {}
    for package in ("gguf", "accelerate"):
        require(package, "gguf")
    return str(Path(source).parent), {"gguf_file": Path(source).name}


@contextmanager
def _mended() -> Iterator[None]:
    """While transformers decodes: no bar of its own, which its settings do not reach, and the names' table made once.

    It asks for the same table anew at every module, which takes as long as everything else.
    """
    import gguf
    from transformers import modeling_gguf_pytorch_utils as decoder

    bar, table = decoder.tqdm, gguf.get_tensor_name_map
    decoder.tqdm, gguf.get_tensor_name_map = partial(bar, disable=True), cache(table)
    try:
        yield
    finally:
        decoder.tqdm, gguf.get_tensor_name_map = bar, table


def decode(auto: Any, config: Any, source: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A model with a GGUF file's weights, as if it had never been one, and transformers' report of what was loaded.

    Args:
        auto: transformers' class for the model's family.
        config: what the file says of the model.
        source: the file.
        options: of `from_pretrained`.
    """
    import transformers

    folder, named = arguments(source)
    # Newer versions keep 4-bit blocks where they have a kernel for them; these could neither be trained nor saved.
    whole = getattr(transformers, "GgufConfig", None)
    unpack = {} if whole is None else {"quantization_config": whole(dequantize=True)}
    words = f"decoding {named['gguf_file']}, half a minute or so; a saved checkpoint loads at once"
    with Console(stderr=True).status(words), _mended():
        model, report = auto.from_pretrained(
            folder,
            config=config,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **named,
            **unpack,
            **options,
        )
    for owner, mark in ((model, "hf_quantizer"), (model, "quantization_method"), (model.config, "quantization_config")):
        if mark in vars(owner):
            delattr(owner, mark)
    model.is_quantized = False
    return model, report


def facts(source: str) -> dict[str, Any]:
    """What a GGUF file says of itself: parameters, how they are stored, licence and languages.

    >>> facts("a-folder")
    {}
    """
    if not is_gguf(source):
        return {}
    arguments(source)
    from gguf import GGUFReader

    reader = GGUFReader(source)
    stored = Counter(tensor.tensor_type.name for tensor in reader.tensors)

    def said(key: str) -> Any:
        field = reader.get_field(key)
        return None if field is None else field.contents()

    return {
        "parameters": sum(int(tensor.n_elements) for tensor in reader.tensors),
        "stored as": [f"{kind} ({count} weights)" for kind, count in stored.most_common()],
        "licence": said("general.license"),
        "languages": said("general.languages"),
    }
