"""Checkpoints for other libraries and runtimes.

Start at `export`; every export is read back and compared before it is kept.
"""
