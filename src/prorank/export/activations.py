"""8-bit activations for OpenVINO: pairs of a collection show how large they get. Knows graphs, collections and pairs.

With 8-bit weights alone a processor still multiplies in floats; with both factors in 8 bits VNNI and AMX do twice as
much. A model that reads other texts than the pairs' may leave the ranges that they show: take pairs like those to come.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prorank.data.collection import Collection
from prorank.util.errors import DataError, InputError, require
from prorank.util.inputs import checked_pairs, pair_texts

PAIRS, FEWEST = 200, 40  # wanted of a collection, and enough to show ranges and to compare on the rest
HELD_OUT = 4  # one in so many pairs shows no range: scores are compared on it


def calibration_pairs(found: Collection, seed: int = 13) -> list[tuple[str, str]]:
    """At most `PAIRS` pairs: training queries with a relevant document and one at random, in turn.

    Args:
        found: a collection with a train split (`prorank.data.splits`).
        seed: of the queries and documents drawn.

    Raises:
        DataError: no training query has a relevant document.
    """
    draw = random.Random(seed)
    asked = {
        query: relevant
        for query, judged in found.judgments("train").items()
        if (relevant := [document for document, grade in judged.items() if grade > 0])
    }
    if not asked:
        raise DataError(f"{found.name}: no training query has a relevant document", hint="name another collection")
    documents, pairs = list(found.documents), []
    for query in draw.sample(sorted(asked), min(len(asked), PAIRS // 2)):
        for document in (draw.choice(asked[query]), draw.choice(documents)):
            pairs.append((found.queries[query], found.documents[document].content))
    return pairs


def checked_calibration(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs that can show ranges.

    Raises:
        InputError, InputTypeError: fewer than `FEWEST`, or not (query, document) of texts.
    """
    texts = pair_texts(checked_pairs(pairs))
    if len(texts) < FEWEST:
        raise InputError(
            f"{len(texts)} calibration pairs are too few to show how large activations get",
            hint=f"give {FEWEST} or more, like those to come",
        )
    return texts


def quantized(file: Path, sequences: Sequence[Sequence[int]]) -> Any:
    """An OpenVINO graph with weights and activations in 8 bits, ranges as the sequences show them.

    Args:
        file: the graph, `.xml`.
        sequences: token ids of pairs.
    """
    openvino, nncf = require("openvino", "export"), require("nncf", "export")
    examples = [
        {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), dtype=np.int64)} for ids in sequences
    ]
    return nncf.quantize(
        openvino.Core().read_model(str(file)),
        nncf.Dataset(examples),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(examples),
    )
