"""A checkpoint as a low-rank difference: what adapters learned comes back, on the same base and on no other."""

import shutil

import numpy as np
import pytest
import torch
from conftest import ONE_LAYER, random_qwen
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from prorank import Reranker
from prorank.export.export import export
from prorank.model.low_rank import LOW_RANK_FILE, factors
from prorank.util.errors import CheckpointError

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


def test_another_base_is_refused(small, tmp_path):
    weights = load_file(tmp_path / "base" / "model.safetensors")
    first = next(name for name in weights if "q_proj.weight" in name)
    weights[first] = weights[first] * 1.001
    save_file(weights, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"base' is not the model that .* was made from"):
        Reranker(small)
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(CheckpointError, match="base"):
        Reranker(small)


@pytest.mark.parametrize("what", ["cut", "no words", "a factor", "a shape"])
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
        if what == "a factor":
            del weights[name], weights[name + "::scale"]
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
    assert f"added to  {qwen_folder}" in out and f"rank  {RANK}" in out
    assert file_size(tmp_path / "small") < 0.5 * (tmp_path / "whole" / "model.safetensors").stat().st_size
