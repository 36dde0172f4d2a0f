"""Measure a reranker on a collection: rerank the true first stage, make a row with intervals and a test.

Shared by training runs and the command line. Knows a reranker only by its `score_detailed`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prorank.data.collection import Collection
from prorank.data.runs import Qrels, Run, pairs_within, top, with_relevant
from prorank.evaluation.metrics import Evaluation
from prorank.evaluation.significance import bootstrap_interval, compare
from prorank.evaluation.streaming import Scorer, rerank_blocks
from prorank.first_stage.cached import cached_first_stage
from prorank.util.provenance import fingerprint

PRIMARY = "ndcg@10"
FEWEST = 10  # queries from which an interval can be taken for something


def sample_queries(qrels: Qrels, count: int | None = None, seed: int = 0) -> Qrels:
    """At most `count` queries with a relevant document, chosen by a hash of seed and id; order kept.

    >>> sample_queries({"a": {"d": 1}, "b": {"d": 0}})
    {'a': {'d': 1}}
    """
    measured = with_relevant(qrels)
    chosen = set(sorted(measured, key=lambda query: fingerprint(f"{seed}:{query}"))[:count])
    return {query: judged for query, judged in measured.items() if query in chosen}


def sampled_lists(
    collection: Collection, split: str, depth: int, max_queries: int | None, seed: int
) -> tuple[Qrels, Run]:
    """A sample of a split's judgments, and these queries' first-stage lists, or the split's own, cut to the depth."""
    qrels = sample_queries(collection.judgments(split), max_queries, seed)
    lists = cached_first_stage(collection, split, qrels, max(100, depth), split in collection.candidates)
    return qrels, top(lists, depth)


def carved_sentence(carved: Mapping[str, str]) -> str:
    """What to say of splits that prorank made itself; empty where there are none.

    >>> carved_sentence({"test": "4 of the 10 queries of train, seed 13"})
    'made splits, not comparable with published metrics: test is 4 of the 10 queries of train, seed 13'
    """
    parts = "; ".join(f"{split} is {text}" for split, text in carved.items())
    return f"made splits, not comparable with published metrics: {parts}" if carved else ""


def few_queries(count: int) -> str:
    """What to say of metrics over very few queries; empty where there are enough.

    >>> few_queries(3)
    '3 test queries: the intervals say nothing'
    """
    return "" if count >= FEWEST else f"{count} test quer{'y' if count == 1 else 'ies'}: the intervals say nothing"


def left_out_sentence(count: int) -> str:
    """What to say of judged queries that no metric counts; empty where there are none.

    >>> left_out_sentence(2)
    '2 judged queries without a relevant document: left out of the means'
    """
    which = f"{count} judged quer{'y' if count == 1 else 'ies'} without a relevant document"
    return f"{which}: left out of the means" if count else ""


def result_notes(queries: int, left_out: int, carved: Mapping[str, str]) -> list[str]:
    """What is to be said of metrics over so many queries.

    Args:
        queries: that are measured.
        left_out: judged queries without a relevant document.
        carved: splits that prorank made, see `carved_sentence`.
    """
    return [note for note in (few_queries(queries), left_out_sentence(left_out), carved_sentence(carved)) if note]


def rerank_collection(
    scorer: Scorer, collection: Collection, lists: Run, depth: int, progress: str | None = None
) -> Run:
    """First-stage lists with their first `depth` documents reordered by the scorer.

    Args:
        scorer: the reranker.
        collection: texts of queries and documents.
        lists: true first-stage run.
        depth: documents per query that are reranked.
        progress: text of a progress bar, or None.
    """
    total = pairs_within(lists.values(), depth)
    run: Run = {}
    for block in rerank_blocks(scorer, collection, lists.items(), depth, progress, total):
        run |= block
    return run


def row_of(stage: str, evaluation: Evaluation, baseline: Evaluation | None = None) -> dict[str, Any]:
    """One row of a report: means, 95 % intervals, and the paired test against the first stage.

    Args:
        stage: name of the row.
        evaluation: metrics of this stage.
        baseline: metrics of the first stage, or None for the first stage itself.
    """
    row: dict[str, Any] = {"stage": stage}
    for metric in evaluation.metrics:
        row[metric] = evaluation.mean(metric)
        row[f"{metric}_interval"] = list(bootstrap_interval(list(evaluation.per_query[metric].values())))
    if baseline is not None:
        comparison = compare(evaluation, baseline, PRIMARY)
        row["p_value"] = comparison.p_value
        row["difference"] = comparison.difference
        row["difference_interval"] = [comparison.low, comparison.high]
        row["wins_ties_losses"] = [comparison.wins, comparison.ties, comparison.losses]
    return row
