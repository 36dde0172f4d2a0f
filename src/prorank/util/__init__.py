"""Errors, files, provenance: small parts that everything else may use.

Start at `errors`, which every part raises; they know nothing of the rest of the package.
"""
