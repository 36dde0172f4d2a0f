"""Is my run better than BM25, or is it chance? Metrics with intervals and a paired test, from two TREC run files.

python evaluate_run.py JUDGMENTS BASELINE.run MINE.run

JUDGMENTS are a collection, whose test split counts, or a file of TREC qrels.
"""

import sys
from pathlib import Path

from prorank.data.collection import load_collection
from prorank.data.trec import read_qrels, read_run
from prorank.evaluation.metrics import evaluate_run
from prorank.evaluation.significance import bootstrap_interval, compare


def report(judgments: str, baseline: str, mine: str, metric: str = "ndcg@10") -> str:
    """Two lines of means with 95 % intervals, and one with the difference."""
    qrels = read_qrels(judgments) if Path(judgments).is_file() else load_collection(judgments).judgments("test")
    evaluations = {path: evaluate_run(read_run(path), qrels) for path in (baseline, mine)}
    lines = []
    for path, evaluation in evaluations.items():
        low, high = bootstrap_interval(list(evaluation.per_query[metric].values()))
        lines.append(f"{path}: {metric} {evaluation.mean(metric):.3f} [{low:.3f}, {high:.3f}]")
    test = compare(evaluations[mine], evaluations[baseline], metric)
    lines.append(f"difference {test.difference:+.3f} [{test.low:+.3f}, {test.high:+.3f}], p = {test.p_value:.4f}")
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python evaluate_run.py JUDGMENTS BASELINE.run MINE.run")
    print(report(*sys.argv[1:]))
