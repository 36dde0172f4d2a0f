"""Rerankers of every kind behind one face, so that they can be measured on the same lists.

A system's name says what it is: `bi-encoder:NAME`, `cross-encoder:NAME` (both by sentence-transformers), `yes-no:NAME`
(a causal language model that is asked for yes or no), the address of a server that speaks Cohere's `/v2/rerank`
(`https://api.cohere.com#rerank-v3.5`), or a model as `Reranker` takes it. BM25 is what they all rerank. Knows libraries
and names; nothing of collections.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from prorank.engine.load import RerankerOptions
from prorank.engine.scorer import ScoredPairs, query_numbers
from prorank.evaluation.streaming import Scorer
from prorank.first_stage.dense import Role, biencoder_source, encode_texts, load_encoder
from prorank.model.device import resolve_device
from prorank.model.loading import resolve_source
from prorank.prompts.truncation import Truncation
from prorank.reranker import Reranker
from prorank.shipped import MINI
from prorank.util.addresses import is_loopback
from prorank.util.errors import InputError, require
from prorank.util.study import model_fingerprint

if TYPE_CHECKING:
    from prorank.integrations.remote import Remote

logger = logging.getLogger(__name__)
KEY_VARIABLE = "RERANK_API_KEY"  # environment variable that holds the key of a server that is compared
Texts = Sequence[tuple[str, str]]
Scores = Callable[[Texts, Sequence[int]], Sequence[float]]  # pairs, number of each one's list -> scores
ROLES: tuple[Role, ...] = ("query", "document")  # of a pair's texts, for a bi-encoder


class PairScorer:
    """A `Scorer` made of a function from (query, text) pairs to scores. What the library cuts, it does not say."""

    whole_lists = False

    def __init__(self, scores: Scores) -> None:
        self._scores = scores

    def score_detailed(
        self, pairs: Sequence[tuple[str, Any]], progress: str | None = None, lists: Sequence[int] | None = None
    ) -> ScoredPairs:
        """See `Scorer`."""
        scores = self._scores(pairs, query_numbers(pairs) if lists is None else lists)
        return ScoredPairs(np.asarray(scores, dtype=np.float32), Truncation(0, 0), 0, len(pairs))

    def warn(self, found: ScoredPairs) -> None:
        """See `Scorer`; nothing is known."""


class Timed:
    """A `Scorer` that notes how many pairs it scored and how long that took.

    Attributes:
        seconds, pairs: so far.
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer, self.seconds, self.pairs, self.whole_lists = scorer, 0.0, 0, scorer.whole_lists

    def score_detailed(
        self, pairs: Sequence[tuple[str, Any]], progress: str | None = None, lists: Sequence[int] | None = None
    ) -> ScoredPairs:
        """See `Scorer`."""
        start = time.perf_counter()
        found = self._scorer.score_detailed(pairs, progress, lists)
        self.seconds += time.perf_counter() - start
        self.pairs += len(pairs)
        return found

    def warn(self, found: ScoredPairs) -> None:
        """See `Scorer`."""
        self._scorer.warn(found)


def kind_of(name: str) -> tuple[str, str]:
    """(kind, rest) of a system's name.

    >>> kind_of("bi-encoder:embedded"), kind_of("http://127.0.0.1:8000"), kind_of("owner/name")
    (('bi-encoder', 'embedded'), ('server', 'http://127.0.0.1:8000'), ('reranker', 'owner/name'))
    """
    kind, colon, rest = name.partition(":")
    if name.startswith(("http://", "https://")):
        return "server", name
    return (kind, rest) if colon and kind in OPENERS else ("reranker", name)


def system_files(name: str) -> dict[str, str]:
    """Fingerprint of the files of a system that lies on this machine; empty for servers and the hub's names.

    Raises:
        CheckpointError: no such model.
    """
    kind, rest = kind_of(name)
    if kind == "server":
        return {}
    found = model_fingerprint(biencoder_source(rest) if kind == "bi-encoder" else resolve_source(rest))
    return {f"the model {rest}": found} if found else {}


def check_systems(names: Sequence[str], options: RerankerOptions) -> None:
    """Say before anything is measured what will not go: addresses, a key that two hosts would get, options in vain.

    Raises:
        InputError: no such address, or one key for servers of several hosts.
    """
    hosts = set()
    for name in names:
        kind, rest = kind_of(name)
        if kind == "server":
            remote = _remote(rest)
            if remote.api_key and not is_loopback(remote.base_url):
                hosts.add(urlsplit(remote.base_url).netloc)
        told = [key for key, value in options.items() if value not in (None, "auto", False) and key not in TAKES[kind]]
        if told:
            logger.warning("%s: %s has no effect on a system of this kind", name, ", ".join(told))
    if len(hosts) > 1:
        hint = "measure each alone into the same --output, then all together without a key: what is done is read back"
        raise InputError(f"{KEY_VARIABLE} would be sent to {' and '.join(sorted(hosts))}", hint=hint)


def open_system(name: str, options: RerankerOptions) -> Scorer:
    """Load a system.

    Args:
        name: see the module.
        options: of `Reranker`; other kinds take the device only.

    Raises:
        ProrankError: it cannot be loaded.
        MissingExtraError: the package that it needs is not installed.
    """
    kind, rest = kind_of(name)
    return OPENERS[kind](rest, options)


def _bi_encoder(name: str, options: RerankerOptions) -> Scorer:
    """Cosine similarity; every text is embedded once."""
    known: dict[tuple[Role, str], np.ndarray] = {}
    device = options.get("device", "auto")
    encoder = load_encoder(name, device)

    def scores(pairs: Texts, _: Sequence[int]) -> list[float]:
        for place, role in enumerate(ROLES):
            new = [text for text in dict.fromkeys(pair[place] for pair in pairs) if (role, text) not in known]
            if new:
                vectors = encode_texts(encoder, new, role, progress=False, device=device)
                known.update(((role, text), vector) for text, vector in zip(new, vectors))
        return [float(known["query", query] @ known["document", text]) for query, text in pairs]

    return PairScorer(scores)


def _cross_encoder(name: str, options: RerankerOptions) -> Scorer:
    """Any model that sentence-transformers' CrossEncoder loads; its logits, not their sigmoid, which ties high ones."""
    library = require("sentence_transformers", "train")
    device = str(resolve_device(options.get("device", "auto")))
    model = library.CrossEncoder(resolve_source(name), max_length=options.get("max_length"), device=device)
    if model.num_labels != 1:
        raise InputError(f"cross-encoder:{name} gives {model.num_labels} numbers for a pair, not one score")
    return logits_of(model)


def logits_of(model: Any) -> PairScorer:
    """A `Scorer` of a sentence-transformers CrossEncoder's logits."""
    identity = require("torch", None).nn.Identity()
    return PairScorer(lambda pairs, _: model.predict(list(pairs), activation_fn=identity, show_progress_bar=False))


def _yes_no(name: str, options: RerankerOptions) -> Scorer:
    asked: RerankerOptions = {**options, "prompt": "yesno"}
    return Reranker.from_pretrained(name, **asked)


def _remote(address: str) -> Remote:
    """The client of a server; the model's name stands behind `#`, the key in the environment."""
    from prorank.integrations.remote import Remote

    url, _, model = address.partition("#")
    return Remote(url, model or MINI, os.environ.get(KEY_VARIABLE))


def _server(address: str, options: RerankerOptions) -> Scorer:
    """One request for each list."""
    remote = _remote(address)

    def scores(pairs: Texts, lists: Sequence[int]) -> list[float]:
        found: list[float] = []
        for _, places in groupby(range(len(pairs)), key=lambda place: lists[place]):
            own = [pairs[place] for place in places]
            query, texts = own[0][0], [text for _, text in own]
            placed = {ranked.place: ranked.score for ranked in remote.rank(query, texts)}
            found += [placed[place] for place in range(len(texts))]
        return found

    return PairScorer(scores)


def _reranker(name: str, options: RerankerOptions) -> Scorer:
    return Reranker.from_pretrained(name, **options)


OPENERS: dict[str, Callable[[str, RerankerOptions], Scorer]] = {
    "bi-encoder": _bi_encoder,
    "cross-encoder": _cross_encoder,
    "yes-no": _yes_no,
    "server": _server,
    "reranker": _reranker,
}

# Options that each kind heeds.
TAKES: dict[str, Collection[str]] = {
    "bi-encoder": ("device",),
    "cross-encoder": ("device", "max_length"),
    "yes-no": RerankerOptions.__annotations__.keys() - {"prompt"},
    "server": (),
    "reranker": RerankerOptions.__annotations__.keys(),
}


def folder_names(systems: Sequence[str]) -> dict[str, str]:
    """System -> a name for its folder.

    Raises:
        InputError: a system is given twice, or two differ in signs only that no folder can hold.

    >>> folder_names(["prorank-mini", "bi-encoder:embedded"])
    {'prorank-mini': 'prorank-mini', 'bi-encoder:embedded': 'bi-encoder-embedded'}
    """
    found: dict[str, str] = {}
    for system in systems:
        base = str(Path(system)) if kind_of(system)[0] == "reranker" else system
        folder = "".join(c if c.isalnum() or c in "._" else "-" for c in base).strip("-.") or "model"
        if folder in found.values():
            raise InputError(f"{system}: given twice, or its name is too like another's", hint="rename a folder")
        found[system] = folder
    return found
