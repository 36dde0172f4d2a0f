"""The words that ask a model for a verdict, and how a pair becomes token ids with an answer slot.

Start at `prompt`; `builtin` holds the published texts, `tokenization` the way to ids.
"""
