"""Whole runs on tiny models: what they leave, the same seed twice, and a killed run resumed."""

import io
import json
import shutil
import signal
import sys
import time

import numpy as np
import pytest
import torch
from children import started
from rich.console import Console
from safetensors.torch import load_file
from tiny_runs import assert_equal_weights, tiny, weights

from prorank.data.collection import load_collection
from prorank.data.trec import read_run
from prorank.first_stage.fusion import z_score
from prorank.pipeline.run import run_recipe
from prorank.recipe.loading import dump_recipe, load_recipe
from prorank.reranker import Reranker
from prorank.training.checkpoints import COMPLETE, drop_torn, last_checkpoint
from prorank.training.resume import WEIGHTS
from prorank.util.errors import DataError, MissingExtraError, ProrankError, TrainingError


def test_a_run_leaves_everything_behind(finished):
    folder, results = finished
    assert [row["stage"] for row in results["rows"]] == ["BM25", "zero-shot", "warmup", "score-learning", "hybrid"]
    model = results["used_fingerprints"][f"backbone.model ({load_recipe(folder / 'recipe.yaml').backbone.model})"]
    assert model and results["data_fingerprint"] and results["recipe_fingerprint"]
    for row in results["rows"]:
        low, high = row["ndcg@10_interval"]
        assert 0 <= low <= row["ndcg@10"] <= high <= 1
        assert row["mrr@10_interval"][0] <= row["mrr@10"] <= row["mrr@10_interval"][1]
    for before, row in zip(results["rows"][1:], results["rows"][2:]):
        versus = row["versus_before"]
        assert versus["stage"] == before["stage"] and 0 < versus["p_value"] <= 1
        assert versus["difference"] == pytest.approx(row["ndcg@10"] - before["ndcg@10"], abs=1e-9)
    assert not any("versus_before" in row for row in results["rows"][:2])
    saved = json.loads((folder / "results.json").read_text())
    assert saved["seed"] == 5 and saved["versions"]["torch"] == torch.__version__
    assert saved["warmup"].keys() >= {"format_rate", "balanced_accuracy", "verdict_balance", "entropy", "diagnosis"}
    assert len(saved["data_fingerprint"]) == 64
    assert saved["leakage"] == {"rule": "refuse", "queries": 0}
    for file in ("recipe.yaml", "first_stage.run", "stages.png", "warmup/curves.png", "score-learning/curves.png"):
        assert (folder / file).stat().st_size > 100, file
    for stage in ("zero-shot", "warmup", "score-learning"):
        assert (folder / stage / "test" / "per_query.tsv").read_text().count("\n") == results["queries"] + 1
    for stage in ("warmup", "score-learning"):
        assert list((folder / stage / "training" / "tensorboard").rglob("events.out.tfevents.*")), stage
    card = json.loads((folder / "checkpoint" / "prorank.json").read_text())
    assert card["recipe"]["seed"] == 5 and card["data_fingerprint"] == results["data_fingerprint"]


def test_chance_is_tested_on_pairs_that_chose_nothing(bert_folder, word_collection, tmp_path, monkeypatch):
    """Dev pairs chose the checkpoint, so that their accuracy is too good."""
    from prorank.evaluation.significance import binomial_above_chance
    from prorank.warmup.trainer import WarmupTrainer

    metrics = WarmupTrainer.metrics

    def told(self, items):
        return metrics(self, items)._replace(correct=9 if items is self.held_out_items else 6)

    monkeypatch.setattr(WarmupTrainer, "metrics", told)
    recipe = tiny(bert_folder, word_collection, score_learning=None, evaluation__hybrid_weight=0.2)
    warmup = run_recipe(recipe, tmp_path / "run", console=Console(quiet=True))["warmup"]
    assert (warmup["correct"], warmup["test"]["correct"], warmup["total"]) == (9, 6, 10)
    assert warmup["p_above_chance"] == binomial_above_chance(6, 10)


def test_few_queries_and_made_splits_are_said_in_results_and_aloud(bert_folder, word_collection, tmp_path):
    own = shutil.copytree(word_collection, tmp_path / "own")
    (own / "qrels" / "test.tsv").unlink()
    recipe = tiny(
        bert_folder, own, warmup=None, score_learning=None, evaluation__max_queries=3, evaluation__hybrid_weight=0.2
    )
    said = io.StringIO()
    results = run_recipe(recipe, tmp_path / "run", console=Console(file=said, width=300))
    assert "test" in results["carved_splits"] and len(results["notes"]) == 2
    for words in ("3 test queries: the intervals say nothing", "published metrics: ", "test is 10 of the 24 queries"):
        assert words in said.getvalue() and any(words in note for note in results["notes"])


def test_reranking_never_adds_a_document(finished):
    from prorank.data.trec import read_run

    folder, _ = finished
    first = read_run(folder / "first_stage.run")
    reranked = read_run(folder / "score-learning" / "test" / "run.trec")
    assert all(set(reranked[query]) == set(first[query]) for query in reranked)


def test_same_seed_same_weights_and_other_seed_other_weights(finished, bert_folder, word_collection, tmp_path):
    run_recipe(tiny(bert_folder, word_collection), tmp_path / "again")
    assert_equal_weights(finished[0], tmp_path / "again")
    run_recipe(tiny(bert_folder, word_collection, seed=6), tmp_path / "other")
    assert any(
        not torch.equal(a, b) for a, b in zip(weights(finished[0]).values(), weights(tmp_path / "other").values())
    )


@pytest.mark.parametrize(
    "kill_after",
    ["warmup/training/checkpoint-2", "score-learning/training/checkpoint-0/complete"],
)
def test_a_killed_run_resumes_to_the_same_weights(kill_after, finished, bert_folder, word_collection, tmp_path, call):
    recipe, file = tiny(bert_folder, word_collection), tmp_path / "tiny.yaml"
    file.write_text(dump_recipe(recipe))
    folder = tmp_path / "killed"
    process = started(run_recipe, recipe, folder)
    deadline = time.monotonic() + 120
    while not (folder / kill_after).exists():  # the checkpoint may be whole or torn at this moment: both must do
        assert process.exitcode is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL and not (folder / "results.json").exists()
    code, _, error = call("train", file, "--output", folder, "--resume")
    assert code == 0, error
    assert_equal_weights(finished[0], folder)
    ours = json.loads((folder / "results.json").read_text())["rows"]
    assert [r["ndcg@10"] for r in ours] == [r["ndcg@10"] for r in finished[1]["rows"]]
    assert [r.get("versus_before") for r in ours] == [r.get("versus_before") for r in finished[1]["rows"]]


def test_torn_checkpoints_are_passed_over(tmp_path):
    for step, whole in [(2, True), (4, True), (6, False)]:
        (tmp_path / f"checkpoint-{step}").mkdir()
        if whole:
            (tmp_path / f"checkpoint-{step}" / COMPLETE).touch()
    assert last_checkpoint(tmp_path).name == "checkpoint-4"
    assert (tmp_path / "checkpoint-6").exists()  # looking deletes nothing
    drop_torn(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-4"]


def test_folders_are_protected(finished, bert_folder, word_collection, tmp_path):
    recipe = tiny(bert_folder, word_collection)
    with pytest.raises(ProrankError, match=r"holds a run \(--resume continues it"):
        run_recipe(recipe, finished[0])
    with pytest.raises(ProrankError, match=r"another recipe.*: seed: 5 in the run, 9 now"):
        run_recipe(tiny(bert_folder, word_collection, seed=9), finished[0], resume=True)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ProrankError, match="not a run's folder"):
        run_recipe(recipe, tmp_path, force=True)
    assert (tmp_path / "thesis.txt").exists()
    before = weights(finished[0])
    again = run_recipe(recipe, finished[0], resume=True)  # a finished run is only reported again
    assert again == finished[1]
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(finished[0]).items())


@pytest.mark.parametrize(
    "changes",
    [
        {"warmup__num_generations": 8, "warmup__kl": 0.05, "warmup__experimental__supervised_weight": 1.0},
        {"warmup__kl": 0.05, "warmup__scale_advantages": "none", "warmup__experimental__fade_format": False},
        {"backbone__lora": {"rank": 2, "alpha": 4}, "warmup__kl": 0.05},
        {"score_learning__loss": "pointwise", "score_learning__patience": 1},
        {"score_learning__loss": "pairwise"},
        {"score_learning__loss": "margin", "score_learning__pseudo_queries": 5},
        {"warmup": None, "evaluation__hybrid_weight": 0.2, "evaluation__max_queries": 4},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_every_option_trains(changes, bert_folder, word_collection, tmp_path):
    results = run_recipe(tiny(bert_folder, word_collection, **changes), tmp_path / "run")
    given = load_file(bert_folder / "model.safetensors")
    for stage in tmp_path.glob("run/*/training"):
        if (stage / "checkpoint-0").is_dir():  # dev never rose above the start, which then is the model
            start, end = (load_file(folder / WEIGHTS) for folder in (stage / "checkpoint-0", last_checkpoint(stage)))
        else:
            start, end = given, load_file(stage.parent / "model" / "model.safetensors")
        assert any(not torch.equal(start[name], tensor) for name, tensor in end.items() if name in start), stage
    assert results["rows"][-1]["stage"] == "hybrid"


def test_dev_lists_are_read_as_long_as_the_model_will_be_used(bert_folder, word_collection, tmp_path, monkeypatch):
    from prorank.score_learning.trainer import ScoreTrainer

    longer = shutil.copytree(word_collection, tmp_path / "longer")
    documents = [json.loads(line) for line in (longer / "corpus.jsonl").read_text().splitlines()]
    lines = [json.dumps(document | {"text": " ".join([document["text"]] * 30)}) for document in documents]
    (longer / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    scored, trained = [], []
    score_sequences, loss_on = Reranker.score_sequences, ScoreTrainer.loss_on

    def scoring(self, sequences, **options):
        scored.append(max(map(len, sequences)))
        return score_sequences(self, sequences, **options)

    def training(self, model, inputs):
        trained.append(max(map(len, inputs["sequences"])))
        return loss_on(self, model, inputs)

    monkeypatch.setattr(Reranker, "score_sequences", scoring)
    monkeypatch.setattr(ScoreTrainer, "loss_on", training)
    run_recipe(tiny(bert_folder, longer, warmup=None, evaluation__max_length=60), tmp_path / "run")
    assert max(trained) == 48 and set(scored) == {60}


def test_teacher_scores_are_distilled(bert_folder, encoder_folder, word_collection, tmp_path, monkeypatch):
    """The student's order of a list follows the teacher's even against the labels' silence."""
    import prorank.score_learning.distillation as items_module

    asked = {}

    def fake(model, queries, documents, wanted, batch_size):
        asked["model"] = model
        return {q: {d: float(len(documents[d])) / 20 for d in ids} for q, ids in wanted.items()}

    monkeypatch.setattr(items_module, "biencoder_scores", fake)
    for loss in ("kl", "margin_mse"):
        recipe = tiny(
            bert_folder,
            word_collection,
            warmup=None,
            score_learning__label_weight=0.0,
            score_learning__teacher={"model": str(encoder_folder), "loss": loss, "temperature": 0.5, "margin": 5.0},
        )
        run_recipe(recipe, tmp_path / loss)
        assert asked["model"] == str(encoder_folder)
        log = json.loads((tmp_path / loss / "score-learning" / "training" / "log.json").read_text())
        losses = [entry["loss"] for entry in log if "loss" in entry]
        assert losses[-1] < losses[0]


def test_two_bi_encoders_teach_by_the_mean_of_their_z_scores(
    bert_folder, encoder_folder, word_collection, tmp_path, monkeypatch
):
    """A model whose cosines lie close together has as much to say as one whose cosines are spread."""
    import prorank.score_learning.distillation as items_module

    def by(model, document):
        return len(document) / 20 if model == "embedded" else 0.8 - len(document.split()) / 1000

    def fake(model, queries, documents, wanted, batch_size):
        return {q: {d: by(model, documents[d]) for d in ids} for q, ids in wanted.items()}

    monkeypatch.setattr(items_module, "biencoder_scores", fake)
    teacher = {"model": ["embedded", str(encoder_folder)], "first_stage": 0.0}
    recipe = tiny(bert_folder, word_collection, warmup=None, score_learning__teacher=teacher)
    run_recipe(recipe, tmp_path / "run")
    texts = {d: document.content for d, document in load_collection(word_collection).documents.items()}
    first_stage = read_run(tmp_path / "run" / "first_stage.run")
    for query, scores in read_run(tmp_path / "run" / "score-learning" / "teacher.run").items():
        every = list(dict.fromkeys([*scores, *first_stage[query]]))
        mean = np.mean([z_score([by(model, texts[d]) for d in every]) for model in ("embedded", "the other")], axis=0)
        same = z_score(list(mean), among=[m for d, m in zip(every, mean) if d in first_stage[query]])
        assert [scores[d] for d in scores] == pytest.approx([same[every.index(d)] for d in scores], abs=1e-4)


def test_infinite_loss_stops_with_a_hint(bert_folder, word_collection, tmp_path):
    recipe = tiny(bert_folder, word_collection, warmup__learning_rate=0.99, warmup__max_grad_norm=1e30)
    import prorank.warmup.trainer as warmup_module

    original = warmup_module.WarmupTrainer.loss_on
    try:
        warmup_module.WarmupTrainer.loss_on = lambda self, model, inputs: original(self, model, inputs) * float("nan")
        with pytest.raises(TrainingError, match="loss is nan at step 1"):
            run_recipe(recipe, tmp_path / "run")
    finally:
        warmup_module.WarmupTrainer.loss_on = original


def test_the_command_line_trains_and_force_replaces(finished, bert_folder, word_collection, tmp_path, call):
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    file = tmp_path / "tiny.yaml"
    file.write_text(dump_recipe(tiny(bert_folder, word_collection)))
    command = ["train", file, "warmup.steps=2", "--output", folder]
    code, _, error = call(*command)
    assert code == 2 and "--force" in error and "Traceback" not in error
    code, out, error = call(*command, "--force", "--json")
    assert code == 0, error
    assert json.loads(out)["recipe"] == "tiny"


@pytest.mark.pictures
def test_plot_draws_what_is_there(finished, tmp_path, capsys):
    from prorank.cli.main import app

    folder = shutil.copytree(finished[0], tmp_path / "copy")
    pictures = [folder / name for name in ("warmup/curves.png", "score-learning/curves.png", "stages.png")]
    for picture in pictures:
        picture.unlink()
    app(["plot", str(folder)], standalone_mode=False)
    assert all(picture.stat().st_size > 1000 for picture in pictures)
    assert capsys.readouterr().out.count("wrote") == 3
    (folder / "results.json").unlink()  # a run that is not finished
    pictures[2].unlink()
    app(["plot", str(folder)], standalone_mode=False)
    assert not pictures[2].exists()
    with pytest.raises(DataError, match="no training log"):
        app(["plot", str(tmp_path)], standalone_mode=False)


def test_weights_and_biases_must_be_there_before_anything_starts(bert_folder, word_collection, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match="pip install wandb"):
        run_recipe(tiny(bert_folder, word_collection), tmp_path / "run", log_to=("tensorboard", "wandb"))
    assert not (tmp_path / "run").exists()
