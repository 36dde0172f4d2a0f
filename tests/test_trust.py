"""What only the user may allow: foreign code, and where a key goes."""

import json

import pytest
import torch
from test_training import tiny

from prorank import Reranker
from prorank.erank.graders import ChatTeacher, Task, is_loopback
from prorank.pipeline.run import run_recipe
from prorank.recipe.loading import dump_recipe, load_recipe, validate_recipe
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
    return ChatTeacher(base_url, "m", 1, 8, 0.0, attempts=1, pause=0.0, **options)


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
    client = teacher(address, key_variable="MY_KEY").client
    assert client.headers.get("Authorization") == ("Bearer secret" if sent else None)
    assert ("MY_KEY is not sent to" in caplog.text) is not sent
    assert "secret" not in caplog.text
    assert not client.follow_redirects


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://localhost/v1", "http://", "", "http://[::1"])
def test_what_is_no_address_is_refused_at_once(address):
    with pytest.raises(InputError, match="is no address"):
        teacher(address)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_the_key_follows_no_redirect(status, monkeypatch):
    import httpx

    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    asked = []

    def answer(request):
        asked.append(str(request.url))
        return httpx.Response(status, headers={"location": "http://example.org/v1"})

    one = teacher("http://127.0.0.1:8000/v1")
    one.client._transport = httpx.MockTransport(answer)
    with pytest.raises(ProrankError, match=r"redirects to http://example\.org/v1"):
        list(one.ask(TASK))
    assert asked == ["http://127.0.0.1:8000/v1/chat/completions"]


def test_what_stays_on_this_machine_goes_through_no_proxy(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example.org:3128")
    monkeypatch.setenv("http_proxy", "http://proxy.example.org:3128")
    assert is_loopback("http://localhost:8000/v1")
    assert not any(teacher("http://localhost:8000/v1").client._mounts.values())
    assert any(teacher("http://example.org/v1").client._mounts.values())


@pytest.mark.parametrize("num_generations", [1, 0, -3, True])
@pytest.mark.parametrize("scale", ["std", "mean", "none"])
def test_a_group_of_one_is_refused(num_generations, scale):
    with pytest.raises(RecipeError, match=r"warmup\.num_generations: .*2 or more, or exact"):
        validate_recipe({"name": "a", "warmup": {"num_generations": num_generations, "scale_advantages": scale}})
    with pytest.raises(ValueError, match="at least 2 rewards"):
        group_advantages(torch.ones(3, 1), scale)
    with pytest.raises(RecipeError, match=r"listwise\.num_generations"):
        validate_recipe({"name": "a", "listwise": {"num_generations": int(num_generations)}})
    assert group_advantages(torch.ones(3, 2), scale).isfinite().all()
