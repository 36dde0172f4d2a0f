"""Is my run better than BM25, or is it chance? Metrics with intervals and a paired test, from two TREC run files.

python evaluate_run.py COLLECTION BASELINE.run MINE.run
"""

import sys

from prorank.data.collection import load_collection
from prorank.data.trec import read_run
from prorank.evaluation.metrics import evaluate_run
from prorank.evaluation.significance import bootstrap_interval, compare


def report(collection: str, baseline: str, mine: str, metric: str = "ndcg@10") -> str:
    """Two lines of means with 95 % intervals, and one with the difference."""
    qrels = load_collection(collection).judgments("test")
    evaluations = {path: evaluate_run(read_run(path), qrels) for path in (baseline, mine)}
    lines = []
    for path, evaluation in evaluations.items():
        low, high = bootstrap_interval(list(evaluation.per_query[metric].values()))
        lines.append(f"{path}: {metric} {evaluation.mean(metric):.3f} [{low:.3f}, {high:.3f}]")
    test = compare(evaluations[mine], evaluations[baseline], metric)
    lines.append(f"difference {test.difference:+.3f} [{test.low:+.3f}, {test.high:+.3f}], p = {test.p_value:.4f}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(report(*sys.argv[1:4]))
