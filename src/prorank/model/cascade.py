"""What a cascade is: numbers that a checkpoint may record. Knows no texts and no models."""

from __future__ import annotations

from itertools import pairwise

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Cascade(BaseModel):
    """How much is read of how many documents before the best are read in full (`prorank.engine.cascade`).

    Args:
        tokens: of a document that each pass reads, rising: its beginning, and where the query's tokens stand.
        shares: of a list that go on after each pass, falling, over 0 and under 1.
        at_least: documents of a list that are read in full, however small the last share.

    >>> Cascade(tokens=(32, 96), shares=(0.4, 0.15)).at_least
    10
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: tuple[int, ...] = Field(min_length=1)
    shares: tuple[float, ...]
    at_least: int = Field(10, ge=1, strict=True)

    @model_validator(mode="after")
    def _narrows(self) -> Cascade:
        if len(self.tokens) != len(self.shares):
            raise ValueError(f"{len(self.tokens)} passes with {len(self.shares)} shares: each pass has one")
        if self.tokens[0] < 1 or list(self.tokens) != sorted(set(self.tokens)):
            raise ValueError(f"tokens must be positive and rise from pass to pass, got {self.tokens}")
        bounds = (1.0, *self.shares, 0.0)
        if not all(before > after for before, after in pairwise(bounds)):
            raise ValueError(f"shares must lie between 0 and 1 and fall from pass to pass, got {self.shares}")
        return self
