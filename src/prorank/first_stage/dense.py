"""A bi-encoder's similarities, as a first stage or over given lists. Knows texts and sentence-transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from prorank.data.collection import Collection
from prorank.data.runs import Run
from prorank.first_stage.bm25 import best_documents, most_excluded, without_excluded
from prorank.util.errors import CheckpointError, require
from prorank.util.sources import is_gguf

Role = Literal["query", "document"]


def biencoder_source(name: str) -> str:
    """A bi-encoder's folder or hub name; sentence-transformers' own go by their bare names too.

    Raises:
        CheckpointError: no such model.
    """
    from prorank.model.loading import resolve_source

    try:
        source = resolve_source(name)
        if is_gguf(source):
            raise CheckpointError(f"'{source}' is a GGUF file, which sentence-transformers does not read")
        return source
    except CheckpointError as error:
        if "/" in name:
            raise
        try:
            return resolve_source(f"sentence-transformers/{name}")
        except CheckpointError:
            raise error from None


def load_encoder(model: str, device: str = "auto") -> Any:
    """A sentence-transformers model by name or folder, or `embedded`.

    Raises:
        CheckpointError: no such model.
        MissingExtraError: sentence-transformers is not installed.
    """
    from prorank.model.device import resolve_device

    library = require("sentence_transformers", "train")
    return library.SentenceTransformer(biencoder_source(model), device=str(resolve_device(device)))


def encode_texts(
    model: Any,
    texts: Sequence[str],
    role: Role,
    batch_size: int = 64,
    progress: bool = True,
    device: str = "auto",
) -> np.ndarray:
    """Unit-length embeddings of texts, float32 (N, D).

    Args:
        model: sentence-transformers name or folder, `embedded`, or what `load_encoder` loaded.
        texts: what to embed.
        role: what they are; a model that says so in `config_sentence_transformers.json` reads each role after a prompt
            of its own, as E5 after `query: ` and `passage: `.
        batch_size: texts per batch.
        progress: show a bar.
        device: `auto`, `cpu`, `cuda`, ...

    Raises:
        CheckpointError: no such model.
        MissingExtraError: sentence-transformers is not installed.
    """
    import torch
    from rich.console import Console
    from rich.progress import track

    from prorank.model.device import fast_bf16, resolve_device

    where = resolve_device(device)
    encoder = load_encoder(model, device) if isinstance(model, str) else model
    encode = encoder.encode_query if role == "query" else encoder.encode_document
    # Longest first: texts of similar length share a batch. One call per batch, so that the bar is ours.
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    pieces: list[np.ndarray] = []
    starts = range(0, len(order), batch_size)
    with torch.autocast(where.type, dtype=torch.bfloat16, enabled=fast_bf16(where)):
        for start in track(
            starts, f"embed {len(texts)} texts", disable=not progress, transient=True, console=Console(stderr=True)
        ):
            rows = order[start : start + batch_size]
            pieces.append(encode([texts[i] for i in rows], batch_size=batch_size, show_progress_bar=False))
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
    device: str = "auto",
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
    query_vectors = encode_texts(model, [queries[q] for q in query_ids], "query", batch_size, progress, device)
    document_vectors = encode_texts(
        model, [documents[d] for d in document_ids], "document", batch_size, progress, device
    )
    row = {document: i for i, document in enumerate(document_ids)}
    return {
        query: {d: float(query_vectors[i] @ document_vectors[row[d]]) for d in wanted[query]}
        for i, query in enumerate(query_ids)
    }


def dense_run(
    model: str, collection: Collection, queries: Mapping[str, str], top_k: int = 100, batch_size: int = 64
) -> Run:
    """Exact nearest documents by cosine similarity of a sentence-transformers model, ties by document id.

    Documents that the collection excludes for a query are left out.

    Args:
        model: name, folder, or `embedded`.
        collection: its documents are searched.
        queries: id -> text.
        top_k: documents per query.
        batch_size: texts per batch.

    Raises:
        MissingExtraError: sentence-transformers is not installed.
    """
    if not queries:
        return {}
    ids = list(collection.documents)
    documents = encode_texts(model, [d.content for d in collection.documents.values()], "document", batch_size)
    vectors = encode_texts(model, list(queries.values()), "query", batch_size)
    depth = top_k + most_excluded(collection, queries)
    found = {query: best_documents(ids, documents @ vector, depth) for query, vector in zip(queries, vectors)}
    return without_excluded(found, collection, top_k)
