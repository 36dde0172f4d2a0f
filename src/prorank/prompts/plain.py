"""Users' texts -> tokens, in one way for all who read or count them.

Markers such as `<|im_end|>` or `[MASK]` inside a text are ordinary characters. This module knows fast tokenizers and
texts; nothing of prompts or models.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from prorank.util.errors import PromptError


class PlainTokenizer:
    """A private copy of a tokenizer, set once and never changed afterwards: any number of threads may use it.

    Args:
        tokenizer: a fast Hugging Face tokenizer; it stays as it is.

    Raises:
        PromptError: a slow tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise PromptError("prorank needs a fast tokenizer", hint="save the tokenizer with tokenizer.json")
        self.__setstate__({"_backend": copy.deepcopy(tokenizer.backend_tokenizer)})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._backend = state["_backend"]
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True  # which copies and pickles of a backend do not keep

    def encodings(self, texts: Sequence[str]) -> list[Any]:
        """`tokenizers.Encoding` of each text: ids, and the characters that each token stands for."""
        return self._backend.encode_batch(list(texts), add_special_tokens=False) if texts else []

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        return [encoding.ids for encoding in self.encodings(texts)]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """First character of each token, and the one behind its last."""
        return list(self.encodings([text])[0].offsets)

    def first_tokens(self, text: str, count: int) -> str:
        """The characters that a text's first tokens stand for, at least one of them."""
        if len(text.encode()) <= count:  # no token is shorter than a byte
            return text
        offsets = self.offsets(text)
        return text if len(offsets) <= count else text[: offsets[count - 1][1]]
