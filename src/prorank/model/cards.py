"""The head of a model card: what it states of a model, and the one that prorank writes for a copy of that model."""

from __future__ import annotations

import re
from typing import Any

import yaml

from prorank.model.weights import file_of
from prorank.util.errors import DataError
from prorank.util.files import read_text

CARRIED = ("license", "license_name", "license_link", "language", "base_model")  # true of a model's copies too


def stated(source: str) -> dict[str, Any]:
    """What the head of a model's card states, as texts and lists of texts; empty where there is no card or no head.

    Args:
        source: folder or hub name; empty for a model that was not loaded.
    """
    card = file_of(source, "README.md") if source else None
    try:
        head = re.match(r"---\r?\n(.*?)\n---", read_text(card), re.DOTALL) if card is not None else None
        found = yaml.load(head[1], yaml.BaseLoader) if head else None  # `no` is Norwegian
    except (DataError, yaml.YAMLError):
        found = None
    return {key: value for key, value in found.items() if value not in ("", "null")} if isinstance(found, dict) else {}


def card_head(source: str) -> str:
    """The head of a card for a copy of a model, with the licence, languages and base model that its own card states.

    Args:
        source: as for `stated`.

    >>> print(card_head(""), end="")
    ---
    library_name: prorank
    pipeline_tag: text-ranking
    tags:
    - reranker
    - prorank
    ---
    <BLANKLINE>
    """
    carried = {key: value for key, value in stated(source).items() if key in CARRIED}
    head = {"library_name": "prorank", "pipeline_tag": "text-ranking", **carried, "tags": ["reranker", "prorank"]}
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n\n"
