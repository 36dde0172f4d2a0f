"""The command line, as a person types it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prorank import Reranker
from prorank.cli import main as cli
from prorank.data.collection import load_collection
from prorank.data.trec import read_run
from prorank.util.version import VERSION

ROOT = Path(__file__).parents[2]


def prorank(*arguments, text=None):
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "prorank.cli", *map(str, arguments)]
    return subprocess.run(command, input=text, capture_output=True, text=True)


@pytest.fixture(scope="module")
def checkpoint(bert_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    Reranker.from_pretrained(bert_folder, prompt="prorank-short", max_length=64, precision="fp32").save_pretrained(
        folder
    )
    return folder


def test_rerank_takes_arguments_files_and_standard_input(checkpoint, tmp_path, call):
    documents = ["river stone", "apple", "tiger piano"]
    code, out, _ = call("rerank", "-m", checkpoint, "apple", *documents, "--json")
    assert code == 0
    expected = json.loads(out)
    assert {result["text"] for result in expected} == set(documents)
    (tmp_path / "d.txt").write_text("\n".join(documents) + "\n\n")
    assert json.loads(call("rerank", "-m", checkpoint, "apple", "--file", tmp_path / "d.txt", "--json")[1]) == expected
    rows = [json.dumps(documents[0]), json.dumps({"text": documents[1], "id": 7}), json.dumps({"text": documents[2]})]
    (tmp_path / "d.jsonl").write_text("\n".join(rows))
    from_jsonl = json.loads(call("rerank", "-m", checkpoint, "apple", "--file", tmp_path / "d.jsonl", "--json")[1])
    assert [r["corpus_id"] for r in from_jsonl] == [r["corpus_id"] for r in expected]
    piped = prorank("rerank", "-m", checkpoint, "apple", "--json", text="\n".join(documents))
    assert piped.returncode == 0 and json.loads(piped.stdout) == expected
    code, out, _ = call("rerank", "-m", checkpoint, "apple", *documents, "--top-k", 1)
    assert out.startswith("  1 ") and out.count("\n") == 1


def test_index_search_rerank_evaluate_a_collection(checkpoint, word_collection, tmp_path, call):
    assert call("index", word_collection, "--output", tmp_path / "index")[0] == 0
    code, out, _ = call("search", tmp_path / "index", "apple river", "--top-k", 3)
    assert code == 0 and 0 < out.count("\n") <= 3
    first = tmp_path / "first.run"
    arguments = ["search", tmp_path / "index", "--collection", word_collection, "--split", "test", "--output", first]
    assert call(*arguments)[0] == 0
    assert set(read_run(first)) == set(load_collection(word_collection).judgments("test"))
    reranked = tmp_path / "second.run"
    rerank = ["rerank", "-m", checkpoint, "--run", first, "--collection", word_collection, "--output", reranked]
    assert call(*rerank)[0] == 0
    assert {q: set(d) for q, d in read_run(reranked).items()} == {q: set(d) for q, d in read_run(first).items()}
    code, _, err = call(*rerank)
    assert code == 2 and "--force" in err
    evaluate = ["evaluate", checkpoint, word_collection, "--run", first, "--hybrid", 0.2, "--output", tmp_path / "e"]
    code, out, _ = call(*evaluate, "--json")
    assert code == 0
    summary = json.loads(out)
    assert [row["stage"] for row in summary["rows"]] == ["first.run", "reranked", "hybrid"]
    assert json.loads((tmp_path / "e" / "summary.json").read_text()) == summary
    assert (tmp_path / "e" / "reranked" / "per_query.tsv").is_file()
    assert call(*evaluate)[0] == 2
    table = call("evaluate", checkpoint, word_collection, "--max-queries", 4)[1]
    assert "BM25" in table and "reranked" in table


def test_data_commands(word_collection, tmp_path, call):
    code, out, _ = call("data", "check", word_collection, "--json")
    summary = json.loads(out)
    assert code == 0 and summary["documents"] == 60 and summary["splits"]["test"]["queries"] == 10
    assert "0 doubtful entries" in call("data", "check", word_collection)[1]
    output = tmp_path / "negatives.jsonl"
    code, out, _ = call("data", "mine", word_collection, "--output", output, "--hard", 2, "--easy", 0)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert code == 0 and len(rows) == 24 and "24 queries mined" in out
    assert all(not set(row["positives"]) & set(row["negatives"]) for row in rows)
    assert call("data", "mine", word_collection, "--output", output)[0] == 2


def test_info(checkpoint, bert_folder, call):
    description = json.loads(call("info", checkpoint, "--json")[1])
    assert description["family"] == "masked" and description["prompt"] == "prorank-short"
    assert "prorank checkpoint" in call("info", bert_folder)[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["info", "nowhere/at/all"], "no model at"),
        (["rerank", "-m", "nowhere", "q", "d"], "cannot load 'nowhere'"),
        (["rerank", "-m", "{model}", "", "d"], "query is empty"),
        (["rerank", "-m", "{model}", "q", "--file", "absent.txt"], "absent.txt: cannot be read"),
        (["rerank", "-m", "{model}"], "no query"),
        (["rerank", "{model}", "q", "d"], "the model goes under --model"),
        (["rerank", "-m", "{model}", "--run", "x.run"], "--run needs"),
        (["rerank", "-m", "{model}", "q", "d", "--prompt", "yesno"], "brings its own prompt"),
        (["evaluate", "{model}", "{data}", "--split", "moon"], "no split 'moon'"),
        (["evaluate", "{model}", "{data}", "--run", "{bad_run}"], "bad.run:1: expected 6 columns"),
        (["evaluate", "{model}", "absent-collection"], "bundled collections: cosqa"),
        (["train", "quickstrat"], "no recipe 'quickstrat'"),
        (["train", "quickstart", "warmup.stpes=3"], "did you mean 'warmup.steps'"),
        (["index", "{data}", "--output", "i", "--language", "klingon"], "unknown language"),
        (["search", "{data}", "q"], "holds no index"),
        (["search", "{data}"], "either a query or --collection"),
        (["data", "check", "{bad_data}"], "corpus.jsonl:2: not valid JSON"),
        (["data", "check", "{doubtful}", "--strict"], "2 doubtful entries"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_errors_are_one_line_with_code_two(arguments, words, checkpoint, word_collection, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.run").write_text("q1 d1 1\n")
    for name, corpus in (("bad", '{"_id": "1", "text": "a"}\n{oops\n'), ("doubtful", '{"_id": "1", "text": ""}\n')):
        (tmp_path / name / "qrels").mkdir(parents=True)
        (tmp_path / name / "corpus.jsonl").write_text(corpus)
        (tmp_path / name / "queries.jsonl").write_text('{"_id": "q", "text": "a"}\n')
        (tmp_path / name / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n")
    places = {
        "{model}": checkpoint,
        "{data}": word_collection,
        "{bad_run}": "bad.run",
        "{bad_data}": tmp_path / "bad",
        "{doubtful}": tmp_path / "doubtful",
    }
    code, out, err = call(*[places.get(argument, argument) for argument in arguments])
    assert code == 2
    assert words in " ".join(err.split())
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in out + err


def test_unexpected_errors_are_short_unless_debug(monkeypatch, call):
    def broken(_):
        raise RuntimeError("wires crossed")

    monkeypatch.setattr("prorank.model.checkpoint.describe", broken)
    code, _, err = call("info", "x")
    assert code == 1 and "unexpected error" in err and "wires crossed" in err and "Traceback" not in err
    monkeypatch.setattr(sys, "argv", ["prorank", "--debug", "info", "x"])
    with pytest.raises(RuntimeError):
        cli.main()
    cli._state["debug"] = False


def test_missing_extra_names_the_pip_command(monkeypatch, word_collection, tmp_path, call):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    code, _, err = call("index", word_collection, "--output", tmp_path / "i")
    assert code == 2 and "pip install 'prorank[eval]'" in err


def test_help_and_version():
    runner = CliRunner()
    assert runner.invoke(cli.app, ["--version"]).output.strip() == VERSION
    for command in ("quickstart", "train", "evaluate", "rerank", "index", "search", "info", "data"):
        assert command in runner.invoke(cli.app, ["--help"]).output


def test_an_interrupt_while_the_command_line_is_imported_leaves_no_traceback():
    code = """
import runpy, sys

class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
runpy.run_module("prorank.cli", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "stopped\n")
    assert 'prorank = "prorank.cli.entry:main"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_importing_prorank_is_light():
    code = "import sys, prorank; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
