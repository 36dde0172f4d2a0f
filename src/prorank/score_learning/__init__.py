"""ProRank's stage 2, fine-grained score learning: the logit difference itself is trained (arXiv 2506.03487).

Start at `trainer`; `losses` holds the formulas.
"""
