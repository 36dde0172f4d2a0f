"""What a reranker is worth: metrics, intervals, paired tests, calibration, tables and plots.

Start at `rerank`.
"""
