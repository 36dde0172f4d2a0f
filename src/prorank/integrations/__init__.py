"""A reranker inside other people's frameworks: langchain, llamaindex, haystack, lancedb, pyterrier, mcp.

Start at `source`: where an integration's scores come from, a model here or a server (`remote`).
"""
