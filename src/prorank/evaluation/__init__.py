"""Evaluation: metrics, reranking of the true first stage, significance, hybrids, reports."""
