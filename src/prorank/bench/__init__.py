"""Measurements beside other libraries, one command each. Nothing here is imported by the product.

Start at `quality` or `inference`.
"""
