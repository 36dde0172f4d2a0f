"""Names that many modules share: families, precisions, score kinds. Knows words only; imports no torch."""

from __future__ import annotations

from typing import Literal

Family = Literal["causal", "masked", "classifier"]  # the last: other people's cross-encoders
Precision = Literal["auto", "fp32", "bf16"]
ScoreKind = Literal["logit_difference", "expected_grade", "graded_confidence", "argmax_grade"]
Aggregation = Literal["max", "mean", "first"]
Passages = Literal["max", "mean", "first", "excerpt"]  # how a document that does not fit is read
Language = Literal["en", "zh", "ja", "th", "other"]
Scale = Literal["std", "mean", "none"]
