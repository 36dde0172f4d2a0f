"""Graded lists: consensus, a cache that loses nothing, and an endpoint that misbehaves."""

import io
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from prorank import Reranker
from prorank.data.collection import load_collection
from prorank.erank.graders import ChatTeacher, Generation, LocalTeacher, QrelsTeacher, ScorerTeacher, Task, load_teacher
from prorank.erank.synthesis import Cache, consensus, graded_candidates, key_of, read_graded, synthesize
from prorank.util.errors import DataError, MissingExtraError, ProrankError
from prorank.util.live import locked

QUIET = Console(file=io.StringIO())
QUOTAS = {"hard": 3, "medium": 2, "easy": 0}


@given(st.lists(st.none() | st.integers(0, 10), min_size=1))
def test_consensus_is_a_generation_nearest_the_mean(grades):
    chosen = consensus([Generation(grade) for grade in grades])
    known = [grade for grade in grades if grade is not None]
    if not known:
        assert chosen is None
        return
    mean = sum(known) / len(known)
    assert chosen.grade in known
    assert abs(chosen.grade - mean) == min(abs(grade - mean) for grade in known)


class Server(ThreadingHTTPServer):
    """An endpoint whose first answers are as `trouble` says; then it grades by the length of the prompt."""

    daemon_threads = True

    def __init__(self, trouble=()):
        super().__init__(("127.0.0.1", 0), Handler)
        self.trouble, self.requests, self.headers, self.lock = list(trouble), [], [], threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            trouble = self.server.trouble.pop(0) if self.server.trouble else None
            self.server.headers.append(self.headers)
            self.server.requests.append((self.path, self.headers.get("Authorization"), body, trouble))
        if trouble == "slow":
            time.sleep(1.0)
        if isinstance(trouble, int):
            return self.say(trouble, b"{}")
        if trouble == "garbage":
            return self.say(200, b"<html>not JSON")
        if trouble == "shape":
            return self.say(200, b'{"choices": []}')
        grade = len(body["messages"][0]["content"]) % 11
        text = f"<think>so</think><answer>{grade}</answer>"
        whole = {"choices": [{"message": {"content": text}}], "usage": {"completion_tokens": 9}}
        if trouble == "long":
            whole["usage"]["completion_tokens"] = 5000
        data = json.dumps(whole).encode()
        if trouble == "cut":
            self.say(200, data[: len(data) // 2], length=len(data))
            self.close_connection = True
            return None
        return self.say(200, data)

    def say(self, status, data, length=None):
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(length or len(data)))
            self.send_header("Content-Type", "application/json")
            self.send_header("retry-after-ms", "1")  # the client need not wait long
            self.end_headers()
            self.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):  # the client did not wait
            pass


@pytest.fixture
def server():
    started = []

    def start(trouble=()):
        started.append(Server(trouble))
        return started[-1]

    yield start
    for one in started:
        one.shutdown()
        one.server_close()


def teacher(server, **options):
    return ChatTeacher(server.url, "m", 2, 64, 0.6, **{"timeout": 0.5} | options)


TASKS = [Task("q", f"d{i}", "a query", "word " * i, 0) for i in range(6)]


@pytest.mark.parametrize("trouble", [429, 500, 503, "slow", "garbage", "shape", "cut"])
def test_what_passes_is_tried_again(server, trouble):
    endpoint = server([trouble, trouble])
    found = dict(teacher(endpoint, concurrency=2).ask(TASKS))
    assert set(found) == set(TASKS) and all(generation.grade is not None for generation in found.values())
    assert len(endpoint.requests) == len(TASKS) + 2


def test_what_does_not_pass_stops_with_the_reason(server, monkeypatch):
    with pytest.raises(ProrankError, match=r"status 401.*check the address"):
        list(teacher(server([401] * 50)).ask(TASKS[:1]))
    with pytest.raises(ProrankError, match="no answer after 3 tries, last status 500"):
        list(teacher(server([500] * 50), attempts=3).ask(TASKS[:1]))
    with pytest.raises(ProrankError, match="no answer after 2 tries, last ConnectError"):
        list(ChatTeacher("http://127.0.0.1:9", "m", 1, 8, 0, attempts=2).ask(TASKS[:1]))
    with pytest.raises(ProrankError, match="no answer after 2 tries, last DataError: not a chat completion"):
        list(teacher(server(["shape"] * 50), attempts=2).ask(TASKS[:1]))
    with pytest.raises(ProrankError, match=r"no answer after 1 tries, last ReadTimeout"):
        list(teacher(server(["slow"]), attempts=1, timeout=0.1).ask(TASKS[:1]))


def test_the_key_comes_from_the_environment(server, monkeypatch):
    endpoint = server()
    monkeypatch.setenv("MY_KEY", "secret")
    list(teacher(endpoint, key_variable="MY_KEY").ask(TASKS[:1]))
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "another")
    monkeypatch.setenv("OPENAI_ORG_ID", "mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "mine")
    list(teacher(endpoint, key_variable="NO_SUCH_KEY").ask(TASKS[:1]))
    assert not any("mine" in str(value) for value in endpoint.headers[-1].values())
    paths, keys, bodies, _ = zip(*endpoint.requests)
    assert set(paths) == {"/v1/chat/completions"} and keys == ("Bearer secret", None)
    assert bodies[0]["model"] == "m" and "Here is the document:\n" in bodies[0]["messages"][0]["content"]


def test_nothing_is_asked_twice_and_nothing_is_lost(server, word_collection, tmp_path):
    collection, candidates = graded_candidates(str(word_collection), "train", 4, QUOTAS, seed=1)
    endpoint = server([None] * 20 + [401])
    output = tmp_path / "grades.jsonl"
    with pytest.raises(ProrankError, match="status 401"):
        synthesize(collection, candidates, teacher(endpoint, concurrency=1), output, QUIET)
    assert not output.exists()
    cache = output.with_suffix(".cache.jsonl")
    kept = len(cache.read_text().splitlines())
    assert kept == len(endpoint.requests) - 1 >= 20  # also what was on its way when one was refused
    with cache.open("a") as file:
        file.write('{"key": "cut o')  # a kill in the middle of a line
    statistics = synthesize(collection, candidates, teacher(endpoint), output, QUIET)
    pairs = sum(len(one.documents) for one in candidates)
    assert statistics["asked"] == 2 * pairs - kept and statistics["documents"] == pairs
    asked = [request[2]["messages"][0]["content"] + str(request[2]["seed"]) for request in endpoint.requests]
    assert len(asked) == 2 * pairs + 1 and len(set(asked)) == 2 * pairs  # the refused one alone came twice
    again = synthesize(collection, candidates, teacher(endpoint), output, QUIET)
    assert again["asked"] == 0 and len(endpoint.requests) == len(asked)
    lists = read_graded(output, collection)
    assert {len(documents) for documents in lists.values()} == {6}
    assert all(sum(document.relevant for document in documents) == 1 for documents in lists.values())


def test_answers_to_other_questions_are_not_reused(server, qwen_folder, bert_folder, tmp_path, monkeypatch):
    endpoint, task = server(), TASKS[1]
    keys = [key_of(teacher(endpoint), task)]
    for changes in ({"max_new_tokens": 65}, {"temperature": 0.7}, {"model": "n"}, {"base_url": "http://127.0.0.1:9"}):
        options = {"base_url": endpoint.url, "model": "m", "max_new_tokens": 64, "temperature": 0.6} | changes
        keys.append(key_of(ChatTeacher(generations=2, **options), task))
    keys += [
        key_of(LocalTeacher(str(qwen_folder), 2, tokens, heat), task) for tokens, heat in ((8, 0.6), (9, 0.6), (8, 1))
    ]
    monkeypatch.setattr("prorank.erank.graders.asked_text", lambda query, document: f"{query}? {document}")
    keys += [key_of(teacher(endpoint), task), key_of(LocalTeacher(str(qwen_folder), 2, 8, 0.6), task)]
    folder = tmp_path / "scorer"
    for prompt in ("prorank-short", "yesno"):
        Reranker(bert_folder, prompt=prompt, max_length=64).save_pretrained(folder)
        keys.append(key_of(ScorerTeacher(str(folder)), task))
    assert len(set(keys)) == len(keys)
    assert key_of(teacher(endpoint), task) == key_of(teacher(endpoint), task)


def test_a_list_that_changed_is_graded_anew_as_a_whole(word_collection, tmp_path):
    """A grade by qrels or by a scorer's spread depends on the query's other documents."""
    collection, candidates = graded_candidates(str(word_collection), "train", 2, QUOTAS, seed=1)
    synthesize(collection, candidates, QrelsTeacher(), tmp_path / "g.jsonl", QUIET)
    shorter = [one._replace(documents=one.documents[:-1], labels=one.labels[:-1]) for one in candidates]
    said = io.StringIO()
    found = synthesize(collection, shorter, QrelsTeacher(), tmp_path / "g.jsonl", Console(file=said, width=200))
    assert found["asked"] == sum(len(one.documents) for one in shorter)
    assert "kept answers are to other texts or from another teacher" in said.getvalue()


def test_two_processes_do_not_grade_into_one_file(word_collection, tmp_path):
    collection, candidates = graded_candidates(str(word_collection), "train", 1, QUOTAS, seed=1)
    with locked(tmp_path, "g.jsonl"), pytest.raises(ProrankError, match=r"g\.jsonl is in use .*pid"):
        synthesize(collection, candidates, QrelsTeacher(), tmp_path / "g.jsonl", QUIET)


def test_an_interrupt_counts_the_answers_that_are_kept(server, word_collection, tmp_path, call, monkeypatch):
    def interrupt(collection, candidates, teacher, output, console):
        output.with_suffix(".cache.jsonl").write_text("{}\n{}\n")
        raise KeyboardInterrupt

    monkeypatch.setattr("prorank.erank.synthesis.synthesize", interrupt)
    command = ["data", "synthesize", word_collection, "--output", tmp_path / "g.jsonl", "--teacher", "qrels"]
    code, _, err = call(*command)
    assert code == 130 and "Kept: 2 answers in" in err and f"Resume with: prorank {' '.join(map(str, command))}" in err


def test_too_long_generations_are_dropped(server, word_collection, tmp_path):
    collection, candidates = graded_candidates(str(word_collection), "train", 1, QUOTAS, seed=1)
    endpoint = server(["long"] * 2)
    one = ChatTeacher(endpoint.url, "m", 1, 64, 0.6, concurrency=1)
    statistics = synthesize(collection, candidates, one, tmp_path / "g.jsonl", QUIET)
    assert statistics["dropped"] == 2 and statistics["documents"] == 4


def test_qrels_as_grades():
    tasks = [Task("q", d, "", "", label) for d, label in (("a", 2), ("b", 1), ("c", 0), ("d", -1))]
    assert [g.grade for _, g in QrelsTeacher().ask(tasks)] == [10, 5, 0, 0]


def test_a_reranker_spreads_its_scores_over_the_list(bert_folder, tmp_path):
    Reranker(bert_folder, prompt="prorank-short", max_length=64).save_pretrained(tmp_path)
    scorer = ScorerTeacher(str(tmp_path))
    tasks = [Task("q", w, "apple", w, int(w == "apple")) for w in ("apple", "river", "stone", "cloud")]
    grades = {task.document_id: generation.grade for task, generation in scorer.ask(tasks)}
    others = [grades[w] for w in ("river", "stone", "cloud")]
    assert grades["apple"] == 10 and min(others) == 0 and max(others) == 8
    scores = scorer.reranker.score([("apple", w) for w in ("river", "stone", "cloud")])
    assert sorted(range(3), key=lambda i: scores[i]) == sorted(range(3), key=lambda i: others[i])


def test_a_local_model_is_asked_with_the_published_prompt(qwen_folder):
    local = LocalTeacher(str(qwen_folder), 2, 8, temperature=0.6)
    found = list(local.ask(TASKS[:2]))
    assert len(found) == 2 and all(isinstance(g, Generation) and g.grade is None for _, g in found)
    assert local.reranker.settings.prompt.name == "erank-think" and local.generations == 2


def test_a_missing_openai_package_names_the_command_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'prorank\[chat\]'"):
        load_teacher("chat:some/model", 3, 8, 0.6)


def test_teachers_by_name():
    assert load_teacher("qrels", 3, 8, 0.6).name == "qrels"
    assert load_teacher("chat:some/model", 3, 8, 0.6).name == "chat:some/model"
    with pytest.raises(ProrankError, match="unknown teacher 'oracle'"):
        load_teacher("oracle", 3, 8, 0.6)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "g.jsonl:1: not valid JSON"),
        ('{"query_id": "q"}', "g.jsonl:1: not a graded list"),
        ('{"query_id": "nobody", "documents": [{"id": "d", "grade": 1, "relevant": true, "text": ""}]}', "is not in"),
        ('{"query_id": "%s", "documents": [{"id": "%s", "grade": 11, "relevant": true, "text": ""}]}', "is 11, not 0"),
    ],
)
def test_bad_files_are_named(line, message, word_collection, tmp_path):
    collection = load_collection(word_collection)
    known = (next(iter(collection.queries)), next(iter(collection.documents)))
    (tmp_path / "g.jsonl").write_text((line % known if "%s" in line else line) + "\n")
    with pytest.raises(DataError, match=message):
        read_graded(tmp_path / "g.jsonl", collection)
    (tmp_path / "c.jsonl").write_text("[]\n")
    with pytest.raises(DataError, match=r"c\.jsonl:1: not an answer"):
        Cache(tmp_path / "c.jsonl")


def test_the_command(word_collection, tmp_path, call):
    output = tmp_path / "g.jsonl"
    command = ["data", "synthesize", word_collection, "--output", output, "--teacher", "qrels", "--queries", 3]
    code, out, err = call(*command, "--hard", 2, "--medium", 1, "--easy", 0)
    assert code == 0, err
    assert "documents: 12" in out and "mean grade relevant: 10.00" in out
    assert call(*command)[0] == 2  # the file is there
