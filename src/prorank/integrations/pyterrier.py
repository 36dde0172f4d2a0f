"""PyTerrier: a transformer that scores a result frame's texts. It needs no Java; retrieval by Terrier does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prorank.integrations.source import TIMEOUT, source
from prorank.shipped import MINI
from prorank.util.errors import needs

with needs("pyterrier"):
    import pandas as pd
    import pyterrier as pt

if TYPE_CHECKING:
    from prorank.reranker import Reranker


class ProrankReranker(pt.Transformer):
    """Gives every row of a result frame a new `score` and `rank`: `retriever >> ProrankReranker()`.

    Args:
        model: a Reranker, or a name or folder as for `Reranker`; with `base_url`, the name that is sent along.
        text_field: column whose text is read (`pt.text.get_text` brings it).
        base_url, api_key, timeout: of a server that ranks instead, see `Remote`.

    Raises:
        ProrankError: the model cannot be loaded, or arguments that do not go together.
    """

    def __init__(
        self,
        model: str | Path | Reranker = MINI,
        *,
        text_field: str = "text",
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self.text_field = text_field
        self.source = source(model, base_url, api_key, timeout)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """The rows of each query in order of relevance, with calibrated probabilities under `score`.

        Args:
            inp: `qid`, `query`, `docno` and the texts' column; other columns are kept.

        Raises:
            pyterrier.validate.InputValidationError: a column is missing.
            ProrankError: an empty query, or a server that gives no ranking.
        """
        pt.validate.result_frame(inp, extra_columns=["query", self.text_field])
        scores = pd.Series(0.0, index=range(len(inp)))
        rows = inp.reset_index(drop=True)
        for _, group in rows.groupby("qid", sort=False):
            ranking = self.source.rank(group["query"].iloc[0], group[self.text_field].tolist())
            for place, score in ranking:
                scores[group.index[place]] = score
        return pt.model.add_ranks(rows.assign(score=scores))
