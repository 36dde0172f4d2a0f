"""Whole runs on tiny models: every shipped recipe, the same seed twice, and a killed run resumed."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import transformers
from conftest import SIZE, bert_tokenizer, byte_tokenizer, save
from rich.console import Console
from safetensors.torch import load_file

from prorank.bench.toy import WORDS
from prorank.pipeline.run import run_recipe
from prorank.recipe.loading import dump_recipe, load_recipe, shipped_recipes, validate_recipe
from prorank.reranker import Reranker
from prorank.training.checkpoints import COMPLETE, drop_torn, last_checkpoint
from prorank.training.resume import WEIGHTS
from prorank.util.errors import DataError, MissingExtraError, ProrankError, RecipeError, TrainingError
from prorank.warmup.metrics import VerdictMetrics, diagnosis


def tiny(model, collection, **changes):
    """A recipe of a few steps."""
    tree = {
        "name": "tiny",
        "seed": 5,
        "backbone": {"model": str(model), "prompt": "prorank-short", "max_length": 48, "precision": "fp32"},
        "data": {"collection": str(collection)},
        "first_stage": {},
        "warmup": {"steps": 4, "pairs_per_step": 4, "evaluate_every": 2, "held_out_pairs": 10},
        "score_learning": {
            "steps": 6,
            "queries_per_step": 2,
            "evaluate_every": 2,
            "dev_queries": 6,
            "negatives": {"hard": 2, "medium": 1, "random": 1},
        },
        "evaluation": {"rerank_depth": 5},
    }
    for key, value in changes.items():
        node = tree
        *parents, leaf = key.split("__")
        for part in parents:
            node = node.setdefault(part, {})
        node[leaf] = value
    return validate_recipe(tree)


def weights(folder):
    return load_file(folder / "checkpoint" / "model.safetensors")


def assert_equal_weights(a, b):
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.fixture(scope="module")
def finished(bert_folder, word_collection, tmp_path_factory):
    """A run left alone."""
    folder = tmp_path_factory.mktemp("runs") / "alone"
    results = run_recipe(tiny(bert_folder, word_collection), folder)
    return folder, results


def test_a_run_leaves_everything_behind(finished):
    folder, results = finished
    assert [row["stage"] for row in results["rows"]] == ["BM25", "zero-shot", "warmup", "score-learning", "hybrid"]
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
    """Dev pairs chose the checkpoint, so that their figure is too good."""
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
def test_a_killed_run_resumes_to_the_same_weights(kill_after, finished, bert_folder, word_collection, tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(dump_recipe(tiny(bert_folder, word_collection)))
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "prorank.cli", "train", str(file), "--output", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (folder / kill_after).exists():  # the checkpoint may be whole or torn at this moment: both must do
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "results.json").exists()
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
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
    with pytest.raises(ProrankError, match=r"holds a run \(--resume goes on with it"):
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


@pytest.mark.parametrize(("metrics", "kept"), [((0.5, 0.4, 0.3, 0.4), 0), ((0.5, 0.4, 0.6, 0.6), 4)])
def test_a_stage_ends_on_its_best_model_the_start_included(
    metrics, kept, bert_folder, word_collection, tmp_path, monkeypatch
):
    import prorank.pipeline.stages as stages

    left = iter(metrics)
    monkeypatch.setattr(stages, "dev_measure", lambda *_: lambda _: {"dev_ndcg@10": next(left)})
    results = run_recipe(tiny(bert_folder, word_collection, warmup=None), tmp_path / "run")
    stage = tmp_path / "run" / "score-learning"
    assert next(left, None) is None
    chosen = {"best_dev_ndcg@10": max(metrics), "best_step": kept, "unchanged": kept == 0}
    assert json.loads((stage / "done.json").read_text()) == chosen
    assert results["training"] == {"score-learning": chosen}
    assert any("no step beat the start" in note for note in results["notes"]) == (kept == 0)
    final = weights(tmp_path / "run")
    start = load_file(bert_folder / "model.safetensors")
    assert all(torch.equal(start[name], tensor) for name, tensor in final.items()) == (kept == 0)
    best = load_file(stage / "training" / f"checkpoint-{kept}" / WEIGHTS)
    shared = final.keys() & {name.removeprefix("model.") for name in best}
    assert len(shared) > 10 and all(torch.equal(final[name], best[f"model.{name}"]) for name in shared)


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


@pytest.mark.parametrize(("mean", "kept"), [(0.7, True), (0.5, False)])
def test_the_mean_of_start_and_end_is_kept_where_dev_prefers_it(
    mean, kept, bert_folder, word_collection, tmp_path, monkeypatch
):
    import prorank.pipeline.stages as stages

    left = iter((0.4, 0.5, 0.6, 0.5, mean))
    monkeypatch.setattr(stages, "dev_measure", lambda *_: lambda _: {"dev_ndcg@10": next(left)})
    recipe = tiny(bert_folder, word_collection, warmup=None, score_learning__average_with=["start"])
    run_recipe(recipe, tmp_path / "run")
    stage = tmp_path / "run" / "score-learning"
    chosen = {"best_dev_ndcg@10": 0.6, "best_step": 4, "average_dev_ndcg@10": mean, "unchanged": False}
    assert json.loads((stage / "done.json").read_text()) == chosen
    final, start = weights(tmp_path / "run"), load_file(bert_folder / "model.safetensors")
    best, end = (load_file(stage / "training" / f"checkpoint-{step}" / WEIGHTS) for step in (4, 6))
    shared = final.keys() & {name.removeprefix("model.") for name in best}
    assert len(shared) > 10
    for name in shared:
        expected = (start[name] + end[f"model.{name}"]) / 2 if kept else best[f"model.{name}"]
        assert torch.allclose(final[name], expected, atol=1e-6), name


def test_the_mean_with_the_start_is_half_of_what_adapters_add(bert_folder, word_collection, tmp_path, monkeypatch):
    import prorank.pipeline.stages as stages

    left = iter((0.4, 0.5, 0.6, 0.7, 0.8))
    monkeypatch.setattr(stages, "dev_measure", lambda *_: lambda _: {"dev_ndcg@10": next(left)})
    changes = {"warmup": None, "score_learning__average_with": ["start"], "backbone__lora": {"rank": 2, "alpha": 4}}
    run_recipe(tiny(bert_folder, word_collection, **changes), tmp_path / "run")
    final, start = weights(tmp_path / "run"), load_file(bert_folder / "model.safetensors")
    adapters = load_file(tmp_path / "run" / "score-learning" / "training" / "checkpoint-6" / WEIGHTS)
    halved = 0
    for name, a in adapters.items():
        if "lora_A" in name:
            layer = name.split("model.")[-1].split(".lora_A")[0] + ".weight"
            layer = next(key for key in final if key.endswith(layer))
            b = adapters[name.replace("lora_A", "lora_B")]
            assert torch.allclose(final[layer], start[layer] + (b @ a) * (4 / 2) / 2, atol=1e-6), layer
            halved += bool(b.any())
    assert halved > 3


def test_the_mean_with_other_runs(bert_folder, word_collection, finished, tmp_path, monkeypatch):
    import prorank.pipeline.stages as stages

    left = iter((0.4, 0.5, 0.6, 0.5, 0.7))
    monkeypatch.setattr(stages, "dev_measure", lambda *_: lambda _: {"dev_ndcg@10": next(left)})
    other = finished[0] / "checkpoint"
    changes = {"warmup": None, "score_learning__average_with": ["start", str(other)]}
    run_recipe(tiny(bert_folder, word_collection, **changes), tmp_path / "run")
    end = load_file(tmp_path / "run" / "score-learning" / "training" / "checkpoint-6" / WEIGHTS)
    final, start, third = weights(tmp_path / "run"), load_file(bert_folder / "model.safetensors"), weights(finished[0])
    shared = final.keys() & {name.removeprefix("model.") for name in end}
    assert len(shared) > 10
    for name in shared:
        assert torch.allclose(final[name], (start[name] + third[name] + end[f"model.{name}"]) / 3, atol=1e-6), name


def test_a_mean_of_what_does_not_fit_is_refused_before_training(bert_folder, qwen_folder, word_collection, tmp_path):
    other = tmp_path / "other"
    Reranker(str(bert_folder), prompt="prorank", precision="fp32").save_pretrained(other)
    for model, words in ((other, "another prompt"), (qwen_folder, "another architecture")):
        recipe = tiny(bert_folder, word_collection, warmup=None, score_learning__average_with=[str(model)])
        folder = tmp_path / model.name
        with pytest.raises(TrainingError, match=words):
            run_recipe(recipe, folder / "run")
        assert not list(folder.glob("run/score-learning/training/checkpoint-*"))


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


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory, qwen_folder):
    """A two-layer model of the architecture that each recipe names."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(2)
    config = transformers.Qwen3Config(vocab_size=len(tokenizer), num_key_value_heads=2, head_dim=8, **SIZE)
    qwen3 = save(transformers.Qwen3ForCausalLM(config), tokenizer, tmp_path_factory.mktemp("qwen3"))
    words = bert_tokenizer([*WORDS, *"23456789", "10", "from", "to"])  # grades are words of it
    config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=600, **SIZE)
    bert = save(transformers.BertForMaskedLM(config), words, tmp_path_factory.mktemp("bert"))
    causal = {"Qwen/Qwen2.5": qwen_folder, "Qwen/Qwen3": qwen3, "smollm2": qwen_folder}
    return {"embedded": bert, "runs/prorank-mini": bert} | causal


def code_path(name):
    """What decides which code a recipe runs, but for numbers: recipes that share it are tried once."""
    recipe = load_recipe(name)
    warmup, score = recipe.warmup, recipe.score_learning
    return (
        recipe.backbone.model.partition("/")[0],
        recipe.backbone.lora is None,
        recipe.backbone.score,
        bool(recipe.data.union),
        warmup and (warmup.num_generations == "exact", warmup.kl > 0, warmup.scale_advantages),
        score and (score.loss, score.teacher is None, bool(score.average_with), score.pseudo_queries > 0),
        recipe.sft is None,
        recipe.listwise is None,
    )


@pytest.mark.parametrize("name", sorted({code_path(name): name for name in sorted(shipped_recipes())}.values()))
def test_shipped_recipes_run_two_steps(name, stand_ins, word_collection, tmp_path, monkeypatch):
    import prorank.score_learning.distillation as items_module

    constant = lambda model, queries, documents, wanted, batch: {q: dict.fromkeys(d, 0.5) for q, d in wanted.items()}  # noqa: E731
    monkeypatch.setattr(items_module, "biencoder_scores", constant)
    recipe = load_recipe(name)
    named = recipe.backbone.model
    model = next((folder for key, folder in stand_ins.items() if named.startswith(key)), named)
    small = {"steps": 2, "evaluate_every": 1}
    tree = recipe.model_dump()
    tree["backbone"] |= {"model": str(model)}
    tree["backbone"]["max_length"] = max(tree["backbone"]["max_length"] or 0, 500)  # bytes are many tokens
    if recipe.data.union:
        part = recipe.data.union[0].model_dump() | {"collection": word_collection.name}
        tree["data"] |= {"union": [part], "folder": str(word_collection.parent)}
    else:
        tree["data"]["collection"] = str(word_collection)
    if recipe.warmup is not None:
        tree["warmup"] |= small | {"pairs_per_step": 2, "held_out_pairs": 10}
    if recipe.score_learning is not None:
        tree["score_learning"] |= small | {"queries_per_step": 1, "dev_queries": 2}
    if recipe.sft is not None:
        tree["first_stage"]["depth"] = 10
        tree["grades"] |= {
            "max_new_tokens": 8,
            "teacher": "qrels",
            "documents": {"hard": 1, "medium": 0, "easy": 0, "random": 1},
        }
        tree["sft"] |= small | {"pairs_per_step": 2, "dev_queries": 2}
        tree["listwise"] |= small | {"queries_per_step": 1, "dev_queries": 2, "max_new_tokens": 8}
    tree["evaluation"] |= {"rerank_depth": 3, "max_queries": 3}
    results = run_recipe(validate_recipe(tree), tmp_path / "run")
    stages = (recipe.warmup, recipe.score_learning, recipe.sft, recipe.listwise)
    assert len(results["rows"]) == 3 + sum(stage is not None for stage in stages)


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


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ((0.0, 0.0, 0.0), "no reward found"),
        ((0.5, 0.2, 0.5), "format not learned"),
        ((1.0, 0.5, 0.0), "collapsed: 100%"),
        ((1.0, 0.5, 0.99), "collapsed: 99%"),
        ((1.0, 0.8, 0.45), ""),
    ],
)
def test_collapse_is_named(metrics, words):
    rate, accuracy, share = metrics
    found = diagnosis(VerdictMetrics(rate, accuracy, share, 0.5, rate, 0, 100))
    assert found.startswith(words) and bool(found) == bool(words)


def test_recipes_refuse_what_they_do_not_know(tmp_path):
    with pytest.raises(RecipeError, match=r"unknown key 'warmup.step' \(did you mean 'warmup.steps'\?\)"):
        load_recipe("quickstart", ["warmup.step=3"])
    with pytest.raises(RecipeError, match="unknown key 'warmpu'"):
        load_recipe("quickstart", ["warmpu=null"])
    with pytest.raises(RecipeError, match=r"warmup.steps: .*got -1"):
        load_recipe("quickstart", ["warmup.steps=-1"])
    none = "warmup.negatives={hard: 0, medium: 0, easy: 0, random: 0}"
    with pytest.raises(RecipeError, match="at least one negative"):
        load_recipe("quickstart", [none])
    with pytest.raises(RecipeError, match="write key=value"):
        load_recipe("quickstart", ["steps"])
    with pytest.raises(RecipeError, match="'seed' is a value"):
        load_recipe("quickstart", ["seed.x=1"])
    with pytest.raises(RecipeError, match="no recipe 'nope'"):
        load_recipe("nope")
    file = tmp_path / "bad.yaml"
    file.write_text("name: x\n  seed: [")
    with pytest.raises(RecipeError, match=r"bad.yaml:2: not valid YAML"):
        load_recipe(file)
    assert (
        load_recipe("quickstart", ["warmup.learning_rate=1e-4", "warmup.num_generations=16"]).warmup.num_generations
        == 16
    )
    file.write_text(dump_recipe(load_recipe("quickstart")))
    assert load_recipe(file) == load_recipe("quickstart")


def test_the_command_line_trains_and_force_replaces(finished, bert_folder, word_collection, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    file = tmp_path / "tiny.yaml"
    file.write_text(dump_recipe(tiny(bert_folder, word_collection)))
    command = [sys.executable, "-m", "prorank.cli", "train", str(file), "warmup.steps=2", "--output", str(folder)]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2 and "--force" in refused.stderr and "Traceback" not in refused.stderr
    done = subprocess.run([*command, "--force", "--json"], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["recipe"] == "tiny"


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


def test_the_study_of_guards_repeats_nothing(bert_folder, word_collection, tmp_path, monkeypatch, capsys):
    from prorank.bench import guards
    from prorank.bench.tables import guards_table, plot_guards

    recipe = tiny(bert_folder, word_collection)
    run = lambda variants, seeds: guards.run_guards(recipe, variants, seeds, tmp_path, Console(quiet=True))  # noqa: E731
    first = run(["recipe", "supervised"], [1])
    monkeypatch.setattr(guards, "run_variant", lambda *_: pytest.fail("this run is done"))
    again = run(["recipe", "supervised"], [1])
    assert first == again
    assert [row["variant"] for row in again["rows"]] == ["recipe", "supervised"]
    assert (
        again["runs"][0]["curve"][-1]["step"] == 4
        and again["variants"]["supervised"]["experimental"]["policy_weight"] == 0
    )
    plot_guards(again["runs"], tmp_path / "guards.png")
    assert (tmp_path / "guards.png").stat().st_size > 1000
    Console().print(guards_table(again["rows"]))
    assert "supervised" in capsys.readouterr().out
    with pytest.raises(RecipeError, match="no variant 'unheard'"):
        run(["unheard"], [1])


def test_every_variant_of_the_study_is_a_recipe(bert_folder, word_collection):
    from prorank.bench.guards import VARIANTS, varied

    recipe = tiny(bert_folder, word_collection)
    for name in VARIANTS:
        assert (varied(recipe, name, 3) != varied(recipe, "recipe", 3)) == (name != "recipe")
