"""`prorank serve`: what it refuses before a model is loaded, what it warns of, how it writes its lines."""

import json
import logging
import socket
import sys

import pytest
from served import tiny_service

from prorank.prompts.truncation import Truncation
from prorank.serving.limits import Limits
from prorank.serving.server import Lines, Server, listen
from prorank.util.addresses import loopback_host
from prorank.util.errors import InputError


@pytest.fixture
def never_run(monkeypatch):
    """Let the command stop where the server would run."""
    monkeypatch.setattr(Server, "run", lambda self, sockets: [s.close() for s in sockets])
    for name in ("prorank", ""):
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "handlers", list(logger.handlers))
        monkeypatch.setattr(logger, "level", logger.level)


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--api-key-env", "NO_SUCH_KEY"], "export NO_SUCH_KEY="),
        (["--max-queue", "10"], "would never fit a queue of 10"),
        (["--timeout", "0"], "timeout must be a number of seconds above 0"),
        (["--timeout", "nan"], "timeout must be a number of seconds above 0"),
        (["--host", "256.0.0.1"], "cannot listen on 256.0.0.1"),
        (["no-such-model", "--port", "0"], "no-such-model"),
    ],
)
def test_what_cannot_work_is_refused(call, never_run, arguments, told):
    code, _, err = call("serve", *arguments)
    assert code == 2 and told in err


def test_a_port_in_use_is_told():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InputError, match=r"in use.*--port"):
        listen("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize(
    "arguments, warned",
    [([], False), (["--host", "0.0.0.0"], True), (["--host", "0.0.0.0", "--api-key-env", "K"], False)],
)
def test_an_open_address_without_a_key_is_warned_of(call, never_run, bert_folder, monkeypatch, arguments, warned):
    monkeypatch.setenv("K", "s3cret")
    code, _, err = call("serve", bert_folder, "--port", "0", "--max-length", "96", *arguments)
    assert code == 0 and ("no key is asked for" in err) is warned


def test_a_missing_extra_names_the_pip_command(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    code, _, err = call("serve")
    assert code == 2 and "pip install 'prorank[serve]'" in err


def test_lines_are_words_or_json_and_one_line_each():
    record = logging.makeLogRecord({"msg": "a\nb\x1b", "levelname": "INFO", "facts": {"route": "/rerank"}})
    assert json.loads(Lines(as_json=True).format(record))["route"] == "/rerank"
    plain = logging.makeLogRecord({"msg": "a \x1b", "levelname": "INFO"})
    assert json.loads(Lines(as_json=True).format(plain))["message"] == "a \x1b"
    assert "\x1b" not in Lines(as_json=False).format(plain)


def test_limits_hold_for_what_is_held_together():
    assert Limits(max_body=10).max_bodies == 160
    with pytest.raises(InputError, match="max_documents"):
        Limits(max_documents=0)


def test_what_is_cut_is_counted(bert_folder):
    metrics = tiny_service(bert_folder).metrics
    metrics.cut(Truncation(3, 700, documents=2, unread=1))
    assert b"truncated_pairs_total 3.0" in metrics.text() and b"unread_documents_total 1.0" in metrics.text()
    assert loopback_host("127.0.0.2") and not loopback_host("example.org")
