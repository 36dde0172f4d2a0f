"""A prorank checkpoint as a cross-encoder of MTEB: `mteb.evaluate(MTEBReranker("prorank-mini"), tasks)`.

MTEB brings tasks, first-stage lists and metrics; this gives scores of its pairs. Knows MTEB's cross-encoder protocol
and the reranker's public face.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prorank.reranker import Reranker, model_facts
from prorank.shipped import MINI
from prorank.util.errors import InputError, needs
from prorank.util.provenance import fingerprint
from prorank.util.version import VERSION

with needs("mteb"):
    from mteb.models import ModelMeta

if TYPE_CHECKING:
    import numpy as np


def revision_of(reranker: Reranker, model: str) -> str:
    """A word for everything that a reranker's scores depend on: MTEB reuses results of the same name and revision."""
    return f"{VERSION}-{fingerprint(json.dumps(model_facts(reranker, model), sort_keys=True))[:16]}"


class MTEBReranker:
    """Scores MTEB's pairs.

    Args:
        model_name: name or folder, as for `Reranker`.
        revision: of MTEB's protocol; only None and the model's own (`mteb_model_meta.revision`) are taken.
        device: `cpu`, `cuda`, ...; None chooses.
        options: further ones of `Reranker`, such as `max_length`.

    Attributes:
        reranker: the model.
        mteb_model_meta: what MTEB writes beside its results. It keeps these by name and revision, so the revision says
            which files, settings and version of prorank scored.

    Raises:
        InputError: another revision.
        CheckpointError, PromptError: the model cannot be loaded.
    """

    def __init__(
        self, model_name: str = MINI, revision: str | None = None, device: str | None = None, **options: Any
    ) -> None:
        self.reranker = Reranker(model_name, device=device or "auto", **options)
        own = revision_of(self.reranker, model_name)
        if revision not in (None, own):
            raise InputError(f"there is no revision '{revision}' here", hint="give the model's folder instead")
        name = "prorank/" + Path(model_name).name
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={"name": name, "revision": own, "loader": MTEBReranker, "model_type": ["cross-encoder"]}
        )

    def predict(self, inputs1: Iterable[dict[str, Any]], inputs2: Iterable[dict[str, Any]], **_: Any) -> np.ndarray:
        """Scores of pairs.

        All pairs are scored in one call, so that a query's documents share its prefix and lengths are sorted.

        Args:
            inputs1: batches with the queries under `text`, an instruction included where a task has one; those of one
                `id` make a list, or of one text where there is no `id`.
            inputs2: batches with the documents, as long.

        Returns:
            (N,) float32.

        Raises:
            InputError: not as many queries as documents, or an empty query.
        """
        asked = list(inputs1)
        queries, documents = ([text for batch in inputs for text in batch["text"]] for inputs in (asked, inputs2))
        if len(queries) != len(documents):
            raise InputError(f"{len(queries)} queries for {len(documents)} documents")
        names = [name for batch in asked for name in batch.get("id", batch["text"])]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        lists = [numbers[name] for name in names]
        found = self.reranker.score_detailed(list(zip(queries, documents)), "score pairs", lists)
        self.reranker.warn(found)
        return found.scores
