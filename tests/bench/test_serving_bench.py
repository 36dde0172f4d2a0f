"""`prorank bench serving`: one short run of all its parts but the peer, whose command is only looked at."""

import json

import httpx
import pytest

from prorank import Reranker
from prorank.bench import load as loading
from prorank.bench.load import Ask, Clients, infinity_command, load, running
from prorank.bench.serving import requests_of


def test_one_run_measures_everything(bert_folder, word_collection, tmp_path, call):
    Reranker(bert_folder, max_length=96, device="cpu").save_pretrained(tmp_path / "checkpoint")
    arguments = ("--collection", word_collection, "--seconds", 1, "--clients", 4, "--hostile", 100, "--json")
    code, out, err = call("bench", "serving", "--model", tmp_path / "checkpoint", *arguments)
    assert code == 0, err
    found = json.loads(out)
    assert found["load"]["requests"] > 0 and found["load"]["wrong"] == 0 and found["load"]["lost"] == {}
    assert found["throughput_ratio"] == found["load"]["pairs_per_second"] / found["offline_pairs_per_second"]
    assert found["mixed"]["small"]["requests"] > 0 and found["mixed"]["large"]["lost"] == {}
    assert found["sigterm"]["logged"] == found["sigterm"]["answered"] > 0
    assert found["sigterm"]["logged_without_answer"] == 0
    assert found["hostile"]["failures"] == 0 and found["hostile"]["alive"] and "growth" in found["hostile"]
    assert "not measured" in found["infinity"]["note"]


@pytest.mark.parametrize("answer, tallied", [([(0, 1.0), (1, 2.0)], 0), ([(0, 1.0), (1, 2.1)], 1), ([(0, 1.0)], 1)])
def test_answers_that_are_not_as_expected_are_counted_as_wrong(monkeypatch, answer, tallied):
    results = [{"index": index, "relevance_score": score} for index, score in answer]
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json={"results": results}))
    client = httpx.AsyncClient
    monkeypatch.setattr(httpx, "AsyncClient", lambda **options: client(**options, transport=transport))
    (tally,), _ = load("http://x", "/v1/rerank", [Clients(2, [Ask("a", ["b", "c"], [1.0, 2.0])])], 0.05, 1e-3)
    assert tally.wrong == tallied * len(tally.seconds) and not tally.lost and tally.seconds


def test_requests_without_scores_are_counted_as_lost(monkeypatch):
    transport = httpx.MockTransport(lambda request: httpx.Response(429))
    client = httpx.AsyncClient
    monkeypatch.setattr(httpx, "AsyncClient", lambda **options: client(**options, transport=transport))
    (tally,), _ = load("http://x", "/v1/rerank", [Clients(1, [Ask("a", ["b"])])], 0.05, 1e-3)
    assert set(tally.lost) == {"429"} and not tally.seconds


def test_a_server_that_does_not_start_is_told_with_its_last_line(monkeypatch):
    from prorank.util.errors import ProrankError

    command = ["python", "-c", "import sys; sys.exit('no such model')"]
    with pytest.raises(ProrankError, match="no such model"), running(command, loading.free_port()):
        pass


def test_pairs_of_one_query_make_one_request():
    asks = requests_of([("a", "x"), ("a", "y"), ("b", "x")])
    assert [(a.query, a.documents) for a in asks] == [("a", ["x", "y"]), ("b", ["x"])]


def test_infinity_serves_the_folder_on_the_cpu():
    command = infinity_command("/env/python", "folder", 80)
    assert command[0] == "/env/python" and command[3:6] == ["v2", "--model-id", "folder"] and "cpu" in command
