"""A whole training run as a YAML file: its sections, defaults and limits, and the recipes that ship.

Names and numbers only; no torch.
"""
