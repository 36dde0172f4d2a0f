"""What only the user may allow: foreign code, and where a key goes."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
import pytest
import torch
from tiny_runs import tiny

from prorank import Reranker
from prorank.erank.graders import ChatTeacher, Task
from prorank.pipeline.run import run_recipe
from prorank.recipe.loading import dump_recipe, load_recipe, validate_recipe
from prorank.util.addresses import is_loopback
from prorank.util.errors import CheckpointError, InputError, ProrankError, RecipeError
from prorank.warmup.grpo import group_advantages

CODE = """
from pathlib import Path
from transformers import BertConfig
Path(__file__).with_name("ran").touch()
Path({mark!r}).touch()
class OwnConfig(BertConfig):
    model_type = "own"
"""


@pytest.fixture
def own_code(bert_folder, tmp_path):
    """A model folder that brings Python code, and the file that tells whether it ran."""
    import shutil

    folder, mark = shutil.copytree(bert_folder, tmp_path / "own"), tmp_path / "ran"
    (folder / "own.py").write_text(CODE.format(mark=str(mark)))
    config = json.loads((folder / "config.json").read_text())
    code = {"AutoConfig": "own.OwnConfig"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": code}))
    return folder, mark


@pytest.mark.parametrize("value", ["true", "yes", "1"])
def test_a_recipe_may_not_trust_foreign_code(value, tmp_path, call):
    with pytest.raises(RecipeError, match=r"trust_remote_code.*train --trust-remote-code"):
        load_recipe("quickstart", [f"backbone.trust_remote_code={value}"])
    file = tmp_path / "mine.yaml"
    file.write_text(f"name: mine\nbackbone:\n  trust_remote_code: {value}\n")
    code, _, err = call("train", file, "--output", tmp_path / "run")
    assert code == 2 and "train --trust-remote-code" in err and not (tmp_path / "run").exists()
    assert load_recipe("quickstart", ["backbone.trust_remote_code=false"]) == load_recipe("quickstart")


def test_foreign_code_runs_on_the_users_word_only(own_code):
    folder, mark = own_code
    with pytest.raises(CheckpointError, match=r"prorank train --trust-remote-code"):
        Reranker(folder, prompt="prorank-short", precision="fp32")
    assert not mark.exists()
    with pytest.raises(CheckpointError):  # trusted, its code runs; that it is no model of ours comes after
        Reranker(folder, prompt="prorank-short", precision="fp32", trust_remote_code=True)
    assert mark.exists()


@pytest.mark.parametrize("trusted", [False, True])
def test_the_command_line_passes_the_users_word(trusted, tmp_path, call, monkeypatch, bert_folder, word_collection):
    seen = {}

    def loaded(model, **options):
        seen.update(options)
        raise ProrankError("far enough")

    monkeypatch.setattr(Reranker, "from_pretrained", loaded)
    file = tmp_path / "tiny.yaml"
    file.write_text(dump_recipe(tiny(bert_folder, word_collection)))
    flag = ["--trust-remote-code"] if trusted else []
    assert call("train", file, "--output", tmp_path / "run", *flag)[0] == 2
    assert seen["trust_remote_code"] is trusted
    with pytest.raises(ProrankError, match="far enough"):
        run_recipe(tiny(bert_folder, word_collection), tmp_path / "other", trust_remote_code=trusted)
    assert seen["trust_remote_code"] is trusted


TASK = [Task("q", "d", "a query", "a document", 0)]


def teacher(base_url, **options):
    return ChatTeacher(base_url, "m", 1, 8, 0.0, attempts=1, **options)


@pytest.mark.parametrize(
    "address, sent",
    [
        ("https://api.example.org/v1", True),
        ("HTTPS://api.example.org/v1", True),
        ("http://localhost:8000/v1", True),
        ("http://127.0.0.1:8000/v1", True),
        ("http://127.8.8.8/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://api.example.org/v1", False),
        ("http://192.168.1.9:8000/v1", False),
        ("http://localhost.example.org/v1", False),
        ("http://localhost@example.org/v1", False),
        ("http://127.0.0.1.example.org/v1", False),
        ("http://127.0.0.1@example.org/v1", False),
        ("http://0.0.0.0:8000/v1", False),
        ("http://example.org/https://", False),
    ],
)
def test_the_key_goes_where_nobody_else_reads_it(address, sent, monkeypatch, caplog):
    monkeypatch.setenv("MY_KEY", " secret\n")
    key = teacher(address, key_variable="MY_KEY").headers["Authorization"]
    assert key == "Bearer secret" if sent else isinstance(key, openai.Omit)
    assert ("MY_KEY is not sent to" in caplog.text) is not sent
    assert "secret" not in caplog.text


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://localhost/v1", "http://", "", "http://[::1"])
def test_what_is_no_address_is_refused_at_once(address):
    with pytest.raises(InputError, match="is no address"):
        teacher(address)


class Listener(BaseHTTPRequestHandler):
    """Notes who asks for what, and answers every request with the server's status and address."""

    def log_message(self, *_):
        pass

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        self.send_response(self.server.status)
        self.send_header("Location", self.server.location)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def listener():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    server.asked, server.status, server.location = [], 401, ""
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_the_key_follows_no_redirect(status, listener, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    listener.status, listener.location = status, f"{listener.url}/elsewhere"
    with pytest.raises(ProrankError, match=rf"redirects to {listener.url}/elsewhere"):
        list(teacher(f"{listener.url}/v1").ask(TASK))
    assert listener.asked == [("/v1/chat/completions", "Bearer secret")]


def test_what_stays_on_this_machine_goes_through_no_proxy(listener, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, listener.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert is_loopback("http://localhost:8000/v1")
    with pytest.raises(ProrankError, match="no answer after 1 tries"):
        list(teacher("http://127.0.0.1:9/v1").ask(TASK))
    assert not listener.asked
    with pytest.raises(ProrankError, match="status 401"):
        list(teacher("http://example.org/v1").ask(TASK))
    assert listener.asked == [("http://example.org/v1/chat/completions", None)]  # http: without the key


@pytest.mark.parametrize("num_generations", [1, 0, -3])
@pytest.mark.parametrize("scale", ["std", "mean", "none"])
def test_a_group_of_one_is_refused(num_generations, scale):
    with pytest.raises(RecipeError, match=r"warmup\.num_generations: .*2 or more, or exact"):
        validate_recipe({"name": "a", "warmup": {"num_generations": num_generations, "scale_advantages": scale}})
    with pytest.raises(ValueError, match="at least 2 rewards"):
        group_advantages(torch.ones(3, 1), scale)
    with pytest.raises(RecipeError, match=r"listwise\.num_generations"):
        validate_recipe({"name": "a", "listwise": {"num_generations": int(num_generations)}})
    assert group_advantages(torch.ones(3, 2), scale).isfinite().all()
