"""Long runs: bounded memory, the same output after a kill, nothing mixed with other work."""

import json
import logging
import os
import signal
import sys
import tracemalloc

import numpy as np
import pytest
from children import started
from conftest import write_collection
from hypothesis import given
from hypothesis import strategies as st

from prorank import Reranker
from prorank.data.collection import load_collection
from prorank.data.runs import rerank_run
from prorank.data.trec import read_run, write_run
from prorank.engine.scorer import ScoredPairs
from prorank.evaluation import evaluator, streaming
from prorank.evaluation.rerank import rerank_collection
from prorank.evaluation.rerank_file import JOURNAL
from prorank.evaluation.streaming import Journal, blocks, lists_of_file, lists_together, rerank_lists, survey
from prorank.prompts.truncation import Truncation
from prorank.util.errors import DataError, InputError, ProrankError
from prorank.util.live import locked


def interrupt():
    raise KeyboardInterrupt


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Stub:
    """Scores by length, until it has scored enough."""

    whole_lists = False

    def __init__(self, fail_after=None, fail=interrupt):
        self.asked, self.fail_after, self.fail, self.warned = 0, fail_after, fail, []

    def score_detailed(self, pairs, progress=None, lists=None):
        self.asked += len(pairs)
        if self.fail_after is not None and self.asked > self.fail_after:
            self.fail()
        scores = np.array([len(document) + len(query) / 7 for query, document in pairs], dtype=np.float32)
        return ScoredPairs(scores, Truncation(1, 9, documents=1), 0, len(pairs))

    def warn(self, found):
        self.warned.append(found)


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    """A collection with 400 queries and its run of 50 documents each, in the folder beside."""
    folder = tmp_path_factory.mktemp("long")
    documents = {f"d{i}": "owl " * (i % 17 + 1) for i in range(60)}
    queries = {f"q{i}": "when " * (i % 5 + 1) for i in range(400)}
    write_collection(folder / "c", documents, queries, {"test": {q: {"d1": 1} for q in queries}})
    run = {q: {f"d{(i + j) % 60}": 50.0 - j for j in range(50)} for i, q in enumerate(queries)}
    write_run(run, folder / "bm25.run")
    return folder


def reranked(folder, output, lists, made_from, scorer, force=False):
    journal = Journal(output, made_from, force)
    rerank_lists(scorer, load_collection(folder / "c"), lists, 100, journal)
    journal.finish()


def rerank_file(folder, output, fail_after=None, fail=interrupt):
    run = folder / "bm25.run"
    together = survey(run, load_collection(folder / "c"), 100).together
    reranked(folder, output, lists_of_file(run, together), {"run": "1"}, Stub(fail_after, fail))


def test_a_killed_run_goes_on_to_the_same_output(long_run, tmp_path):
    rerank_file(long_run, tmp_path / "alone.run")
    process = started(rerank_file, long_run, tmp_path / "killed.run", 9_000, die)
    process.join(100)
    assert process.exitcode == -signal.SIGKILL
    state = json.loads((tmp_path / "killed.run.part.json").read_text())
    assert 0 < state["queries"] < 400 and not (tmp_path / "killed.run").exists()
    with (tmp_path / "killed.run.part").open("a") as file:
        file.write("q399 Q0 d1 1 torn")  # what a kill in the middle of a block leaves
    rerank_file(long_run, tmp_path / "killed.run", 20_000 - 50 * state["queries"])  # no pair more than is left
    assert (tmp_path / "killed.run").read_bytes() == (tmp_path / "alone.run").read_bytes()
    assert not list(tmp_path.glob("*.part*"))
    first = read_run(long_run / "bm25.run")
    scores = {q: {d: len("owl " * (int(d[1:]) % 17 + 1)) - 1.0 for d in listed} for q, listed in first.items()}
    order = [list(listed) for listed in rerank_run(first, scores, 100).values()]
    assert [sorted(listed) for listed in read_run(tmp_path / "alone.run").values()] == [sorted(o) for o in order]


def test_memory_does_not_grow_with_the_run(long_run, tmp_path):
    collection = load_collection(long_run / "c")
    lines = (long_run / "bm25.run").read_text().splitlines(keepends=True)
    peaks = []
    for queries in (400, 80, 400):  # the first counts what is made once, such as the code that measures coverage
        run = tmp_path / f"{queries}.run"
        run.write_text("".join(lines[: queries * 50]))
        shape = survey(run, collection, 100)
        assert shape == (queries, queries * 50, True)
        journal = Journal(tmp_path / f"{queries}-{len(peaks)}.out", {})
        tracemalloc.start()
        rerank_lists(Stub(), collection, lists_of_file(run, shape.together), 100, journal)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.25 * peaks[1]  # ids of queries are kept; pairs and scores, five times as many, are not


def test_what_was_made_from_something_else_is_refused_and_named(long_run, tmp_path):
    lists = list(lists_together(long_run / "bm25.run"))
    with pytest.raises(KeyboardInterrupt):
        reranked(long_run, tmp_path / "r", lists, {"depth": 5, "bm25.run": "a"}, Stub(fail_after=5_000))
    with pytest.raises(ProrankError, match=r"r\.part was made from something else: bm25\.run changed \(--force"):
        reranked(long_run, tmp_path / "r", lists, {"depth": 5, "bm25.run": "b"}, Stub())
    scorer = Stub()
    reranked(long_run, tmp_path / "r", lists, {"depth": 5, "bm25.run": "b"}, scorer, force=True)
    assert scorer.asked == 20_000  # from the start
    assert len(read_run(tmp_path / "r")) == 400


@pytest.mark.parametrize("harm", ["shorter", "edited", "no object", "no counts", "no numbers", "no JSON"])
def test_a_damaged_journal_is_refused_and_named(long_run, tmp_path, harm):
    lists = list(lists_together(long_run / "bm25.run"))
    with pytest.raises(KeyboardInterrupt):
        reranked(long_run, tmp_path / "r", lists, {"depth": 5}, Stub(fail_after=5_000))
    part, state = tmp_path / "r.part", tmp_path / "r.part.json"
    known = json.loads(state.read_text())
    if harm == "shorter":  # must not be filled up with zeros
        part.write_bytes(part.read_bytes()[: known["bytes"] - 1])
    elif harm == "edited":
        part.write_bytes(part.read_bytes().replace(b"d1 ", b"d2 ", 1))
    else:
        wrong = {"no object": [], "no counts": {"made_from": {"depth": 5}}, "no numbers": known | {"bytes": None}}
        state.write_text(json.dumps(wrong[harm]) if harm in wrong else "{")
    with pytest.raises(DataError, match=r"r\.part"):
        Journal(tmp_path / "r", {"depth": 5})
    reranked(long_run, tmp_path / "r", lists, {"depth": 5}, Stub(), force=True)
    assert len(read_run(tmp_path / "r")) == 400


def test_going_on_is_said_aloud(long_run, tmp_path, caplog):
    lists = list(lists_together(long_run / "bm25.run"))
    with pytest.raises(KeyboardInterrupt):
        reranked(long_run, tmp_path / "r", lists, {}, Stub(fail_after=5_000))
    with caplog.at_level(logging.WARNING):
        reranked(long_run, tmp_path / "r", lists, {}, Stub())
    assert "r.part: 80 queries are done" in caplog.text


def test_scattered_rows_are_read_whole_and_said_aloud(tmp_path, word_collection, caplog):
    collection = load_collection(word_collection)
    (tmp_path / "r").write_text("q1 Q0 d1 1 2.0 x\nq2 Q0 d1 1 2.0 x\nq1 Q0 d2 2 1.0 x\n")
    shape = survey(tmp_path / "r", collection, 1)
    assert shape == (2, 2, False)
    with caplog.at_level(logging.WARNING):
        assert dict(lists_of_file(tmp_path / "r", shape.together)) == read_run(tmp_path / "r")
    assert "scattered" in caplog.text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("q1 Q0 d1 1 2.0 x\nq1 Q0 d1 2 1.0 x\n", "r:2: document 'd1' stands twice"),
        ("q1 Q0 nowhere 1 2.0 x\n", "r:1: document 'nowhere' is not in"),
        ("nobody Q0 d1 1 2.0 x\n", "r:1: query 'nobody' is not in"),
    ],
)
def test_a_run_that_does_not_fit_is_refused_with_the_line(rows, message, tmp_path, word_collection):
    (tmp_path / "r").write_text(rows)
    with pytest.raises(DataError, match=message):
        survey(tmp_path / "r", load_collection(word_collection), 5)


def test_a_list_longer_than_a_block_is_scored_in_parts(long_run, monkeypatch):
    collection, asked = load_collection(long_run / "c"), []
    lists = {"q0": {f"d{i}": float(-i) for i in range(60)}, "q1": {"d0": 1.0}}
    whole = rerank_collection(Stub(), collection, lists, 60)

    class Watched(Stub):
        def score_detailed(self, pairs, progress=None, lists=None):
            asked.append(len(pairs))
            return super().score_detailed(pairs)

    monkeypatch.setattr(streaming, "MOST", 25)
    scorer = Watched()
    assert rerank_collection(scorer, collection, lists, 60) == whole
    assert asked == [25, 25, 11] and scorer.warned[0].read == 61


IDS = st.text("abc", min_size=1, max_size=3)


@given(st.dictionaries(IDS, st.dictionaries(IDS, st.floats(-9, 9), min_size=1, max_size=4)), st.integers(1, 9))
def test_blocks_hold_every_query_once_in_order(run, size):
    cut = list(blocks(run.items(), 3, size))
    assert [query for block in cut for query in block] == list(run)
    assert all(sum(min(3, len(listed)) for listed in block.values()) >= size for block in cut[:-1])


def test_blocks_do_not_change_scores_and_warn_once(long_run, monkeypatch):
    collection, lists = load_collection(long_run / "c"), read_run(long_run / "bm25.run")
    whole, scorer = rerank_collection(Stub(), collection, lists, 7), Stub()
    monkeypatch.setattr(streaming, "BLOCK", 100)
    monkeypatch.setattr(streaming.blocks, "__defaults__", (100,))
    assert rerank_collection(scorer, collection, lists, 7) == whole
    (said,) = scorer.warned
    assert said.read == scorer.asked == 2_800 and said.truncation.pairs == said.truncation.documents > 20


def test_an_interrupted_evaluation_goes_on(bert_folder, word_collection, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming.blocks, "__defaults__", (20,))
    options = {"depth": 8, "prompt": "prorank-short", "max_length": 48}
    alone = evaluator.evaluate_model(str(bert_folder), str(word_collection), output=tmp_path / "alone", **options)
    real, calls = evaluator.Reranker.score_detailed, []

    def stops(self, pairs, progress=None, lists=None):
        calls.append(len(pairs))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, pairs, progress, lists)

    monkeypatch.setattr(evaluator.Reranker, "score_detailed", stops)
    with pytest.raises(KeyboardInterrupt):
        evaluator.evaluate_model(str(bert_folder), str(word_collection), output=tmp_path / "stopped", **options)
    before = sum(calls[:2])
    assert (tmp_path / "stopped" / f"{JOURNAL}.part").is_file()
    again = evaluator.evaluate_model(str(bert_folder), str(word_collection), output=tmp_path / "stopped", **options)
    assert again["rows"] == alone["rows"] and before + sum(calls[3:]) == alone["queries"] * 8
    assert not list((tmp_path / "stopped").glob(f"{JOURNAL}*"))
    for name in ("run.trec", "per_query.tsv"):
        file = tmp_path / "stopped" / "reranked" / name
        assert file.read_bytes() == (tmp_path / "alone" / "reranked" / name).read_bytes()


def test_rerank_on_the_command_line_streams(call, long_run, bert_folder, tmp_path, word_collection):
    collection = load_collection(word_collection)
    queries = list(collection.judgments("test"))
    write_run({q: {f"d{i}": 9.0 - i for i in range(6)} for q in queries}, tmp_path / "in.run")
    arguments = ("rerank", "--run", tmp_path / "in.run", "--collection", word_collection, "-m", bert_folder)
    options = ("--prompt", "prorank-short", "--max-length", 48, "--depth", 4, "--output", tmp_path / "out.run")
    assert call(*arguments, *options)[0] == 0
    run = read_run(tmp_path / "out.run")
    assert list(run) == queries and all(len(listed) == 6 for listed in run.values())
    code, _, err = call(*arguments, *options)
    assert code == 2 and "--force" in err


def test_an_interrupt_says_what_is_kept_and_how_to_go_on(call, long_run, tmp_path, monkeypatch, bert_folder):
    monkeypatch.setattr(streaming.blocks, "__defaults__", (100,))
    stub = Stub(fail_after=300)
    face = "prorank.evaluation.rerank_file.Reranker.score_detailed"
    monkeypatch.setattr(face, lambda _, pairs, lists: stub.score_detailed(pairs))
    output = tmp_path / "out.run"
    arguments = ["rerank", "--run", long_run / "bm25.run", "--collection", long_run / "c", "-m", bert_folder]
    code, _, err = call(*arguments, "--prompt", "prorank-short", "--max-length", 48, "--output", output)
    assert code == 130 and f"6 queries in {output}.part" in err and "Resume with: prorank rerank --run" in err
    stub.fail_after = None
    assert call(*arguments, "--prompt", "prorank-short", "--max-length", 48, "--output", output)[0] == 0
    assert stub.asked == 20_000 + 100  # the block that was cut off came again


def test_two_processes_do_not_write_one_run(call, long_run, tmp_path, bert_folder):
    output = tmp_path / "out.run"
    arguments = ["rerank", "--run", long_run / "bm25.run", "--collection", long_run / "c", "-m", bert_folder]
    with locked(tmp_path, "out.run"):
        code, _, err = call(*arguments, "--prompt", "prorank-short", "--max-length", 48, "--output", output)
    assert code == 2 and "in use by a running process" in err


def test_a_reranker_is_built_from_parts_in_memory(bert_folder):
    loaded = Reranker(bert_folder, prompt="prorank-short", max_length=48)
    built = Reranker(loaded.backbone, loaded.tokenizer, loaded.settings, passages="max")
    pairs = [("apple river", "apple"), ("stone", "river")]
    assert built.score(pairs) == loaded.score(pairs) and built.passages == "max"
    with pytest.raises(InputError, match="goes with its tokenizer and settings"):
        Reranker(loaded.backbone, prompt="prorank-short")
    with pytest.raises(InputError, match="brings its own"):
        Reranker(bert_folder, loaded.tokenizer, loaded.settings)


@pytest.fixture
def small_run(word_collection, tmp_path):
    """Arguments of `rerank --run` without an output."""
    queries = list(load_collection(word_collection).judgments("test"))[:2]
    write_run({q: {f"d{i}": 9.0 - i for i in range(3)} for q in queries}, tmp_path / "in.run")
    return ["rerank", "--run", tmp_path / "in.run", "--collection", word_collection, "--prompt", "prorank-short"]


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_an_output_that_no_file_can_take_is_refused_before_the_model_runs(kind, call, small_run, bert_folder, tmp_path):
    output = tmp_path / "taken"
    output.mkdir() if kind == "folder" else os.mkfifo(output)
    code, _, err = call(*small_run, "-m", bert_folder, "--output", output, "--force")
    assert code == 2 and f"is a {'folder' if kind == 'folder' else 'device or pipe'}" in err
    assert output.exists() and not output.is_file() and not list(tmp_path.glob("taken.part*"))


def test_two_processes_do_not_write_one_output(call, small_run, bert_folder, word_collection, tmp_path):
    with locked(tmp_path, "out.run"):
        code, _, err = call(*small_run, "-m", bert_folder, "--output", tmp_path / "out.run")
    assert code == 2 and f"out.run is in use by a running process (pid {os.getpid()})" in err
    assert not list(tmp_path.glob("out.run*"))
    with locked(tmp_path / "e", JOURNAL), pytest.raises(ProrankError, match="in use"):
        evaluator.evaluate_model(
            str(bert_folder), str(word_collection), output=tmp_path / "e", prompt="prorank-short", depth=2
        )


def test_a_cluster_without_the_package_names_the_pip_command(call, small_run, bert_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = call(*small_run, "-m", bert_folder, "--output", tmp_path / "out.run", "--ray", "auto")
    assert code == 2 and "pip install 'prorank[ray]'" in err
    code, _, err = call("rerank", "owls", "Owls hunt.", "--ray", "auto")
    assert code == 2 and "--ray: only with --run" in err
