"""Teacher scores for distillation: cosine similarity of a sentence-transformers bi-encoder.

Knows texts and ids; knows nothing of the student or its training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prorank.collection import Run
from prorank.retrieval import encode_texts


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
