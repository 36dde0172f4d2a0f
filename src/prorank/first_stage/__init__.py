"""The first stage that a reranker works on: terms, BM25, bi-encoders, fusion, negatives.

Start at `bm25`.
"""
