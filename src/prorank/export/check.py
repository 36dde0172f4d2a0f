"""Whether an export gives the checkpoint's own scores. Knows a reranker's public face."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prorank.model.cards import card_head
from prorank.reranker import Reranker
from prorank.util.errors import CheckpointError
from prorank.util.files import atomic_writer

TOLERANCE = 1e-3  # largest difference of scores that an fp32 export may show
LOSSY_TOLERANCE = 0.1  # where weights lose digits, as a share of the scores' spread (or of 1, if larger)
PROBES = [
    ("what is a stone?", "A stone is a piece of rock.\n\nIt is hard."),
    ("river", ""),
    ("käse 🧀", "Der Käse kommt aus der Schweiz. " * 12),
    ("what is a stone?", "Rivers flow."),
]


def expected_scores(reranker: Reranker) -> np.ndarray:
    """The checkpoint's own scores of the probe pairs."""
    sequences, _ = reranker.tokenizer.encode(PROBES)  # whole, also where the model reads by passages
    return reranker.score_sequences(sequences)[0].numpy()


def compare_scores(found: np.ndarray, expected: np.ndarray, runtime: str) -> None:
    """Refuse an export whose scores are further from the checkpoint's than `TOLERANCE` (CheckpointError)."""
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE:  # also when it is not a number
        raise CheckpointError(f"{runtime} gives scores that differ by {difference:.2g}", hint="the export is not kept")


def save_without_weights(reranker: Reranker, folder: Path) -> None:
    """A checkpoint's folder, whose weights another file will hold."""
    reranker.save_pretrained(folder)
    for file in folder.glob("model*.safetensors*"):
        file.unlink()


def as_it_was(reranker: Reranker, folder: Path, what: str, hint: str) -> None:
    """Refuse a folder that lost digits where its scores are further off than `LOSSY_TOLERANCE` (CheckpointError)."""
    again = Reranker.from_pretrained(folder, precision="fp32", device="cpu")
    compare_spread(expected_scores(again), expected_scores(reranker), what, hint)


def compare_spread(found: np.ndarray, expected: np.ndarray, what: str, hint: str) -> None:
    """Refuse scores that are further off than `LOSSY_TOLERANCE` of their spread (CheckpointError)."""
    largest, spread = float(np.abs(found - expected).max()), max(float(np.ptp(expected)), 1.0)
    if not largest <= LOSSY_TOLERANCE * spread:  # also when it is not a number
        raise CheckpointError(f"{what} gives scores that differ by {largest:.2g} of {spread:.2g}", hint=hint)


def causal_only(reranker: Reranker, what: str) -> None:
    """Refuse to export what is no causal language model (CheckpointError)."""
    if reranker.settings.family != "causal":
        raise CheckpointError(
            f"{what} reads a model's last token; this one answers at its mask token", hint="export to onnx or openvino"
        )
    if reranker.settings.score != "logit_difference":
        raise CheckpointError(f"{what} knows no '{reranker.settings.score}' scores", hint="export to onnx or openvino")


def export_card(reranker: Reranker, folder: Path, what: str) -> None:
    """Write the model card of an export, with what the card of the model that was loaded states."""
    prompt = reranker.pair_tokenizer.prompt
    with atomic_writer(folder / "README.md") as file:
        file.write(
            f"{card_head(str(reranker.backbone.config._name_or_path))}"
            f"# Exported reranker\n\n{what}. Made from `{reranker.settings.base_model}`; the answers of the prompt "
            f"`{prompt.name}` are {', '.join(prompt.answers)}, worst to best, and the score is "
            f"`{reranker.settings.score}`.\n"
        )
