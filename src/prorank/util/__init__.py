"""Errors, files, provenance: small parts that everything else may use.

They know nothing of the rest of the package.
"""
