"""A run that is started over: only a run is deleted, only its own files, and nothing that the new one needs."""

import json
import shutil

import pytest
from rich.console import Console
from tiny_runs import tiny

from prorank.pipeline.run import run_recipe
from prorank.pipeline.run_folder import RUN_FILES, prepare_folder
from prorank.recipe.loading import dump_recipe
from prorank.util.errors import ProrankError
from prorank.util.own_files import foreign


@pytest.fixture(scope="module")
def recipe(bert_folder, word_collection):
    return tiny(bert_folder, word_collection)


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run_recipe(recipe, folder, console=Console(quiet=True))
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run, and its recipe in a file elsewhere."""
    (tmp_path / "mine.yaml").write_text((finished / "recipe.yaml").read_text())
    return shutil.copytree(finished, tmp_path / "run"), tmp_path / "mine.yaml"


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(call, recipe, folder, *overrides):
    """What `prorank train` says where it refuses to start a run over; nothing may be deleted."""
    before = files(folder)
    code, _, err = call("train", recipe, *overrides, "--output", folder, "--force")
    assert code == 2 and files(folder) == before, err
    return " ".join(err.split())


def test_a_run_consists_of_the_files_that_are_listed(finished):
    assert foreign(finished, RUN_FILES) == []


@pytest.mark.parametrize("name", ["recipe.yaml", "study.json"])
def test_a_folder_with_a_file_of_a_runs_name_is_no_run(name, recipe, tmp_path, call):
    (tmp_path / "mine.yaml").write_text(dump_recipe(recipe))
    project = tmp_path / "project"
    project.mkdir()
    (project / name).write_text('{"name": "my project"}')
    (project / "thesis.txt").write_text("precious")
    assert "not a run's folder" in refused(call, tmp_path / "mine.yaml", project)


@pytest.mark.parametrize(
    "name", ["thesis.txt", "data/corpus.jsonl", "warmup/thesis.txt", "checkpoint/onnx/model.onnx", "hybrid/thesis.txt"]
)
def test_a_run_with_files_of_others_is_not_started_over(name, run, call):
    folder, file = run
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("precious")
    said = refused(call, file, folder)
    assert f"{folder} holds {name}, which a run does not" in said and "move the others away" in said


def test_a_run_is_not_started_over_from_the_recipe_in_it(run, call):
    folder, _ = run
    assert "the recipe lies in" in refused(call, folder / "recipe.yaml", folder)


def test_a_run_is_not_started_over_from_a_model_in_it(run, call):
    folder, file = run
    said = refused(call, file, folder, f"backbone.model={folder / 'checkpoint'}", "backbone.prompt=null")
    assert "the recipe's backbone.model lies in" in said


def test_a_run_that_was_being_deleted_is_not_resumed(recipe, run, monkeypatch):
    folder, _ = run
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shutil, "rmtree", lambda path: (path / "config.json").unlink(missing_ok=True) or stop())
        prepare_folder(recipe, folder, force=True, resume=False)
    with pytest.raises(ProrankError, match="--force starts over"):
        run_recipe(recipe, folder, resume=True, console=Console(quiet=True))
    prepare_folder(recipe, folder, force=True, resume=False)
    assert sorted(path.name for path in folder.iterdir()) == ["recipe.yaml", "study.json"]
    assert json.loads((folder / "study.json").read_text())["settings"]["name"] == "tiny"


def stop():
    raise KeyboardInterrupt
