"""What --force may delete: what prorank made there, and nothing else."""

import shutil

import pytest

from prorank import Reranker
from prorank.evaluation.evaluator import evaluate_model
from prorank.pipeline.run_folder import prepare_folder
from prorank.recipe.loading import load_recipe


@pytest.fixture(scope="module")
def checkpoint(bert_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "checkpoint"
    Reranker(bert_folder, prompt="prorank-short", max_length=64, precision="fp32").save_pretrained(folder)
    return folder


def refused(call, *command):
    """What a command says that must be refused with --force."""
    code, _, err = call(*command, "--force")
    assert code == 2, err
    return " ".join(err.split())


@pytest.mark.parametrize("name", ["thesis.txt", "sub/config.json", "data/corpus.jsonl", "model.py"])
def test_an_export_replaces_no_folder_with_files_of_others(name, checkpoint, tmp_path, call):
    output = shutil.copytree(checkpoint, tmp_path / "out")
    (output / name).parent.mkdir(exist_ok=True)
    (output / name).write_text("precious")
    said = refused(call, "export", checkpoint, "--to", "int8-rowwise", "--output", output)
    assert f"holds {name}, which a checkpoint or export does not" in said and "move the others away" in said
    assert (output / name).read_text() == "precious" and (output / "prorank.json").is_file()


def test_an_export_replaces_no_folder_that_is_no_model(checkpoint, tmp_path, call):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("precious")
    said = refused(call, "export", checkpoint, "--to", "int8-rowwise", "--output", tmp_path / "out")
    assert "no checkpoint or export" in said and (tmp_path / "out" / "README.md").read_text() == "precious"


@pytest.mark.parametrize("name", ["notes.txt", "qrels/notes.txt", "corpus/a.txt"])
def test_a_collection_replaces_no_folder_with_files_of_others(name, tmp_path, call):
    (tmp_path / "pairs.csv").write_text("question,answer\nwhen,now\n")
    command = ["data", "from-pairs", tmp_path / "pairs.csv", "--output", tmp_path / "out"]
    assert call(*command)[0] == 0 and call(*command, "--force")[0] == 0
    (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "out" / name).write_text("precious")
    assert f"holds {name}, which a collection does not" in refused(call, *command)
    assert (tmp_path / "out" / name).read_text() == "precious"


@pytest.mark.parametrize("measured", [["cosqa"], ["--suite", "nano-beir"]], ids=" ".join)
def test_an_evaluation_is_not_written_into_a_training_run(measured, checkpoint, tmp_path, call):
    prepare_folder(load_recipe("quickstart"), tmp_path / "run", force=False, resume=False)
    (tmp_path / "run" / "hybrid").mkdir()
    (tmp_path / "run" / "hybrid" / "run.trec").write_text("of the run")
    before = sorted(tmp_path.rglob("*"))
    said = refused(call, "evaluate", checkpoint, *measured, "--output", tmp_path / "run")
    assert "holds a training run" in said and sorted(tmp_path.rglob("*")) == before


def test_a_forced_evaluation_deletes_only_files_of_the_one_before(checkpoint, word_collection, tmp_path, call):
    command = ["evaluate", checkpoint, word_collection, "--depth", 2, "--output", tmp_path / "out"]
    assert call(*command, "--hybrid", 0.5)[0] == 0
    (tmp_path / "out" / "hybrid" / "thesis.txt").write_text("precious")
    assert call(*command, "--force")[0] == 0
    assert [path.name for path in (tmp_path / "out" / "hybrid").iterdir()] == ["thesis.txt"]


def test_an_evaluation_that_is_stopped_leaves_no_summary_of_the_one_before(
    checkpoint, word_collection, tmp_path, monkeypatch
):
    def stop(*_):
        raise KeyboardInterrupt

    evaluate_model(str(checkpoint), str(word_collection), depth=2, output=tmp_path)
    monkeypatch.setattr("prorank.evaluation.metrics.write_run", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate_model(str(checkpoint), str(word_collection), depth=3, output=tmp_path, force=True)
    assert not list(tmp_path.rglob("summary.json"))
