"""Tables of docs/slm.md from the metrics per query beside this file: one variant against another, seeds averaged.

python docs/results/slm/collect.py docs/results/slm/gpu > docs/results/slm/gpu.json
python docs/results/slm/collect.py docs/results/slm/gpu-longer two bm25 > docs/results/slm/gpu-longer-two-bm25.json
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


def main(folder: Path, variant: str = "two", base: str = "none") -> None:
    """Print one row per collection of both: means, intervals, paired difference, Holm's p over the collections."""
    rows = []
    for file in sorted((folder / f"{variant}-1").glob("*.tsv")):
        if not (folder / f"{base}-1" / file.name).is_file():
            continue
        ours, theirs = (over_seeds(folder, name, file.stem) for name in (variant, base))
        values = list(ours.values(METRIC).values())
        zero = folder / "zero-shot" / file.name
        rows.append(
            {
                "collection": file.stem,
                "queries": len(values),
                **({"zero_shot": mean(read_per_query(zero)[METRIC].values())} if zero.is_file() else {}),
                base: theirs.mean(METRIC),
                variant: ours.mean(METRIC),
                "interval": bootstrap_interval(values),
                **compare(ours, theirs, METRIC)._asdict(),
            }
        )
    for row, adjusted in zip(rows, holm([row["p_value"] for row in rows])):
        row["p_holm"] = adjusted
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
