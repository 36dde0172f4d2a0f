"""A checkpoint as a low-rank difference from its base model: some megabytes in place of all weights.

A matrix of the base gets B A of rank R added to it, both in 8 bits by rows (`int8_rowwise`); a vector gets its
difference whole, and so do the answers' rows of the vocabulary matrix. The file names the base and holds a fingerprint
of its numbers, since added to other weights it would mean nothing. Knows tensors and this file; loads no model.
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
from prorank.model.weights import reading
from prorank.util.errors import CheckpointError

LOW_RANK_FILE = "model.low-rank.safetensors"
A, B, ROWS = "::a", "::b", "::rows"  # suffixes of a matrix's two factors, and of what its whole rows still lack
FACTS = "prorank"  # the key of the file's metadata
LOOKED_AT = 256  # numbers of each changed weight of the base that its fingerprint is made from


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


def base_fingerprint(weights: Mapping[str, torch.Tensor], names: Collection[str]) -> str:
    """Fingerprint of the first numbers of some weights, in float32."""
    found = hashlib.sha256()
    for name in sorted(names):
        found.update(name.encode())
        found.update(weights[name].detach().flatten()[:LOOKED_AT].float().cpu().numpy().tobytes())
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
        rank: of the products; 1 or more.
        vocabulary: names of the matrices that hold a row for each token.
        rows: of these matrices, that are kept whole: the answers'.

    Returns:
        Share of the matrices' change (sum of squares) that the products hold.

    Raises:
        CheckpointError: the weights are not those of such a model, or nothing differs.
    """
    if {k: v.shape for k, v in base.items()} != {k: v.shape for k, v in weights.items()}:
        raise CheckpointError(f"the checkpoint was not made from '{name}': its weights are others by name or shape")
    stored: dict[str, torch.Tensor] = {}
    whole = lost = 0.0
    changed = []
    for key, own in weights.items():
        difference = own.detach().float() - base[key].detach().float()
        if not difference.any():
            continue
        changed.append(key)
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
    if not changed:
        raise CheckpointError(f"the checkpoint has the weights of '{name}'", hint="there is no difference to write")
    facts = Facts(base=name, base_fingerprint=base_fingerprint(base, changed), rank=rank, rows=list(rows))
    save_int8_rowwise(stored, file, {FACTS: facts.model_dump_json()})
    return 1 - lost / whole if whole else 1.0


def read_facts(folder: str | Path) -> Facts | None:
    """What a folder's file says of itself; None where the folder has none.

    Raises:
        CheckpointError: the file is damaged.
    """
    file = Path(folder) / LOW_RANK_FILE
    if not file.is_file():
        return None
    with reading(file), safe_open(file, framework="pt") as tensors:
        return Facts.model_validate(json.loads((tensors.metadata() or {})[FACTS]))


def described(folder: str | Path) -> dict[str, Any]:
    """What `prorank info` tells of such a folder; empty for others."""
    facts = read_facts(folder)
    return {} if facts is None else {"added to": facts.base, "rank": facts.rank}


def add_low_rank(model: Any, folder: str | Path) -> None:
    """Add a folder's difference to its base's weights, in place; these are float32.

    Raises:
        CheckpointError: the file is damaged, or the model is not the one that it was made from.
    """
    file, facts = Path(folder) / LOW_RANK_FILE, read_facts(folder)
    assert facts is not None
    with reading(file):
        stored = load_int8_rowwise(file)
    weights = dict(model.named_parameters())
    names = {key.partition("::")[0] for key in stored}
    if not names <= weights.keys() or base_fingerprint(weights, names) != facts.base_fingerprint:
        raise CheckpointError(
            f"'{facts.base}' is not the model that {file} was made from: the scores would be others",
            hint="get the same version of it",
        )
    with torch.no_grad():
        for name in sorted(names):
            with reading(file):
                weights[name] += stored[name] if name in stored else stored[name + B].T @ stored[name + A]
                if (rest := stored.get(name + ROWS)) is not None:
                    weights[name][facts.rows] += rest
