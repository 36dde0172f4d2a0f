"""Tables of docs/slm.md from the metrics per query beside this file: both stages against score learning alone.

python docs/results/slm/collect.py docs/results/slm/gpu > docs/results/slm/gpu.json
"""

import json
import sys
from pathlib import Path
from statistics import mean

from prorank.evaluation.metrics import Evaluation, read_per_query
from prorank.evaluation.significance import bootstrap_interval, compare, holm

METRIC = "ndcg@10"


def over_seeds(folder: Path, variant: str, collection: str) -> Evaluation:
    """Each query's mean over the variant's seeds."""
    found = [read_per_query(file)[METRIC] for file in sorted(folder.glob(f"{variant}-*/{collection}.tsv"))]
    return Evaluation((METRIC,), {METRIC: {query: mean(one[query] for one in found) for query in found[0]}})


def main(folder: Path) -> None:
    """Print one row a collection: means, intervals, and the paired difference with Holm's p over the collections."""
    rows = []
    for file in sorted((folder / "two-1").glob("*.tsv")):
        both, alone = (over_seeds(folder, variant, file.stem) for variant in ("two", "none"))
        zero = read_per_query(folder / "zero-shot" / file.name)[METRIC]
        values = list(both.values(METRIC).values())
        rows.append(
            {
                "collection": file.stem,
                "queries": len(values),
                "zero_shot": mean(zero.values()),
                "without_warmup": alone.mean(METRIC),
                "with_warmup": both.mean(METRIC),
                "interval": bootstrap_interval(values),
                **compare(both, alone, METRIC)._asdict(),
            }
        )
    for row, adjusted in zip(rows, holm([row["p_value"] for row in rows])):
        row["p_holm"] = adjusted
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
