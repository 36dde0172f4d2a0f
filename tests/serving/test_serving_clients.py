"""Other people's clients, with nothing but the address changed, against a real server; and many callers at once."""

import ast
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from pages import ROOT, blocks
from served import DOCUMENTS, QUERY, serving, tiny_service

from prorank import Reranker

KEY = "s3cret"
PAGE = ROOT / "docs" / "serving.md"


@pytest.fixture(scope="module")
def reranker(bert_folder):
    return Reranker(bert_folder, max_length=96, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def address(bert_folder):
    with serving(tiny_service(bert_folder, max_queue=1_000), key=KEY) as address:
        yield address


@pytest.fixture(scope="module")
def order(reranker):
    return [result["corpus_id"] for result in reranker.rank(QUERY, DOCUMENTS)]


@pytest.fixture(scope="module")
def probabilities(reranker):
    return reranker.probability(reranker.score([(QUERY, document) for document in DOCUMENTS]))


def test_cohere_v1(address, order, probabilities):
    import cohere

    client = cohere.Client(KEY, base_url=address)
    found = client.rerank(model="rerank-v3.5", query=QUERY, documents=DOCUMENTS, top_n=3, return_documents=True)
    assert [result.index for result in found.results] == order[:3]
    assert [result.document.text for result in found.results] == [DOCUMENTS[i] for i in order[:3]]
    assert [result.relevance_score for result in found.results] == pytest.approx([probabilities[i] for i in order[:3]])
    objects = client.rerank(query=QUERY, documents=[{"text": text} for text in DOCUMENTS], rank_fields=["text"])
    assert [result.index for result in objects.results] == order and objects.meta.billed_units.search_units == 1


def test_cohere_v2_and_its_errors(address, order):
    import cohere

    client = cohere.ClientV2(KEY, base_url=address)
    found = client.rerank(model="rerank-v3.5", query=QUERY, documents=DOCUMENTS, max_tokens_per_doc=4096)
    assert [result.index for result in found.results] == order and found.meta.api_version.version == "2"
    with pytest.raises(cohere.BadRequestError, match="query"):
        client.rerank(model="rerank-v3.5", query="", documents=DOCUMENTS)
    with pytest.raises(cohere.UnauthorizedError):
        cohere.ClientV2("wrong", base_url=address).rerank(model="m", query=QUERY, documents=DOCUMENTS)


def test_langchain_cohere(address, order):
    from langchain_cohere import CohereRerank
    from langchain_core.documents import Document

    compressor = CohereRerank(cohere_api_key=KEY, base_url=address, model="rerank-v3.5", top_n=2)
    found = compressor.compress_documents([Document(page_content=text) for text in DOCUMENTS], QUERY)
    assert [document.page_content for document in found] == [DOCUMENTS[i] for i in order[:2]]
    assert 0 < found[0].metadata["relevance_score"] < 1


def test_openai_client_as_for_vllm(address, order, probabilities):
    import openai

    client = openai.OpenAI(api_key=KEY, base_url=f"{address}/v1")
    (card,) = client.models.list().data
    assert card.id == "tiny"
    found = client.post("/rerank", body={"model": card.id, "query": QUERY, "documents": DOCUMENTS}, cast_to=object)
    assert [result["index"] for result in found["results"]] == order
    scores = client.post("/score", body={"model": card.id, "text_1": QUERY, "text_2": DOCUMENTS}, cast_to=object)
    assert [item["score"] for item in scores["data"]] == pytest.approx(probabilities)
    with pytest.raises(openai.BadRequestError, match="two sides"):
        client.post("/score", body={"text_1": QUERY}, cast_to=object)


class TestPage:
    """docs/serving.md as it stands, but for the address."""

    @pytest.fixture(scope="class")
    def open_address(self, bert_folder):
        with serving(tiny_service(bert_folder)) as address:
            yield address

    @pytest.mark.parametrize("code", blocks(PAGE, "python"), ids=lambda code: code.split()[1])
    def test_its_python_ranks_both_documents(self, code, open_address):
        from langchain_core.documents import Document

        assert "http://127.0.0.1:8000" in code
        *statements, last = ast.parse(code.replace("http://127.0.0.1:8000", open_address)).body
        names = {}
        exec("\n".join(map(ast.unparse, statements)), names)
        value = eval(ast.unparse(last), names)
        if hasattr(value, "compress_documents"):
            value = value.compress_documents([Document(text) for text in DOCUMENTS[:2]], QUERY)
        assert len(value["results"] if isinstance(value, dict) else value) == 2

    def test_its_curl_calls_are_answered(self, open_address):
        calls = [shlex.split(call) for text in blocks(PAGE, "bash") for call in text.split("\n\n") if "curl " in call]
        assert len(calls) == 4
        for _, url, option, header, data, body in calls:
            assert (option, header, data) == ("-H", "Content-Type: application/json", "-d")
            address = url.replace("http://127.0.0.1:8000", open_address)
            answer = httpx.post(address, content=body, headers={"Content-Type": "application/json"}, timeout=30)
            assert answer.status_code == 200 and "score" in answer.text, url


def test_mixed_callers_at_once_get_the_scores_of_direct_calls(address, reranker):
    words = "red blue green stone river tree water the of".split()

    def ask(number):
        query = f"{words[number % 9]} {words[number % 7]}"
        documents = [" ".join(words[(number * j + i) % 9] for i in range(j % 11 + 1)) for j in range(number % 13 + 1)]
        path, texts = [("/rerank", "texts"), ("/v1/rerank", "documents"), ("/v2/rerank", "documents")][number % 3]
        body = {"query": query, texts: documents, "raw_scores": True}
        found = client.post(path, json=body).raise_for_status().json()
        ranks = found if isinstance(found, list) else found["results"]
        return [(query, document) for document in documents], {
            rank["index"]: rank.get("score", rank.get("relevance_score")) for rank in ranks
        }

    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=address, headers=headers, timeout=60) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(64)))
    for pairs, scores in answers:
        direct = reranker.score(pairs)
        assert [scores[i] for i in range(len(pairs))] == pytest.approx(direct, abs=1e-5)


class Gate:
    """A model that waits until it may go on."""

    def __init__(self, service):
        self.score, service.batcher.score = service.batcher.score, self
        self.entered, self.open, self.pairs = threading.Event(), threading.Event(), 0

    def __call__(self, sequences, groups):
        self.entered.set()
        assert self.open.wait(20)
        self.pairs += len(sequences)
        return self.score(sequences, groups)


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_full_queue_refuses_with_retry_after_and_takes_on_again(bert_folder):
    service = tiny_service(bert_folder, max_documents=10, max_queue=10)
    gate = Gate(service)
    body = {"query": QUERY, "texts": ["red"] * 8}
    with serving(service) as address, ThreadPoolExecutor(1) as pool:
        first = pool.submit(httpx.post, f"{address}/rerank", json=body, timeout=30)
        assert gate.entered.wait(20)
        refused = httpx.post(f"{address}/rerank", json=body)
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error_type"] == "Overloaded"
        assert httpx.post(f"{address}/v2/rerank", json={"query": "a", "documents": ["b"] * 8}).status_code == 429
        gate.open.set()
        assert first.result(20).status_code == 200
        assert httpx.post(f"{address}/rerank", json=body, timeout=30).status_code == 200
        assert 'reason="overloaded",route="/rerank"} 1.0' in httpx.get(f"{address}/metrics").text


def test_a_client_that_goes_away_frees_its_work(bert_folder):
    service = tiny_service(bert_folder)
    gate = Gate(service)
    with serving(service) as address:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{address}/rerank", json={"query": QUERY, "texts": ["red stone"] * 500}, timeout=1)
        assert gate.entered.wait(20)
        wait_until(lambda: service.batcher.admitted_pairs == 0)
        assert service.batcher.waiting_pairs == 0
        gate.open.set()
        assert httpx.post(f"{address}/rerank", json={"query": QUERY, "texts": ["red"]}, timeout=30).status_code == 200
        assert 'prorank_abandoned_total{route="/rerank"} 1.0' in httpx.get(f"{address}/metrics").text
    assert gate.pairs < 100


def test_what_takes_too_long_is_given_up(bert_folder):
    service = tiny_service(bert_folder, timeout=0.3)
    gate = Gate(service)
    with serving(service) as address:
        late = httpx.post(f"{address}/v2/rerank", json={"query": QUERY, "documents": ["red"] * 100}, timeout=30)
        assert late.status_code == 504 and "0.3 s" in late.json()["message"]
        wait_until(lambda: service.batcher.waiting_pairs == 0)
        gate.open.set()


def test_a_model_that_fails_gives_typed_errors_and_the_server_lives_on(bert_folder, caplog):
    service = tiny_service(bert_folder)
    score = service.batcher.score

    def fails(sequences, groups):
        raise RuntimeError("the text was: " + "quarz" + "ite")  # code lines may stand in the log

    service.batcher.score = fails
    with serving(service) as address:
        body = {"query": QUERY, "documents": DOCUMENTS}
        failed = [httpx.post(f"{address}/v1/rerank", json=body) for _ in range(3)]
        assert {answer.status_code for answer in failed} == {500} and "quarzite" not in caplog.text + failed[0].text
        tei = httpx.post(f"{address}/rerank", json={"query": QUERY, "texts": DOCUMENTS})
        assert tei.status_code == 424 and tei.json()["error_type"] == "Backend"
        assert httpx.get(f"{address}/health").status_code == 503
        service.batcher.score = score
        assert httpx.post(f"{address}/v1/rerank", json=body).status_code == 200
        assert httpx.get(f"{address}/health").status_code == 200


def test_the_command_serves_and_answers_what_it_accepted_when_told_to_end(bert_folder):
    command = [sys.executable, "-m", "prorank.cli", "serve", str(bert_folder), "--port", "0", "--max-length", "96"]
    environment = os.environ | {"SERVE_KEY": KEY, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--api-key-env", "SERVE_KEY", "--log-json"], stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        line = next(line for line in process.stderr if " at http://" in line)
        address = line.split(" at ")[1].split()[0]
        logged = []
        reader = threading.Thread(target=lambda: logged.extend(process.stderr))
        reader.start()
        body = {"query": QUERY, "documents": [f"red stone {i}" for i in range(400)]}
        headers = {"Authorization": f"Bearer {KEY}"}
        with ThreadPoolExecutor(4) as pool:
            asked = [
                pool.submit(httpx.post, f"{address}/v2/rerank", json=body, headers=headers, timeout=60)
                for _ in range(4)
            ]
            wait_until(lambda: "prorank_admitted_pairs 1600.0" in httpx.get(f"{address}/metrics").text)
            process.send_signal(signal.SIGTERM)
            assert [len(answer.result(60).json()["results"]) for answer in asked] == [400] * 4
        process.wait(30)
        reader.join(10)
        assert sum('"status": 200' in line and '"/v2/rerank"' in line for line in logged) == 4
        assert not any("red stone" in line or "Traceback" in line for line in logged)
    finally:
        process.kill()
        process.wait(10)
