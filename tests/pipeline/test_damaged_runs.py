"""Resuming from a checkpoint with a damaged or missing file: which file, and what to delete; never anything silent."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import tiny, weights

from prorank.pipeline.run import run_recipe
from prorank.recipe.loading import dump_recipe
from prorank.score_learning.trainer import ScoreTrainer
from prorank.util.errors import CheckpointError, ProrankError


@pytest.fixture(scope="module")
def recipe(bert_folder, word_collection):
    return tiny(bert_folder, word_collection, warmup=None)


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run_recipe(recipe, folder)
    return folder


@pytest.fixture(scope="module")
def halted(recipe, tmp_path_factory):
    """The same run stopped in its fifth step."""
    folder, loss_on = tmp_path_factory.mktemp("runs") / "halted", ScoreTrainer.loss_on

    def until_the_fifth_step(self, model, inputs):
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        return loss_on(self, model, inputs)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ScoreTrainer, "loss_on", until_the_fifth_step)
        run_recipe(recipe, folder)
    return folder


@pytest.fixture
def stopped(halted, tmp_path):
    """A copy of the stopped run, in another place, and its last checkpoint."""
    folder = shutil.copytree(halted, tmp_path / "run")
    return folder, folder / "score-learning" / "training" / "checkpoint-4"


def emptied(file):
    file.write_bytes(b"")


def half(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def garbled(file):
    file.write_bytes(b"\x80\x04garbage" * 50)


def code(file):
    """What torch only reads when told to allow any code."""
    torch.save({"state": pytest.raises}, file)


def another(file):
    """A file that can be read, of something else."""
    if file.suffix == ".json":
        file.write_text('{"global_step": 2}')
    elif file.suffix == ".safetensors":
        save_file({"other": torch.zeros(2)}, file)
    else:
        torch.save({"other": 1}, file)


def removed(file):
    file.unlink()


@pytest.mark.parametrize("damage", [emptied, half, garbled, code, another, removed])
@pytest.mark.parametrize(
    "name", ["trainable.safetensors", "trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"]
)
def test_a_damaged_checkpoint_is_named_with_the_remedy(name, damage, recipe, stopped):
    folder, last = stopped
    damage(last / name)
    with pytest.raises(ProrankError) as found:
        run_recipe(recipe, folder, resume=True)
    said = str(found.value)
    assert "checkpoint-4" in said and "arbitrary" not in said and "weights_only" not in said and "\n" not in said
    if (name, damage) != ("trainable.safetensors", another):  # that one is said to be of another recipe
        assert name in said and "delete checkpoint-4, then --resume" in said
    assert (last / "complete").exists()  # nothing is deleted for the user


def test_the_remedy_works(recipe, finished, stopped, tmp_path, call):
    folder, last = stopped
    half(last / "optimizer.pt")
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe))
    status, _, err = call("train", file, "--output", folder, "--resume")
    assert status == 2 and "optimizer.pt" in " ".join(err.split()) and "unexpected" not in err
    shutil.rmtree(last)
    status, _, err = call("train", file, "--output", folder, "--resume")
    assert status == 0, err
    first, second = weights(finished), weights(folder)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_that_was_moved_goes_on(recipe, finished, stopped):
    folder, last = stopped
    state = json.loads((last / "trainer_state.json").read_text())
    elsewhere = "/nowhere/" + state["best_model_checkpoint"].rpartition("/")[2]
    (last / "trainer_state.json").write_text(json.dumps(state | {"best_model_checkpoint": elsewhere}))
    run_recipe(recipe, folder, resume=True)
    first, second = weights(finished), weights(folder)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_best_checkpoint_is_looked_at_before_training(recipe, stopped):
    folder, last = stopped
    state = json.loads((last / "trainer_state.json").read_text())
    best = last.parent / "checkpoint-2"
    best.mkdir(exist_ok=True)
    (last / "trainer_state.json").write_text(json.dumps(state | {"best_model_checkpoint": str(best)}))
    (best / "trainable.safetensors").write_bytes(b"")
    (best / "complete").touch()
    with pytest.raises(CheckpointError, match=r"checkpoint-2/trainable\.safetensors is damaged \(delete .*training"):
        run_recipe(recipe, folder, resume=True)


def test_weights_of_another_shape_are_not_spread_over_the_model(recipe, stopped):
    folder, last = stopped
    file = last / "trainable.safetensors"
    save_file({name: tensor[:1].contiguous() for name, tensor in load_file(file).items()}, file)
    with pytest.raises(ProrankError, match="holds other weights"):
        run_recipe(recipe, folder, resume=True)
