"""A server around an export answers with the export's scores, several callers at once."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from served import DOCUMENTS, QUERY, serving

from prorank import Reranker
from prorank.serving.limits import Limits
from prorank.serving.service import Service

pytest.importorskip("openvino", reason="OpenVINO is not installed (pip install 'prorank[export]')")


def test_an_openvino_export_is_served_with_its_own_scores(exported):
    graph = Reranker(exported / "openvino", precision="fp32")
    lists = [DOCUMENTS, DOCUMENTS[::-1], ["stone " * 60, "red"], DOCUMENTS[:1] * 40]
    expected = [graph.score([(QUERY, text) for text in texts]) for texts in lists]

    def scores(address, texts):
        body = {"text_1": QUERY, "text_2": texts, "raw_scores": True}
        found = httpx.post(f"{address}/score", json=body, timeout=60).json()
        return [item["score"] for item in found["data"]]

    service = Service(Reranker(exported / "openvino", precision="fp32"), "export", Limits(), 96)
    with serving(service) as address, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: scores(address, lists[i % len(lists)]), range(24)))
        card = httpx.get(f"{address}/v1/models").json()["data"][0]
    assert all(got == pytest.approx(expected[i % len(lists)], abs=1e-4) for i, got in enumerate(found))
    plain = Reranker(exported / "checkpoint", precision="fp32", device="cpu")
    assert expected[0] == pytest.approx(plain.score([(QUERY, text) for text in DOCUMENTS]), abs=1e-3)
    assert card["max_model_len"] == 64 and card["scores"] == "probability"
