"""Two processes under a launcher give what one process gives; several stops at random steps change nothing."""

import json
import os
import random
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import assert_equal_weights, tiny

import prorank
from prorank.pipeline.run import run_recipe
from prorank.recipe.loading import dump_recipe
from prorank.training.trainer import SlotTrainer

KINDS = {"ddp": {}, "fsdp2": {}, "fsdp2-lora": {"backbone__lora": {"rank": 2, "alpha": 4}}}
# What each of two launched processes runs: it imports once, and trains each recipe in a fork of its own.
# Plots are empty files, and what is imported is never garbage, as in conftest.py.
# Under FSDP2, accelerate shards on GPUs only; this makes it take processes on CPUs for some other kind of device.
WORKER = """
import gc, os, sys, traceback
from accelerate import PartialState
from accelerate.utils import DistributedType
from prorank.cli.main import main
from prorank.evaluation import plots
from prorank.pipeline import run
plots.save_figure = lambda figure, path: path.write_bytes(b"")
gc.collect()
gc.freeze()
usual = PartialState.__init__

def init(self, *arguments, **others):
    usual(self, *arguments, **others)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_XPU

def train(kind, port):
    if kind == "ddp":  # as torchrun alone would start it
        for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_"))]:
            del os.environ[name]
    else:
        PartialState.__init__ = init
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "False", "MASTER_PORT": port}  # each run's processes meet anew
    sys.argv = ["prorank", "train", f"{kind}.yaml", "--output", kind]
    main()

for kind, port in [argument.split(":") for argument in sys.argv[1:]]:
    if not (child := os.fork()):
        code = 1
        try:
            train(kind, port)
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)
    if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        sys.exit(code)
"""


@pytest.fixture(scope="module")
def by_two_processes(qwen_folder, word_collection, tmp_path_factory):
    """A folder with one run for each kind, trained by two CPU processes; FSDP2 by the settings that ship."""
    folder = tmp_path_factory.mktemp("two")
    for kind, changes in KINDS.items():
        recipe = causal_recipe(qwen_folder, word_collection, **changes)
        (folder / f"{kind}.yaml").write_text(dump_recipe(recipe))
    (folder / "worker.py").write_text(WORKER)
    shipped = (Path(prorank.__file__).parent / "pipeline" / "fsdp2.yaml").read_text()
    (folder / "fsdp2-settings.yaml").write_text(shipped + "use_cpu: true\n")
    launch = (sys.executable, "-m", "accelerate.commands.launch", "--config_file", "fsdp2-settings.yaml", "worker.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with ExitStack() as bound:
        ports = [bound.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in KINDS]
    runs = [f"{kind}:{port}" for kind, port in zip(KINDS, ports)]
    done = subprocess.run([*launch, *runs], cwd=folder, capture_output=True, text=True, timeout=280, env=environment)
    assert done.returncode == 0, done.stderr
    return folder


def trajectory(folder):
    """(stage, step, name, value) of everything that was logged while training."""
    found = {}
    for stage in ("warmup", "score-learning"):
        for entry in json.loads((folder / stage / "training" / "log.json").read_text()):
            for name, value in entry.items():
                if not name.startswith(("train_", "total")) and isinstance(value, (int, float)):
                    found[stage, entry["step"], name] = value
    return found


def causal_recipe(qwen_folder, word_collection, **changes):
    return tiny(
        qwen_folder,
        word_collection,
        backbone__max_length=128,
        warmup__steps=2,
        warmup__held_out_pairs=10,
        warmup__kl=0.01,
        warmup__entropy_bonus=0.1,  # these two are said, since a file holds every field: none is left to the family
        warmup__learning_rate=1e-3,
        warmup__experimental__supervised_weight=0.5,
        score_learning__steps=4,
        score_learning__evaluate_every=4,
        score_learning__dev_queries=4,
        evaluation__max_queries=4,
        **changes,
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_take_the_path_of_one(kind, by_two_processes, qwen_folder, word_collection, tmp_path):
    recipe = causal_recipe(qwen_folder, word_collection, **KINDS[kind])
    run_recipe(recipe, tmp_path / "one")
    folders = (tmp_path / "one", by_two_processes / kind)
    one, two = map(trajectory, folders)
    assert one.keys() == two.keys()
    assert {name for _, _, name in one} >= {"loss", "grad_norm", "kl", "eval_balanced_accuracy", "eval_dev_ndcg@10"}
    for key, value in one.items():
        assert two[key] == pytest.approx(value, abs=1e-4), key
    first, second = (load_file(folder / "checkpoint" / "model.safetensors") for folder in folders)
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-3, rtol=0)
    results = [json.loads((folder / "results.json").read_text()) for folder in folders]
    assert [result["processes"] for result in results] == [1, 2]
    assert [row["ndcg@10"] for row in results[0]["rows"]] == pytest.approx([r["ndcg@10"] for r in results[1]["rows"]])


class Stopped(BaseException):
    """What nothing in the package catches: the run ends where it stands."""


def test_five_stops_at_random_steps_change_nothing(bert_folder, word_collection, tmp_path, monkeypatch):
    """`test_training` kills processes; here the run is only left, which costs no start of Python."""
    recipe = tiny(
        bert_folder,
        word_collection,
        warmup__steps=8,
        warmup__num_generations=4,
        warmup__experimental__epochs=2,
        warmup__experimental__rollout_batches=2,
        warmup__experimental__supervised_weight=0.5,
    )
    run_recipe(recipe, tmp_path / "alone")
    usual, left = SlotTrainer.training_step, 0

    def training_step(self, *arguments, **others):
        nonlocal left
        left -= 1
        if left < 0:
            raise Stopped
        return usual(self, *arguments, **others)

    places = [random.SystemRandom().randrange(1, 4) for _ in range(5)]  # of 8 + 6 steps
    with monkeypatch.context() as patched:
        patched.setattr(SlotTrainer, "training_step", training_step)
        for place in places:
            left = place
            with pytest.raises(Stopped):
                run_recipe(recipe, tmp_path / "stopped", resume=True)
    run_recipe(recipe, tmp_path / "stopped", resume=True)
    assert_equal_weights(tmp_path / "alone", tmp_path / "stopped")
