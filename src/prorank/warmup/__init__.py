"""ProRank's stage 1, prompt warmup: GRPO teaches the answer set and the verdict (arXiv 2506.03487).

Start at `trainer`; `grpo` and `rewards` hold the formulas.
"""
