"""A server that speaks the rerank APIs of Cohere, Jina, text-embeddings-inference and vLLM.

Start at `app`; whose documents the model reads next is decided in `batching`.
"""
