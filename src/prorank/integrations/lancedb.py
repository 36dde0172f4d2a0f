"""LanceDB: a reranker for vector, full-text and hybrid searches of a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prorank.integrations.source import TIMEOUT, source
from prorank.shipped import MINI
from prorank.util.errors import InputError, needs

with needs("lancedb"):
    import pyarrow as pa
    from lancedb.rerankers import Reranker as LanceReranker

if TYPE_CHECKING:
    from prorank.reranker import Reranker

SCORE, DISTANCE, MATCH = "_relevance_score", "_distance", "_score"


class ProrankReranker(LanceReranker):
    """Results in order of relevance, with calibrated probabilities under `_relevance_score`.

    A row without text is read as an empty one.

    Args:
        model: a Reranker, or a name or folder as for `Reranker`; with `base_url`, the name that is sent along.
        column: of the table, whose text is read.
        top_n: how many results to keep; None keeps all.
        return_score: `relevance`, or `all` to keep the searches' own scores too.
        base_url, api_key, timeout: of a server that ranks instead, see `Remote`.

    Raises:
        ProrankError: the model cannot be loaded, or arguments that do not go together.
    """

    def __init__(
        self,
        model: str | Path | Reranker = MINI,
        *,
        column: str = "text",
        top_n: int | None = None,
        return_score: str = "relevance",
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        super().__init__(return_score)
        self.column, self.top_n = column, top_n
        self.source = source(model, base_url, api_key, timeout)

    def rerank_hybrid(self, query: str, vector_results: pa.Table, fts_results: pa.Table) -> pa.Table:
        """What either search found, each row once.

        Raises:
            ProrankError: no such column, an empty query, or a server that gives no ranking.
        """
        merge = self._merge_and_keep_scores if self.score == "all" else self.merge_results
        return self._ranked(query, merge(vector_results, fts_results))

    def rerank_vector(self, query: str, vector_results: pa.Table) -> pa.Table:
        """What a vector search found, see `rerank_hybrid`."""
        return self._ranked(query, vector_results)

    def rerank_fts(self, query: str, fts_results: pa.Table) -> pa.Table:
        """What a full-text search found, see `rerank_hybrid`."""
        return self._ranked(query, fts_results)

    def _ranked(self, query: str, found: pa.Table) -> pa.Table:
        if self.column not in found.column_names:
            raise InputError(
                f"the results have no column '{self.column}', but {', '.join(found.column_names)}",
                hint="name the texts' column by column=, and do not leave it out by select()",
            )
        ranking = self.source.rank(query, [text or "" for text in found[self.column].to_pylist()], self.top_n)
        ranked = found.take(pa.array([place for place, _ in ranking], type=pa.int64()))
        ranked = ranked.append_column(SCORE, pa.array([score for _, score in ranking], type=pa.float32()))
        others = {DISTANCE, MATCH} & set(ranked.column_names) if self.score == "relevance" else set()
        return ranked.drop_columns(sorted(others))
