"""A recipe from data to report.

Start at `run`, which reads top-down; `stages` holds what each stage does.
"""
