"""Teacher scores for distillation: cosine similarity of a sentence-transformers bi-encoder.

Knows texts and ids; knows nothing of the student or its training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from rich.progress import track

from prorank.backbone import fast_bf16, resolve_device, resolve_source
from prorank.collection import Run
from prorank.errors import require


def encode_texts(model: str, texts: Sequence[str], batch_size: int = 64, progress: bool = True) -> np.ndarray:
    """Unit-length embeddings of texts, float32 (N, D).

    Args:
        model: sentence-transformers name or folder, or `embedded`.
        texts: what to embed.
        batch_size: texts a batch.
        progress: show a bar.

    Raises:
        MissingExtraError: sentence-transformers is not installed.
    """
    library = require("sentence_transformers", "train")
    device = resolve_device()
    encoder = library.SentenceTransformer(resolve_source(model), device=str(device))
    # Longest first: texts of similar length share a batch. One call a batch, so that the bar is ours.
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    pieces: list[np.ndarray] = []
    starts = range(0, len(order), batch_size)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=fast_bf16(device)):
        for start in track(starts, f"embed {len(texts)} texts", disable=not progress, transient=True):
            rows = order[start : start + batch_size]
            pieces.append(encoder.encode([texts[i] for i in rows], batch_size=batch_size, show_progress_bar=False))
    vectors = np.empty((len(texts), pieces[0].shape[1]), dtype=np.float32)
    vectors[order] = np.concatenate(pieces)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)


def biencoder_scores(
    model: str,
    queries: Mapping[str, str],
    documents: Mapping[str, str],
    wanted: Mapping[str, Sequence[str]],
    batch_size: int = 64,
    progress: bool = True,
) -> Run:
    """Cosine similarity of each query with the documents wanted for it; every text is embedded once.

    Args:
        model: sentence-transformers name or folder, or `embedded`.
        queries: query id -> text.
        documents: document id -> text.
        wanted: query id -> document ids.

    Returns:
        Run with scores in [-1, 1].
    """
    query_ids = list(wanted)
    document_ids = list(dict.fromkeys(document for ids in wanted.values() for document in ids))
    query_vectors = encode_texts(model, [queries[q] for q in query_ids], batch_size, progress)
    document_vectors = encode_texts(model, [documents[d] for d in document_ids], batch_size, progress)
    row = {document: i for i, document in enumerate(document_ids)}
    return {
        query: {d: float(query_vectors[i] @ document_vectors[row[d]]) for d in wanted[query]}
        for i, query in enumerate(query_ids)
    }
