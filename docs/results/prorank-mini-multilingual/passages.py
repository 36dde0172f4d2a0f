"""Seconds that ranking 100 passages of 200 tokens takes, in torch and as an OpenVINO export.

prorank export prorank-mini-multilingual --to openvino --int8 --output runs/ov
python docs/results/prorank-mini-multilingual/passages.py prorank-mini-multilingual runs/ov
"""

import json
import sys
import time

import torch

from prorank import Reranker
from prorank.bench.quality import passage_texts
from prorank.util.provenance import hardware, versions

QUERY = "which owl hunts"


def seconds(model: str, precision: str) -> dict[str, object]:
    """Three timed rankings after one that does not count."""
    reranker = Reranker(model, precision=precision)
    texts = passage_texts(reranker.tokenizer.tokenizer, 100, 200)
    sequences, _ = reranker.tokenizer.encode([(QUERY, text) for text in texts])
    taken = []
    for _ in range(4):
        start = time.perf_counter()
        reranker.rank(QUERY, texts)
        taken.append(time.perf_counter() - start)
    tokens = sum(map(len, sequences)) / len(sequences)
    return {"model": model, "precision": precision, "tokens_of_a_pair": tokens, "seconds": sorted(taken[1:])}


if __name__ == "__main__":
    whole, exported = sys.argv[1:]
    rows = [seconds(whole, precision) for precision in ("auto", "fp32", "bf16")] + [seconds(exported, "auto")]
    about = {"threads": torch.get_num_threads(), "hardware": hardware(), "versions": versions()}
    print(json.dumps(about | {"rows": rows}, indent=1))
