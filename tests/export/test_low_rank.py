"""A checkpoint as a low-rank difference: what adapters learned comes back, on the same base and on no other."""

import shutil

import numpy as np
import pytest
import torch
import transformers
from conftest import ONE_LAYER, SIZE, bert_tokenizer, random_qwen, save
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from prorank import Reranker
from prorank.export.export import export
from prorank.model.low_rank import LOW_RANK_FILE, factors, read_facts
from prorank.util.errors import CheckpointError
from prorank.util.files import read_json, write_json

PAIRS = [("stone", "a stone is a rock"), ("river", "a stone is a rock"), ("river", "the river flows to the sea")] * 2
RANK = 3


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))
def test_the_product_is_the_nearest_of_its_rank(seed, rows, columns, rank):
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    left, right = factors(matrix, rank)
    rest = torch.linalg.svdvals(matrix)[rank:].square().sum().sqrt()
    assert torch.linalg.norm(matrix - left @ right) == pytest.approx(float(rest), abs=1e-5)
    assert torch.linalg.norm(left) == pytest.approx(float(torch.linalg.norm(right)), rel=1e-4)


def trained(base, rows=()):
    """A reranker from a base, changed as adapters of a small rank change it; and rows of its vocabulary matrix."""
    reranker = Reranker(base, prompt="prorank-short", precision="fp32", device="cpu")
    torch.manual_seed(7)
    with torch.no_grad():
        for name, weight in reranker.backbone.model.named_parameters():
            if weight.ndim == 1:
                weight += 0.1 * torch.randn_like(weight)
            elif "layers" in name or "layer." in name:
                weight += 0.1 * torch.randn(len(weight), RANK) @ torch.randn(RANK, weight.shape[1])
        reranker.backbone.model.get_input_embeddings().weight[list(rows)] += 2.0
    return reranker


def file_size(folder):
    return (folder / LOW_RANK_FILE).stat().st_size


@pytest.mark.parametrize("kind", ["qwen_folder", "bert_folder"])
def test_what_adapters_learned_comes_back(kind, request, tmp_path):
    base = request.getfixturevalue(kind)
    reranker = trained(base)
    small = export(reranker, "low-rank", tmp_path / "small", base=str(base), rank=RANK)
    assert not list(small.glob("model.safetensors")) and not (small / "modules.json").exists()
    again = Reranker(small, precision="fp32", device="cpu")
    start = dict(Reranker(base, prompt="prorank-short", precision="fp32").backbone.named_parameters())
    learned = dict(reranker.backbone.named_parameters())
    for name, weight in again.backbone.named_parameters():
        change = (learned[name] - start[name]).abs().max()
        assert (weight - learned[name]).abs().max() <= 0.03 * change + 1e-6, name
    assert np.allclose(again.score(PAIRS), reranker.score(PAIRS), atol=0.02)
    for_training = Reranker(small, for_training=True, precision="bf16").backbone
    assert {p.dtype for p in for_training.parameters()} == {torch.float32}


def test_a_higher_rank_is_asked_for_where_scores_would_differ(qwen_folder, tmp_path):
    with pytest.raises(CheckpointError, match=r"rank 1 .* gives scores that differ .*higher --rank"):
        export(trained(qwen_folder), "low-rank", tmp_path / "small", base=str(qwen_folder), rank=1)
    assert not (tmp_path / "small").exists()


def test_the_answers_rows_are_kept_whole(qwen_folder, tmp_path):
    tokens = [t for one in trained(qwen_folder).pair_tokenizer.answer_tokens for t in one]
    reranker = trained(qwen_folder, rows=[*tokens, *range(200, 240)])
    small = export(reranker, "low-rank", tmp_path / "small", base=str(qwen_folder), rank=RANK)
    learned = reranker.backbone.model.get_input_embeddings().weight[tokens]
    again = Reranker(small, precision="fp32").backbone.model.get_input_embeddings().weight[tokens]
    assert torch.allclose(again, learned, atol=0.02)


@pytest.fixture
def small(qwen_folder, tmp_path):
    """A low-rank folder whose base lies beside it."""
    base = shutil.copytree(qwen_folder, tmp_path / "base")
    return export(trained(base), "low-rank", tmp_path / "small", base=str(base), rank=RANK)


@pytest.mark.parametrize("name", ["q_proj.weight", "embed_tokens.weight", "model.norm.weight"])
def test_a_base_with_any_other_number_is_refused(name, small, tmp_path):
    weights = load_file(tmp_path / "base" / "model.safetensors")
    changed = next(key for key in weights if name in key)
    weights[changed].view(-1)[-1] += 0.5  # the last number of a weight, which training may have left alone
    save_file(weights, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"base' is not the model that .* was made from"):
        Reranker(small)


def test_a_base_that_cannot_be_loaded_is_named_beside_what_is_added_to_it(small, tmp_path):
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(CheckpointError, match=r"small' is added to '.*base': "):
        Reranker(small)


def test_the_folders_own_description_counts_not_the_bases(small, tmp_path):
    before = Reranker(small, precision="fp32").score(PAIRS)
    config = tmp_path / "base" / "config.json"
    write_json(config, read_json(config) | {"rms_norm_eps": 10.0})
    assert Reranker(small, precision="fp32").score(PAIRS) == before


@pytest.mark.parametrize("kind", ["low-rank", "int8-rowwise"])
def test_a_model_saved_over_weights_of_another_kind_replaces_them(kind, small, tmp_path):
    reranker = Reranker(small, precision="fp32", device="cpu")
    folder = small if kind == "low-rank" else export(reranker, kind, tmp_path / "int8")
    stale = (tmp_path / "stale", next(folder.glob("model.*.safetensors")))
    shutil.copy(stale[1], stale[0])
    with torch.no_grad():
        for weight in reranker.backbone.parameters():
            weight *= 1.3
    reranker.save_pretrained(folder)
    assert Reranker(folder, precision="fp32").score(PAIRS) == pytest.approx(reranker.score(PAIRS), abs=1e-5)
    shutil.copy(stale[0], stale[1])
    with pytest.raises(CheckpointError, match=r"holds model\..*safetensors and model\.safetensors"):
        Reranker(folder)


def test_a_base_may_bring_weights_that_are_not_needed(tmp_path):
    torch.manual_seed(1)
    tokenizer = bert_tokenizer()
    config = transformers.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **SIZE)
    base = save(transformers.BertModel(config), tokenizer, tmp_path / "base")  # with a pooler
    reranker = trained(base)
    again = Reranker(export(reranker, "low-rank", tmp_path / "small", base=base, rank=RANK), precision="fp32")
    assert again.score(PAIRS) == pytest.approx(reranker.score(PAIRS), abs=0.02)


def test_the_base_and_the_folder_itself_are_never_replaced(small, tmp_path):
    reranker = trained(tmp_path / "base")
    with pytest.raises(CheckpointError, match="would be replaced"):
        export(reranker, "low-rank", tmp_path, base=str(tmp_path / "base"), rank=RANK, force=True)
    loaded = Reranker(small, precision="fp32", device="cpu")
    with pytest.raises(CheckpointError, match="the model's own folder"):
        export(loaded, "low-rank", small, base=str(tmp_path / "base"), rank=RANK, force=True)


def test_a_base_in_a_folder_is_found_from_everywhere(qwen_folder, tmp_path, monkeypatch, caplog):
    shutil.copytree(qwen_folder, tmp_path / "here" / "base")
    monkeypatch.chdir(tmp_path / "here")
    export(trained("base"), "low-rank", "small", base="base", rank=RANK)
    assert "whoever gets it needs the base there too" in caplog.text
    monkeypatch.chdir(tmp_path)
    assert len(Reranker("here/small").score(PAIRS)) == len(PAIRS)


def test_such_a_model_of_the_hub_is_found_by_its_name(small, tmp_path, monkeypatch):
    """What `cached_file` finds for a hub name, a folder here stands in for."""
    monkeypatch.setattr(transformers.utils, "cached_file", lambda _, name, **__: str(small / name))
    file, facts = read_facts("owner/small")
    assert file == small / LOW_RANK_FILE and facts.rank == RANK


@pytest.mark.parametrize("what", ["cut", "no words", "a factor", "a shape", "a short vector", "two forms"])
def test_a_damaged_file_is_named(what, small):
    file = small / LOW_RANK_FILE
    if what == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif what == "no words":
        save_file(load_file(file), file)
    else:
        from safetensors import safe_open

        with safe_open(file, framework="pt") as tensors:
            words = tensors.metadata()
        weights = load_file(file)
        name = next(name for name in weights if name.endswith("::a"))
        vector = next(name for name in weights if weights[name].ndim == 1 and "::" not in name)
        if what == "a factor":
            del weights[name], weights[name + "::scale"]
        elif what == "a short vector":
            weights[vector] = weights[vector][:1].contiguous()
        elif what == "two forms":
            weights[name.removesuffix("::a")] = torch.ones(1)
        else:
            weights[name] = weights[name][:, :-1].contiguous()
        save_file(weights, file, words)
    with pytest.raises(CheckpointError, match=LOW_RANK_FILE):
        Reranker(small)


def test_what_is_no_difference_is_refused(small, qwen_folder, tmp_path):
    same = Reranker(qwen_folder, prompt="prorank-short", precision="fp32", device="cpu")
    with pytest.raises(CheckpointError, match="has the weights of"):
        export(same, "low-rank", tmp_path / "same", base=str(qwen_folder))
    with pytest.raises(CheckpointError, match="a low-rank difference itself"):
        export(trained(qwen_folder), "low-rank", tmp_path / "twice", base=str(small))
    other = random_qwen(tmp_path / "other", ONE_LAYER | {"num_hidden_layers": 1})
    with pytest.raises(CheckpointError, match="was not made from"):
        export(trained(qwen_folder), "low-rank", tmp_path / "odd", base=str(other))
    with pytest.raises(CheckpointError, match="1 or more, not 0"):
        export(trained(qwen_folder), "low-rank", tmp_path / "odd", base=str(qwen_folder), rank=0)
    broken = trained(qwen_folder)
    with torch.no_grad():
        broken.backbone.model.model.norm.weight[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"norm\.weight holds numbers that are not finite"):
        export(broken, "low-rank", tmp_path / "odd", base=str(qwen_folder))
    for target, base in (("low-rank", None), ("onnx", "x")):
        with pytest.raises(CheckpointError, match="low-rank needs the base model"):
            export(same, target, tmp_path / "odd", base=base)


def test_the_command_writes_it_and_tells_what_it_is(qwen_folder, tmp_path, call):
    trained(qwen_folder).save_pretrained(tmp_path / "whole")
    command = ["export", tmp_path / "whole", "--to", "low-rank", "--output", tmp_path / "small"]
    code, _, err = call(*command)
    assert code == 2 and "give --base" in err
    code, out, err = call(*command, "--base", qwen_folder, "--rank", RANK)
    assert code == 0 and "low-rank in" in out, err
    _, out, _ = call("info", tmp_path / "small")
    assert f"added to  {qwen_folder}" in out and f"rank  {RANK}" in out and "parameters  -" in out
    assert file_size(tmp_path / "small") < 0.5 * (tmp_path / "whole" / "model.safetensors").stat().st_size
