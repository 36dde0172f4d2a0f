"""A checkpoint as a low-rank difference from its base model: some megabytes in place of all weights.

A matrix of the base gets B A of rank R added to it, both in 8 bits by rows (`int8_rowwise`); a vector gets its
difference whole, and so do the answers' rows of the vocabulary matrix. The file names the base and holds a fingerprint
of all of its weights, since added to others it would mean nothing. Knows tensors and this file; loads no model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import safe_open

from prorank.model.int8_rowwise import load_int8_rowwise, save_int8_rowwise
from prorank.model.weights import file_of, reading, refuse_other_weights, validated
from prorank.util.errors import CheckpointError

LOW_RANK_FILE = "model.low-rank.safetensors"
A, B, ROWS = "::a", "::b", "::rows"  # suffixes of a matrix's two factors, and of what its whole rows still lack
FORMS = ({""}, {A, B}, {A, B, ROWS})  # what a weight's difference may consist of; "" is a vector's own
FACTS = "prorank"  # the key of the file's metadata


class Facts(BaseModel):
    """What the file says of itself."""

    model_config = ConfigDict(extra="forbid")

    base: str = Field(description="folder or name of the model that the difference is added to")
    base_fingerprint: str
    rank: int = Field(ge=1)
    rows: list[int] = Field(description="of the vocabulary matrices, kept whole")


def factors(difference: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest matrix of a rank as a product B A (Eckart & Young 1936), each factor with half of the size.

    Args:
        difference: (O, I).
        rank: R.

    Returns:
        B (O, R) and A (R, I); R is at most the smaller side.

    >>> b, a = factors(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), 1)
    >>> [[round(abs(x), 4) for x in row] for row in (b @ a).tolist()]
    [[3.0, 0.0], [0.0, 0.0]]
    """
    left, sizes, right = torch.linalg.svd(difference.float(), full_matrices=False)
    root = sizes[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]


def base_fingerprint(weights: Mapping[str, torch.Tensor]) -> str:
    """Fingerprint of all weights of a model, in float32; a second or so for a gigabyte."""
    found = hashlib.sha256()
    for name in sorted(weights):
        found.update(f"{name} {list(weights[name].shape)}".encode())
        found.update(weights[name].detach().float().cpu().contiguous().numpy().data)
    return found.hexdigest()


def save_low_rank(
    base: Mapping[str, torch.Tensor],
    weights: Mapping[str, torch.Tensor],
    file: Path,
    *,
    name: str,
    rank: int,
    vocabulary: Collection[str],
    rows: Sequence[int],
) -> float:
    """Write what weights are more than a base's.

    Args:
        base, weights: by name, of the same shapes.
        file: to write.
        name: of the base, by which it will be loaded.
        rank: of the products; 1 or more, and at most the smaller side of the largest matrix counts.
        vocabulary: names of the matrices that hold a row for each token.
        rows: of these matrices, that are kept whole: the answers'.

    Returns:
        Share of the matrices' change (sum of squares) that the products hold.

    Raises:
        CheckpointError: the weights are not those of such a model, are not finite, or nothing differs.
    """
    if {k: v.shape for k, v in base.items()} != {k: v.shape for k, v in weights.items()}:
        raise CheckpointError(f"the checkpoint was not made from '{name}': its weights are others by name or shape")
    stored: dict[str, torch.Tensor] = {}
    whole = lost = 0.0
    rank = min(rank, max((min(weight.shape) for weight in weights.values() if weight.ndim == 2), default=rank))
    for key, own in weights.items():
        difference = own.detach().float() - base[key].detach().float()
        if not difference.isfinite().all():
            raise CheckpointError(f"{key} holds numbers that are not finite", hint="the checkpoint is damaged")
        if not difference.any():
            continue
        if difference.ndim == 1:
            stored[key] = difference
            continue
        if difference.ndim != 2:
            raise CheckpointError(f"{key} has {difference.ndim} dimensions; a low-rank difference is of matrices")
        left, right = factors(difference, rank)
        stored[key + B], stored[key + A] = left.T, right
        rest = difference - left @ right
        whole, lost = whole + float(difference.square().sum()), lost + float(rest.square().sum())
        if key in vocabulary:
            stored[key + ROWS] = rest[list(rows)]
    if not stored:
        raise CheckpointError(f"the checkpoint has the weights of '{name}'", hint="there is no difference to write")
    facts = Facts(base=name, base_fingerprint=base_fingerprint(base), rank=rank, rows=list(rows))
    save_int8_rowwise(stored, file, {FACTS: facts.model_dump_json()})
    return 1 - lost / whole if whole else 1.0


def read_facts(source: str) -> tuple[Path, Facts] | None:
    """A model's file of this kind and what it says of itself; None where the model has none.

    Args:
        source: folder or hub name.

    Raises:
        CheckpointError: the file is damaged.
    """
    file = file_of(source, LOW_RANK_FILE)
    if file is None:
        return None
    refuse_other_weights(file)
    with reading(file), safe_open(file, framework="pt") as tensors:
        said = json.loads((tensors.metadata() or {})[FACTS])
    return file, validated(Facts, said, file)


def described(source: str) -> dict[str, Any]:
    """What `prorank info` tells of such a model; empty for others."""
    found = read_facts(source)
    return {} if found is None else {"parameters": None, "added to": found[1].base, "rank": found[1].rank}


def add_low_rank(model: Any, file: Path, facts: Facts) -> None:
    """Add a file's difference to its base's weights, in place; these are float32.

    Raises:
        CheckpointError: the file is damaged, or the model is not the one that it was made from.
    """
    weights = dict(model.named_parameters())
    if base_fingerprint(weights) != facts.base_fingerprint:
        raise CheckpointError(
            f"'{facts.base}' is not the model that {file} was made from: the scores would be others",
            hint="get the same version of it",
        )
    with reading(file):
        stored = load_int8_rowwise(file)
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in stored.items():
        name, mark, suffix = key.partition("::")
        parts.setdefault(name, {})[mark + suffix] = tensor
    with torch.no_grad(), reading(file):
        for name, own in parts.items():
            if set(own) not in FORMS:
                raise ValueError(f"{name} is not whole")
            added = own[""] if "" in own else own[B].T @ own[A]
            if ROWS in own:
                added[facts.rows] += own[ROWS]
            if added.shape != weights[name].shape:
                raise ValueError(f"{name} has the shape {list(added.shape)}, not {list(weights[name].shape)}")
            weights[name] += added
