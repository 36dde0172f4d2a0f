"""p-MRR: how far documents move down when an instruction is changed so that they are no longer relevant.

Source: FollowIR, arXiv 2403.15246, section 3.3. Knows runs and judgments; query ids end in `-og` or `-changed`.
"""

from __future__ import annotations

from prorank.data.convert import CHANGED, ORIGINAL
from prorank.data.runs import Qrels, Run, ranked


def no_longer_relevant(qrels: Qrels) -> dict[str, list[str]]:
    """Query id without its ending -> documents that were relevant and are not after the change.

    >>> no_longer_relevant({"1-og": {"a": 1, "b": 1}, "1-changed": {"a": 1, "b": 0}})
    {'1': ['b']}
    """
    found = {}
    for query, judged in qrels.items():
        stem = query.removesuffix(ORIGINAL)
        if stem != query and stem + CHANGED in qrels:
            after = qrels[stem + CHANGED]
            found[stem] = [d for d, grade in judged.items() if grade > 0 and after.get(d, 0) <= 0]
    return {query: documents for query, documents in found.items() if documents}


def rank_change(before: int, after: int) -> float:
    """1 - MRR_after / MRR_before if the document fell, MRR_before / MRR_after - 1 if it rose; ranks from 1.

    Between -1 and 1, above 0 where it fell, as it should.

    >>> rank_change(1, 4), rank_change(4, 1), rank_change(2, 2)
    (0.75, -0.75, 0.0)
    """
    return 1 - before / after if after > before else after / before - 1


def p_mrr(run: Run, qrels: Qrels) -> dict[str, float]:
    """Mean rank change of each query's documents that lost their relevance; a document out of the list is behind it.

    The published number is 100 times the mean over queries.

    Args:
        run: scores of both versions of every query.
        qrels: judgments of both.

    >>> run = {"1-og": {"a": 2.0, "b": 1.0}, "1-changed": {"a": 1.0, "b": 2.0}}
    >>> p_mrr(run, {"1-og": {"a": 1}, "1-changed": {"a": 0}})
    {'1': 0.5}
    """

    def rank(query: str, document: str) -> int:
        order = [name for name, _ in ranked(run.get(query, {}))]
        return order.index(document) + 1 if document in order else len(order) + 1

    found = {}
    for query, documents in no_longer_relevant(qrels).items():
        changes = [rank_change(rank(query + ORIGINAL, d), rank(query + CHANGED, d)) for d in documents]
        found[query] = sum(changes) / len(changes)
    return found
