"""A whole training run as a YAML file: its sections, defaults and limits, and the recipes that ship.

Start at `sections`; `loading` reads a file with its overrides. Names and numbers only; no torch.
"""
