"""Options that would be passed over are refused; those that all commands share mean the same."""

import json

import pytest

from prorank import Reranker


@pytest.fixture(scope="module")
def checkpoint(bert_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    Reranker(bert_folder, prompt="prorank-short", max_length=64, precision="fp32").save_pretrained(folder)
    return folder


RUN = ["rerank", "--run", "x.run", "--collection", "{data}", "--output", "y.run"]
SEARCH = ["search", "x", "--collection", "{data}", "--output", "y.run"]
SYNTHESIZE = ["data", "synthesize", "{data}", "--output", "o.jsonl", "--teacher", "qrels"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["rerank", "q", "a", "--file", "f.txt"], "--file"),
        ([*RUN, "--top-k", "3"], "--top-k"),
        ([*RUN, "--threshold", "0.5"], "--threshold"),
        ([*RUN, "--file", "f.txt"], "--file"),
        (["rerank", "q", "a", "--output", "x"], "--output"),
        (["rerank", "q", "a", "--collection", "x"], "--collection"),
        (["rerank", "q", "a", "--depth", "100"], "--depth"),
        (["rerank", "q", "a", "--force"], "--force"),
        (["search", "x", "q", "--split", "test"], "--split"),
        (["search", "x", "q", "--output", "o"], "--output"),
        (["search", "x", "q", "--force"], "--force"),
        (["evaluate", "m", "{data}", "--hybrid-scale", "min-max"], "--hybrid-scale"),
        (["evaluate", "m", "{data}", "--run", "x.run", "--candidates"], "--candidates"),
        (["evaluate", "m", "{data}", "--force"], "--force"),
        (["report", "x.json", "--markdown", "--json"], "--markdown"),
        (["bench", "quality", "{data}", "--markdown", "--json"], "--markdown"),
        (["export", "m", "--to", "int8-rowwise", "--output", "o", "--int8"], "--int8"),
        (["export", "m", "--to", "sentence-transformers", "--output", "o", "--int8"], "--int8"),
        (["export", "m", "--to", "onnx", "--output", "o", "--rank", "8"], "--rank"),
        (["export", "m", "--to", "onnx", "--output", "o", "--base", "embedded"], "--base"),
        (["train", "quickstart", "--resume", "--force"], "--resume"),
        (["quickstart", "--resume", "--force"], "--resume"),
        (["recipes", "--json", "show", "quickstart"], "--json"),
        ([*SYNTHESIZE, "--base-url", "http://localhost"], "--base-url"),
        ([*SYNTHESIZE, "--concurrency", "2"], "--concurrency"),
        ([*SYNTHESIZE, "--temperature", "0"], "--temperature"),
        (["data", "mine", "{data}", "--output", "o", "--margin", "0.1"], "--margin"),
        (["data", "convert", "followir", ".", "--output", "o", "--long"], "--long"),
        (["data", "convert", "followir", ".", "--output", "o", "--part", "x"], "--part"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_options_that_would_be_ignored_are_refused(arguments, named, word_collection, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.json").write_text("[]")
    (tmp_path / "f.txt").write_text("a\n")
    code, out, err = call(*[word_collection if word == "{data}" else word for word in arguments])
    assert code == 2 and not out and named in err and len(err.strip().splitlines()) == 1


def test_device_precision_and_length_reach_the_model(checkpoint, word_collection, call, monkeypatch):
    seen = []
    load = Reranker.from_pretrained.__func__
    monkeypatch.setattr(
        Reranker, "from_pretrained", classmethod(lambda cls, name, **o: seen.append(o) or load(cls, name, **o))
    )
    options = ["--device", "cpu", "--precision", "bf16", "--max-length", 48]
    assert call("rerank", "-m", checkpoint, "apple", "stone", *options)[0] == 0
    assert call("evaluate", checkpoint, word_collection, "--max-queries", 2, "--depth", 2, *options)[0] == 0
    assert [(o["device"], o["precision"], o["max_length"]) for o in seen] == [("cpu", "bf16", 48)] * 2


def test_json_is_a_flag_and_output_a_file_in_bench(word_collection, tmp_path, call, monkeypatch):
    found = {"speed_ratio": {}, "supervised_ratio": 1.0}
    monkeypatch.setattr("prorank.bench.warmup.run_warmup_bench", lambda *_, **__: found)
    code, out, err = call("bench", "warmup", "--json", "--output", tmp_path / "r.json")
    assert code == 0 and json.loads(out) == found == json.loads((tmp_path / "r.json").read_text())
    assert "written to" in err
    for command in ("inference", "warmup", "guards", "variance", "quality", "erank"):
        text = call("bench", command, "--help")[1]
        assert "--json " in text and "--output" in text


def test_reports_as_json_are_the_results(tmp_path, call):
    results = {"collection": "c", "recipe": "r", "queries": 3, "rows": []}
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert json.loads(call("report", tmp_path, "--json")[1]) == [results]


def test_a_closed_standard_input_holds_no_documents(checkpoint, call, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    code, _, err = call("rerank", "-m", checkpoint, "apple")
    assert code == 2 and "no documents" in err


def test_a_query_longer_than_a_file_name(checkpoint, call):
    assert call("rerank", "-m", checkpoint, "apple " * 100, "stone")[0] == 0


@pytest.mark.parametrize("device", ["nope", "cuda:99", ""])
def test_a_device_that_is_not_here_is_named(device, checkpoint, call):
    code, _, err = call("rerank", "-m", checkpoint, "apple", "stone", "--device", device)
    assert code == 2 and f"no device '{device}' here" in err


@pytest.mark.parametrize(
    "command",
    [
        ["ablate", "quickstart", "--seeds"],
        ["bench", "guards", "toy", "--seeds"],
        ["bench", "erank", "{data}", "--recipe", "quickstart", "--seeds"],
        ["bench", "training", "{data}", "--seeds"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_numbers_that_stand_twice_in_a_list_are_refused(command, word_collection, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(*[str(word_collection) if word == "{data}" else word for word in command], "3,1, 3")
    assert code == 2 and "holds 3 twice" in " ".join(err.split()) and not list(tmp_path.glob("runs/**/*.json"))
