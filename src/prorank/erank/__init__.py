"""ERank (arXiv 2509.00520): integer grades by supervised learning, then GRPO with listwise rewards.

Start at `synthesis` for the data, `sft` and `listwise` for the stages, `rewards` for the formulas.
"""
