"""The `prorank` command: it parses, calls and prints.

Start at `main`.
"""
