"""Pairs to scores, fast: budgets, shared prefixes, formulas, reasoning, passages, exported runtimes.

Start at `scorer`; it knows nothing of training, collections or evaluation.
"""
