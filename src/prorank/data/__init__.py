"""Collections, judgments and runs: reading, checking, splitting, converting, joining.

Start at `collection`; `bundled/` holds the collection that ships.
"""
