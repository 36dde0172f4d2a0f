"""Published rerankers, known by name: which prompt their weights were trained with, and how long a pair may be.

Knows names and model types; the prompts themselves stand in `prorank.prompts.builtin`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from prorank.util.errors import CheckpointError


class Published(NamedTuple):
    """How a published checkpoint wants its pairs."""

    prompt: str
    model_type: str
    max_length: int
    tokens: tuple[str, ...]  # the tokenizer must know these


_CHAT = ("<|im_start|>", "<|im_end|>")
PUBLISHED = {
    # Mixedbread, Apache-2.0: the checkpoints of the ProRank paper's authors
    "mixedbread-ai/mxbai-rerank-base-v2": Published("prorank", "qwen2", 8_192, (*_CHAT, "0", "1")),
    "mixedbread-ai/mxbai-rerank-large-v2": Published("prorank", "qwen2", 8_192, (*_CHAT, "0", "1")),
    # Qwen, Apache-2.0
    "Qwen/Qwen3-Reranker-0.6B": Published("qwen3-reranker", "qwen3", 8_192, (*_CHAT, "no", "yes")),
    "Qwen/Qwen3-Reranker-4B": Published("qwen3-reranker", "qwen3", 8_192, (*_CHAT, "no", "yes")),
    "Qwen/Qwen3-Reranker-8B": Published("qwen3-reranker", "qwen3", 8_192, (*_CHAT, "no", "yes")),
    # Alibaba-NLP, Apache-2.0: ERank, 2,048 tokens each of query and document
    "Alibaba-NLP/ERank-4B": Published("erank-think", "qwen3", 4_352, (*_CHAT, *"0123456789")),
    "Alibaba-NLP/ERank-14B": Published("erank-think", "qwen3", 4_352, (*_CHAT, *"0123456789")),
    "Alibaba-NLP/ERank-32B": Published("erank-think", "qwen3", 4_352, (*_CHAT, *"0123456789")),
}


def recognise(name_or_path: str, config: Any, tokenizer: Any) -> Published | None:
    """The published checkpoint that a hub name, or a folder with the same last part, stands for.

    Args:
        name_or_path: as the user gave it.
        config, tokenizer: what was loaded from there.

    Returns:
        How it wants its pairs, or None for any other model.

    Raises:
        CheckpointError: the name is a published one, but config or tokenizer are another model's.
    """
    name = str(name_or_path).replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].lower()
    for full, published in PUBLISHED.items():
        if full.rsplit("/", 1)[-1].lower() != name:
            continue
        vocabulary = tokenizer.get_vocab()
        lacking = [token for token in published.tokens if token not in vocabulary]
        if config.model_type != published.model_type or lacking:
            found = f"tokens {lacking} are missing" if lacking else f"it is a {config.model_type} model"
            raise CheckpointError(
                f"'{name_or_path}' has the name of {full}, but {found}",
                hint="rename the folder, or give the prompt that its weights were trained with",
            )
        return published
    return None
