"""Each API's routes: its fields, its answer's shape, its errors' shape; scores equal to the direct call's."""

import json
import logging

import pytest
from served import DOCUMENTS, QUERY, serving, tiny_service
from starlette.testclient import TestClient

from prorank.model.cascade import Cascade
from prorank.serving.app import create_app
from prorank.serving.edge import STYLES

PAIRS = [(QUERY, document) for document in DOCUMENTS]


@pytest.fixture(scope="module")
def service(bert_folder):
    return tiny_service(bert_folder, calibration={"slope": 2.0, "intercept": 0.5}, max_documents=50, max_text=2_000)


@pytest.fixture(scope="module")
def client(service):
    with TestClient(create_app(service)) as client:
        yield client


@pytest.fixture(scope="module")
def direct(service):
    """(raw scores, probabilities, order) as the library gives them."""
    scores = service.reranker.score(PAIRS)
    order = [result["corpus_id"] for result in service.reranker.rank(QUERY, DOCUMENTS)]
    return scores, service.reranker.probability(scores), order


def test_cohere_v2(client, direct):
    answer = client.post("/v2/rerank", json={"model": "rerank-v3.5", "query": QUERY, "documents": DOCUMENTS})
    assert answer.status_code == 200
    found = answer.json()
    assert set(found) == {"id", "results", "meta"}
    assert [result["index"] for result in found["results"]] == direct[2]
    for result in found["results"]:
        assert set(result) == {"index", "relevance_score"}
        assert result["relevance_score"] == pytest.approx(direct[1][result["index"]], abs=1e-6)
    assert found["meta"] == {
        "api_version": {"version": "2", "is_experimental": False},
        "billed_units": {"search_units": 1},
    }


def test_v1_is_the_union_of_cohere_jina_and_vllm(client, direct):
    body = {"model": "jina-reranker-v2", "query": QUERY, "documents": DOCUMENTS, "top_n": 2, "return_documents": True}
    found = client.post("/v1/rerank", json=body).json()
    assert set(found) == {"id", "model", "usage", "results", "meta"}
    assert found["model"] == "tiny" and found["usage"]["total_tokens"] == found["usage"]["prompt_tokens"] > 0
    assert [(result["index"], result["document"]["text"]) for result in found["results"]] == [
        (index, DOCUMENTS[index]) for index in direct[2][:2]
    ]
    assert found["meta"]["api_version"]["version"] == "1"


@pytest.mark.parametrize("top_n", [None, 0, 10**30])
def test_all_results_come_without_a_top_n_or_with_zero(client, top_n):
    found = client.post("/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS, "top_n": top_n}).json()
    assert len(found["results"]) == len(DOCUMENTS) and "document" not in found["results"][0]


def test_documents_may_be_objects_with_fields_to_rank(client, service):
    documents = [{"text": "red stone", "page": 3}, {"text": "blue", "name": "red"}]
    plain = client.post("/v1/rerank", json={"query": QUERY, "documents": documents, "raw_scores": True}).json()
    scores = {result["index"]: result["relevance_score"] for result in plain["results"]}
    assert scores[0] == pytest.approx(service.reranker.score([(QUERY, "red stone")])[0], abs=1e-5)
    body = {"query": QUERY, "documents": documents[1:], "rank_fields": ["name", "text"], "return_documents": True}
    assert client.post("/v1/rerank", json=body).json()["results"][0]["document"] == {"text": "red blue"}
    assert client.post("/v1/rerank", json={"query": QUERY, "documents": [{"title": "x"}]}).status_code == 400


def test_tei(client, direct):
    found = client.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS, "return_text": True}).json()
    assert [rank["index"] for rank in found] == direct[2]
    assert all(rank["text"] == DOCUMENTS[rank["index"]] and set(rank) == {"index", "score", "text"} for rank in found)
    assert [rank["score"] for rank in found] == pytest.approx([direct[1][i] for i in direct[2]], abs=1e-6)
    raw = client.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS, "raw_scores": True}).json()
    assert [rank["score"] for rank in raw] == pytest.approx([direct[0][i] for i in direct[2]], abs=1e-5)
    assert set(raw[0]) == {"index", "score"}


def test_tei_cuts_unless_that_is_declined(client):
    long = {"query": QUERY, "texts": ["stone " * 200]}
    answer = client.post("/rerank", json=long)
    assert answer.status_code == 200 and answer.headers["x-truncated-pairs"] == "1"
    refused = client.post("/rerank", json=long | {"truncate": False})
    assert refused.status_code == 422 and refused.json()["error_type"] == "Validation"
    left = client.post("/rerank", json=long | {"truncation_direction": "Left"})
    assert left.status_code == 422
    assert client.post("/rerank", json=long | {"truncation_direction": "Right"}).status_code == 200


def test_vllm_rerank(client, direct):
    found = client.post("/rerank", json={"query": QUERY, "documents": DOCUMENTS, "top_n": 1}).json()
    assert set(found) == {"id", "model", "usage", "results"}
    (result,) = found["results"]
    assert result["index"] == direct[2][0] and result["document"] == {"text": DOCUMENTS[result["index"]]}


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize("names", [("text_1", "text_2"), ("queries", "documents")])
def test_vllm_score_one_against_many(client, direct, path, names):
    found = client.post(path, json={names[0]: QUERY, names[1]: DOCUMENTS, "raw_scores": True}).json()
    assert found["object"] == "list" and found["model"] == "tiny" and set(found["usage"]) >= {"total_tokens"}
    assert [(item["index"], item["object"]) for item in found["data"]] == [(i, "score") for i in range(4)]
    assert [item["score"] for item in found["data"]] == pytest.approx(direct[0], abs=1e-5)


def test_vllm_score_pairs(client, service):
    pairs = [("red", "stone"), ("blue", "river"), ("red", "tree")]
    body = {"text_1": [a for a, _ in pairs], "text_2": [b for _, b in pairs], "raw_scores": True}
    found = client.post("/score", json=body).json()
    assert [item["score"] for item in found["data"]] == pytest.approx(service.reranker.score(pairs), abs=1e-5)
    assert client.post("/score", json={"text_1": ["a", "b"], "text_2": ["c", "d", "e"]}).status_code == 400


def test_an_instruction_is_used_for_its_request_only(client, service):
    body = {"query": QUERY, "documents": DOCUMENTS[:1], "raw_scores": True}
    before = client.post("/v1/rerank", json=body).json()["results"][0]["relevance_score"]
    within = client.post("/v1/rerank", json=body | {"instruction": "river"}).json()["results"][0]["relevance_score"]
    after = client.post("/v1/rerank", json=body).json()["results"][0]["relevance_score"]
    tokenizer = service.reranker.tokenizer.varied(instruction="river")
    expected = service.reranker.score_sequences(tokenizer.encode([(QUERY, DOCUMENTS[0])])[0])[0]
    assert before == after != within and within == pytest.approx(float(expected[0]), abs=1e-5)


def test_an_instruction_that_leaves_no_room_is_refused(client):
    body = {"query": QUERY, "documents": DOCUMENTS, "instruction": "river " * 300}
    answer = client.post("/v1/rerank", json=body)
    assert answer.status_code == 400 and "instruction" in answer.json()["message"]


def test_documents_and_pairs_are_cut_as_asked(client):
    def score(**fields):
        body = {"query": QUERY, "raw_scores": True} | fields
        return client.post("/v1/rerank", json=body).json()["results"][0]["relevance_score"]

    long = ["red stone blue river green tree"]
    assert score(documents=long, max_tokens_per_doc=2) == pytest.approx(score(documents=["red stone"]), abs=1e-5)
    assert score(documents=long, max_tokens_per_doc=0) == pytest.approx(score(documents=long), abs=1e-5)
    assert score(documents=long, truncate_prompt_tokens=-1) == pytest.approx(score(documents=long), abs=1e-5)
    shorter = client.post(
        "/v1/rerank", json={"query": QUERY, "documents": ["red " * 60], "truncate_prompt_tokens": 80}
    ).json()
    assert shorter["usage"]["total_tokens"] == 80 and "warnings" in shorter["meta"]
    assert client.post("/score", json={"text_1": "a", "text_2": "b", "truncate_prompt_tokens": 1}).status_code == 400


REFUSALS = {
    "not JSON": (b"{", 400, 422),
    "no object": (b"[]", 400, 422),
    "no fields": (b"{}", 400, 422),
    "another type": (b'{"query": 1, "documents": ["a"], "texts": ["a"], "text_1": 1, "text_2": "a"}', 400, 422),
    "NaN": (b'{"query": "a", "documents": ["a"], "top_n": NaN}', 400, 422),
    "half of a surrogate pair": (b'{"query": "\\ud83d", "documents": ["a"], "texts": ["a"]}', 400, 422),
    "not UTF-8": (b'{"query": "\xff", "documents": ["a"]}', 400, 422),
    "an empty query": (b'{"query": " ", "documents": ["a"], "texts": ["a"], "text_1": "", "text_2": "a"}', 400, 400),
    "no documents": (b'{"query": "a", "documents": [], "texts": [], "text_1": "a", "text_2": []}', 400, 400),
}


def shaped(path, body, status):
    """Whether an error has the shape of the API of a path."""
    openai = isinstance(body.get("error"), dict) and body["error"]["message"] and body["error"]["code"] == status
    if path == "/rerank":
        return set(body) == {"error", "error_type"} and isinstance(body["error"], str)
    if path == "/v2/rerank":
        return set(body) == {"message"}
    return openai and (path != "/v1/rerank" or body["message"] == body["detail"])


@pytest.mark.parametrize("path", [path for path in STYLES if path != "/v1/models"])
@pytest.mark.parametrize("case", REFUSALS)
def test_mistakes_are_told_in_the_shape_of_the_api(client, path, case):
    body, status, tei_status = REFUSALS[case]
    answer = client.post(path, content=body)
    assert answer.status_code == (tei_status if path == "/rerank" else status), answer.text
    assert shaped(path, answer.json(), answer.status_code), answer.text


def test_what_is_beyond_the_limits_is_refused_with_the_limit(client):
    many = client.post("/v2/rerank", json={"query": "a", "documents": ["a"] * 51})
    assert many.status_code == 400 and "50" in many.json()["message"]
    long = client.post("/rerank", json={"query": "a", "texts": ["a" * 2_001]})
    assert long.status_code == 422 and "2000" in long.json()["error"]
    assert client.post("/score", json={"text_1": "a" * 2_001, "text_2": "b"}).status_code == 400


ROUTES = [
    ("/v1/rerank", {"query": "a"}, "documents", "/v1/rerank"),
    ("/v2/rerank", {"query": "a"}, "documents", "/v2/rerank"),
    ("/rerank", {"query": "a"}, "texts", "/rerank"),
    ("/rerank", {"query": "a"}, "documents", "/score"),  # vLLM's, as its scores
    ("/score", {"text_1": "a"}, "text_2", "/score"),
    ("/v1/score", {"queries": "a"}, "documents", "/score"),
    ("/page/rank", {"query": "a"}, "documents", "/page/rank"),
]


@pytest.mark.parametrize(
    ("path", "body", "field", "like"), ROUTES, ids=[f"{path} {field}" for path, _, field, _ in ROUTES]
)
def test_every_limit_is_told_with_the_status_and_shape_of_the_api_that_was_called(bert_folder, path, body, field, like):
    service = tiny_service(bert_folder, max_documents=50, max_text=2_000)
    full = tiny_service(bert_folder, max_documents=50, max_queue=50)
    full.batcher.admitted_pairs = 50
    with TestClient(create_app(service)) as client, TestClient(create_app(full)) as busy:
        refusals = [
            (client.post(path, json=body | {field: ["a"] * 51}), 400, f"51 {field} are more than 50"),
            (client.post(path, json=body | {field: ["a" * 2_001]}), 400, "2000 are allowed"),
            (client.post(path, json=body | {field: ["a"], "instruction": "a" * 2_001}), 400, "2000 are allowed"),
            (client.post(path, json=body | {field: ["a"], "instruction": 1}), 400, "instruction"),
            (busy.post(path, json=body | {field: ["a"]}), 429, "50 pairs wait"),
        ]
    for answer, status, told in refusals:
        status = 422 if like == "/rerank" and status == 400 else status
        assert answer.status_code == status and shaped(like, answer.json(), status) and told in answer.text


def test_null_characters_are_scored_as_text(client):
    answer = client.post("/v1/rerank", json={"query": "red\x00stone", "documents": ["\x00", "stone"]})
    assert answer.status_code == 200 and len(answer.json()["results"]) == 2


def test_a_models_name_in_a_request_loads_nothing(client):
    for name in ("../../etc/passwd", "Qwen/Qwen3-Reranker-0.6B", "\x00"):
        answer = client.post("/v1/rerank", json={"model": name, "query": QUERY, "documents": DOCUMENTS})
        assert answer.status_code == 200 and answer.json()["model"] == "tiny"


def test_models_tell_the_most_documents_of_a_call(client):
    (card,) = client.get("/v1/models").json()["data"]
    assert card["id"] == "tiny" and card["max_documents"] == 50 and card["max_model_len"] == 96


def test_health_ready_and_metrics(client):
    assert client.get("/health").status_code == client.get("/ready").status_code == 200
    client.post("/v2/rerank", content=b"{")
    text = client.get("/metrics").text
    assert 'prorank_refusals_total{reason="malformed",route="/v2/rerank"}' in text
    for name in ("queue_pairs", "batch_tokens_bucket", "request_seconds_bucket", "truncated_pairs_total"):
        assert f"prorank_{name}" in text
    assert "secret-path" not in (client.get("/secret-path"), client.get("/metrics"))[1].text


def test_the_page_gets_both_orders_and_what_was_cut(client, service, direct):
    documents = [*DOCUMENTS, "stone " * 200]
    found = client.post("/page/rank", json={"query": QUERY, "documents": documents}).json()
    scores = service.reranker.score([(QUERY, document) for document in documents])
    by_place = sorted(found["results"], key=lambda result: result["index"])
    assert [result["score"] for result in by_place] == pytest.approx(scores, abs=1e-5)
    assert [result["relevance_score"] for result in by_place[:4]] == pytest.approx(direct[1], abs=1e-6)
    assert [result["index"] for result in found["results"]] == sorted(range(5), key=lambda place: -scores[place])
    assert [result["tokens_cut"] > 100 for result in by_place] == [False] * 4 + [True]
    assert found["not_read"] == "the end of the document in 1"
    first = found["first_stage"]
    assert first["missing"] is None and first["results"][0]["index"] == 1 and first["results"][-1]["index"] == 0
    assert first["results"][-1]["score"] == 0 < first["results"][0]["score"]
    wordless = client.post("/page/rank", json={"query": "?", "documents": ["!"]}).json()["first_stage"]
    assert "no words" in wordless["missing"] and wordless["results"] == []


def test_the_openapi_document_describes_the_bodies_and_can_be_read(client):
    document = client.get("/openapi.json").json()
    for path, field in {"/v1/rerank": "rank_fields", "/v2/rerank": "priority", "/score": "text_1"}.items():
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert field in body["properties"] and "style" not in body["properties"]
    page = client.get("/docs")
    assert page.status_code == 200 and "rank_fields" in page.text and "<script" not in page.text


def test_unknown_paths_and_methods(client):
    assert client.get("/nothing").status_code == 404
    wrong = client.get("/v2/rerank")
    assert wrong.status_code == 405 and set(wrong.json()) == {"message"} and wrong.headers["allow"] == "POST"


def test_answers_carry_security_headers_and_a_request_id(client):
    kept = client.post("/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS}, headers={"X-Request-ID": "abc-1"})
    assert kept.headers["x-request-id"] == kept.json()["id"] == "abc-1"
    made = client.get("/health", headers={"X-Request-ID": "a b<script>"}).headers
    assert made["x-request-id"].isalnum()
    assert made["x-content-type-options"] == "nosniff" and "default-src 'self'" in made["content-security-policy"]
    assert "access-control-allow-origin" not in client.get("/health", headers={"Origin": "https://a.example"}).headers


def test_pages_elsewhere_may_call_only_if_they_are_named(service):
    client = TestClient(create_app(service, origins=["https://a.example"]))  # no request reaches the model
    asked = {"Access-Control-Request-Method": "POST"}
    allowed = client.options("/v1/rerank", headers={"Origin": "https://a.example"} | asked)
    assert allowed.headers["access-control-allow-origin"] == "https://a.example"
    other = client.options("/v1/rerank", headers={"Origin": "https://b.example"} | asked)
    assert "access-control-allow-origin" not in other.headers


def test_a_key_is_asked_for_where_there_is_one(bert_folder):
    with TestClient(create_app(tiny_service(bert_folder), key="s3cret")) as client:
        body = {"query": QUERY, "documents": DOCUMENTS, "texts": DOCUMENTS, "text_1": "a", "text_2": "b"}
        for path in STYLES:
            call = client.get if path == "/v1/models" else client.post
            options = {} if path == "/v1/models" else {"json": body}
            for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer s3crét".encode()}):
                refused = call(path, headers=given, **options)
                assert refused.status_code == 401 and shaped(path, refused.json(), 401)
            assert call(path, headers={"Authorization": "Bearer s3cret"}, **options).status_code == 200
        assert client.get("/health").status_code == 200


@pytest.mark.parametrize("log_texts", [False, True])
def test_logs_hold_texts_only_if_that_is_wanted(service, bert_folder, caplog, log_texts):
    caplog.set_level(logging.INFO, logger="prorank")
    with TestClient(create_app(tiny_service(bert_folder), log_texts=log_texts)) as client:
        client.post("/v1/rerank", json={"query": "quarzite", "documents": ["marmalade"]})
        client.post("/v1/rerank", json={"query": "quarzite", "documents": [{"marmalade": 1}]})
    lines = caplog.text + json.dumps([getattr(record, "facts", {}) for record in caplog.records])
    assert ("quarzite" in lines) is log_texts and "/v1/rerank" in lines


def test_the_page_and_its_files_are_served_if_they_are_there(service, tmp_path, monkeypatch):
    from prorank.serving import app as module

    assert TestClient(create_app(service)).get("/app.js").status_code == 404
    (tmp_path / "index.html").write_text("<p>page</p>")
    (tmp_path / "app.js").write_text("let a = 1")
    app = module.create_app(service)
    module.add_pages(app, tmp_path)
    client = TestClient(app)
    assert "page" in client.get("/").text and "javascript" in client.get("/app.js").headers["content-type"]
    assert client.get("/../conftest.py").status_code == 404


def test_scores_without_probabilities_are_told_as_they_are(qwen_folder, tmp_path, caplog):
    from prorank import Reranker
    from prorank.serving.service import Service

    reranker = Reranker(qwen_folder, prompt="erank", score="expected_grade", max_length=512, device="cpu")
    service = Service(reranker, "grades")
    assert not service.calibrated and "no probabilities" in caplog.text
    assert service.card["scores"] == "expected_grade"


def test_a_real_server_answers(service, direct, bert_folder):
    import httpx

    with serving(tiny_service(bert_folder)) as address:
        found = httpx.post(f"{address}/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS}).json()
    assert [result["index"] for result in found["results"]] == direct[2]


def test_a_cascade_answers_in_the_order_of_the_direct_call(bert_folder):
    service = tiny_service(bert_folder, calibration={"slope": 2.0, "intercept": 0.5})
    documents = [f"{a} {b} of the river" for a in ("red", "green", "blue") for b in ("stone", "tree", "water", "sky")]
    exact = service.reranker.rank(QUERY, documents)
    service.reranker = service.reranker.reading(Cascade(tokens=(1, 2), shares=(0.6, 0.2), at_least=2))
    direct = service.reranker.rank(QUERY, documents)
    with TestClient(create_app(service)) as client:
        found = client.post("/v1/rerank", json={"query": QUERY, "documents": documents, "raw_scores": True}).json()
        short = client.post("/rerank", json={"query": QUERY, "texts": documents[:2]})
    assert [result["index"] for result in found["results"]] == [result["corpus_id"] for result in direct]
    scores = [result["relevance_score"] for result in found["results"]]
    assert scores == pytest.approx([result["score"] for result in direct], abs=1e-4)
    assert scores != pytest.approx([result["score"] for result in exact], abs=1e-4)  # it did read less
    assert short.status_code == 200
