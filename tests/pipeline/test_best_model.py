"""Which model a stage ends on: the best on dev, the start, or a mean of models."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import tiny, weights

from prorank.pipeline.run import run_recipe
from prorank.reranker import Reranker
from prorank.training.resume import WEIGHTS
from prorank.util.errors import TrainingError


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
