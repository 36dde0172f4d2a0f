"""The language model: loading, the answer slot, packed rows, LoRA, what a checkpoint says of itself.

Start at `backbone`; it knows nothing of prompts or training.
"""
