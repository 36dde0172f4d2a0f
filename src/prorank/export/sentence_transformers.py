"""A causal checkpoint for sentence-transformers' CrossEncoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from prorank.export.check import PROBES, causal_only, compare_scores, expected_scores
from prorank.reranker import Reranker
from prorank.util.errors import CheckpointError, require


def to_sentence_transformers(reranker: Reranker, folder: Path) -> None:
    """A causal checkpoint is such a folder already; read it with that library and compare."""
    library = require("sentence_transformers", "train")
    causal_only(reranker, "sentence-transformers' LogitScore")
    reranker.save_pretrained(folder)
    if not (folder / "modules.json").is_file():  # said as a warning when saving
        raise CheckpointError(
            "sentence-transformers would tokenise this prompt otherwise", hint="export to onnx or openvino instead"
        )
    theirs = library.CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    found = theirs.predict(PROBES, show_progress_bar=False)
    compare_scores(np.asarray(found), expected_scores(reranker), "sentence-transformers")
