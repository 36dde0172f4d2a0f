"""What must not mix or pass unseen: test queries in training, results of two calls, names that a recipe gets wrong."""

import gzip
import json
import os

import pytest
from tiny_runs import tiny

from prorank.data.collection import load_collection
from prorank.data.trec import read_run
from prorank.erank.graders import load_teacher
from prorank.pipeline.run import run_recipe
from prorank.reranker import Reranker
from prorank.util.errors import CheckpointError, DataError, ProrankError
from prorank.util.files import atomic_writer


def graded(path, queries):
    rows = [
        {
            "query_id": query,
            "documents": [{"id": d, "grade": g, "relevant": g > 5, "text": ""} for d, g in (("d0", 9), ("d1", 1))],
        }
        for query in queries
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def erank(bert_folder, word_collection, file):
    sft = {"steps": 2, "pairs_per_step": 2, "evaluate_every": 2, "dev_queries": 2}
    none = {"warmup": None, "score_learning": None}
    return tiny(bert_folder, word_collection, grades={"file": str(file)}, sft=sft, evaluation__max_queries=3, **none)


def test_grades_of_test_queries_are_refused_before_anything_is_done(bert_folder, word_collection, tmp_path):
    tests = load_collection(word_collection).judgments("test")
    recipe = erank(bert_folder, word_collection, graded(tmp_path / "g.jsonl", tests))
    with pytest.raises(DataError, match=rf"none of its {len(tests)} graded queries is in split 'train'"):
        run_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_grades_of_test_queries_are_left_out_and_said(bert_folder, word_collection, tmp_path, monkeypatch, capsys):
    import prorank.erank.graded as module

    loaded = load_collection(word_collection)
    train, test = list(loaded.judgments("train"))[:3], list(loaded.judgments("test"))[:2]
    seen, usual = set(), module.encoded_lists
    monkeypatch.setattr(
        module,
        "encoded_lists",
        lambda context, tokenizer, lists: seen.update(lists) or usual(context, tokenizer, lists),
    )
    run_recipe(erank(bert_folder, word_collection, graded(tmp_path / "g.jsonl", [*train, *test])), tmp_path / "run")
    assert seen == set(train)
    assert "2 graded queries are not in 'train'" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"score_learning__teacher": {"model": "/no/model"}}, CheckpointError, "score_learning.teacher.model: "),
        (
            {"score_learning__teacher": {"model": ["embedded", "/no/model"]}},
            CheckpointError,
            "score_learning.teacher.model.1: ",
        ),
        ({"score_learning__average_with": ["/no/model"]}, CheckpointError, "score_learning.average_with.0: "),
        (
            {"first_stage": {"method": "dense", "dense_model": "/no/model"}},
            CheckpointError,
            "first_stage.dense_model: ",
        ),
    ],
)
def test_names_in_a_recipe_are_looked_at_before_anything_is_done(
    changes, error, says, bert_folder, word_collection, tmp_path
):
    with pytest.raises(error, match=says):
        run_recipe(tiny(bert_folder, word_collection, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def models(bert_folder, tmp_path):
    options = {"prompt": "prorank-short", "max_length": 48, "precision": "fp32"}
    Reranker(bert_folder, **options).save_pretrained(tmp_path / "one")
    Reranker(bert_folder, **options | {"max_length": 40}).save_pretrained(tmp_path / "two")
    return tmp_path / "one", tmp_path / "two"


def test_a_forced_evaluation_leaves_nothing_of_the_one_before(models, word_collection, tmp_path, call):
    one, two = models
    output = tmp_path / "out"
    assert call("evaluate", one, word_collection, "--depth", 6, "--hybrid", 0.5, "--output", output)[0] == 0
    assert (output / "hybrid" / "run.trec").is_file()
    code, _, err = call("evaluate", two, word_collection, "--depth", 3, "--output", output, "--force")
    assert code == 0, err
    assert not (output / "hybrid").exists() and json.loads((output / "summary.json").read_text())["model"] == str(two)


@pytest.mark.parametrize("name", ["depth", "passages", "prorank"])
def test_a_runs_file_name_is_no_setting(name, models, word_collection, tmp_path, monkeypatch):
    """A run file may be called like something that its reranking depends on."""
    import prorank.evaluation.rerank_file as module

    monkeypatch.chdir(tmp_path)
    rows = [f"{q} Q0 d{i} {i} {10 - i} x" for q in load_collection(word_collection).judgments("test") for i in range(6)]
    (tmp_path / name).write_text("\n".join(rows) + "\n")

    class Stop(Exception):
        pass

    def stop(*arguments):
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(module.Journal, "finish", stop)
        with pytest.raises(Stop):
            module.rerank_file(str(models[0]), str(word_collection), tmp_path / name, tmp_path / "o", 4)
    with pytest.raises(ProrankError, match="depth changed"):
        module.rerank_file(str(models[0]), str(word_collection), tmp_path / name, tmp_path / "o", 2)


def test_excluded_documents_are_read_gzipped_too(word_collection, tmp_path):
    import shutil

    folder = shutil.copytree(word_collection, tmp_path / "c")
    query = next(iter(load_collection(folder).judgments("test")))
    (folder / "excluded.tsv.gz").write_bytes(gzip.compress(f"query-id\tcorpus-id\n{query}\td1\n".encode()))
    assert load_collection(folder).excluded == {query: ["d1"]}


@pytest.mark.parametrize("score", ["1_000", "٣", "nan", "1e999", "x"])
def test_scores_that_evaluators_cannot_read_are_refused(score, tmp_path):
    (tmp_path / "a.run").write_text(f"q1 Q0 d1 1 {score} x\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"a.run:1: score must be a finite number"):
        read_run(tmp_path / "a.run")


def test_an_empty_run_is_refused(models, word_collection, tmp_path, call):
    (tmp_path / "empty.run").write_text("")
    arguments = ("--run", tmp_path / "empty.run", "--collection", word_collection, "--output", tmp_path / "o.run")
    code, _, err = call("rerank", "-m", models[0], *arguments)
    assert code == 2 and "the run is empty" in err and not (tmp_path / "o.run").exists()


def test_what_a_link_leads_to_is_written(tmp_path):
    os.symlink(tmp_path / "target.txt", tmp_path / "link.txt")
    with atomic_writer(tmp_path / "link.txt") as file:
        file.write("whole")
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "target.txt").read_text() == "whole"


@pytest.mark.parametrize("temperature", [float("nan"), float("inf"), -1.0])
def test_a_temperature_that_is_no_number_is_refused(temperature):
    with pytest.raises(ProrankError, match="temperature must be a number"):
        load_teacher("chat:m", 1, 8, temperature)


def test_a_teacher_without_a_single_grade_is_an_error(qwen_folder, word_collection, tmp_path, call):
    command = ["data", "synthesize", word_collection, "--teacher", f"local:{qwen_folder}", "--queries", 1]
    command += ["--max-new-tokens", 8, "--generations", 1, "--hard", 1, "--medium", 1, "--easy", 0]
    code, _, err = call(*command, "--output", tmp_path / "g.jsonl")
    assert code == 2 and "no usable grade" in err and not (tmp_path / "g.jsonl").exists()


@pytest.mark.parametrize("text", ["[]", '{"a": 1}', '{"collection": "c", "recipe": "r", "queries": 3, "rows": [1]}'])
def test_a_file_that_holds_no_results_is_named(text, tmp_path, call):
    (tmp_path / "rep.json").write_text(text)
    for options in ((), ("--markdown",), ("--json",)):
        code, _, err = call("report", tmp_path / "rep.json", *options)
        assert code == 2 and "rep.json: not the results of a run" in err
