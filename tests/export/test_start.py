"""The beginning that all sequences of a prompt share is a constant of a causal model's graph."""

import copy
import json

import numpy as np
import pytest
import torch
import transformers
from conftest import SIZE, byte_tokenizer, save
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank import Reranker
from prorank.engine.runtime import openvino_graph
from prorank.export.export import export
from prorank.export.start import read_start
from prorank.prompts.builtin import PROMPTS
from prorank.prompts.prompt import Prompt
from prorank.util.errors import CheckpointError

PAIRS = [("what is a river?", "a stone.\n\n"), ("apple", ""), ("apple river", "stone cloud " * 14)]
CAUSAL = {"prompt": "prorank", "max_length": 600, "precision": "fp32", "device": "cpu"}


def batch_of(reranker):
    batch = reranker.tokenizer.collate(reranker.tokenizer.encode(PAIRS)[0])
    return batch.input_ids.numpy().copy(), batch.attention_mask.numpy()


def test_a_causal_graph_does_not_read_its_beginning_again(one_layer_folder, tmp_path):
    reranker = Reranker.from_pretrained(one_layer_folder, **CAUSAL)
    folder = export(reranker, "openvino", tmp_path / "export")
    graph = openvino_graph(folder / "openvino_model.xml", reranker.backbone.config, "fp32")
    ids, mask = batch_of(reranker)
    start = len(reranker.pair_tokenizer.shared_start)
    assert start > 20 and f"the first {start} ids, the prompt's," in (folder / "README.md").read_text()
    logits = graph(ids, mask)
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], reranker.score(PAIRS), atol=1e-4)
    ids[:, :start] = 7
    np.testing.assert_array_equal(graph(ids, mask), logits)
    ids[:, start] = 7  # while what comes next is read
    assert np.abs(graph(ids, mask) - logits).max() > 1e-4


def test_a_model_whose_cache_is_no_plain_one_reads_every_token(tmp_path):
    torch.manual_seed(3)
    tokenizer = byte_tokenizer()
    config = transformers.MistralConfig(
        vocab_size=len(tokenizer), num_key_value_heads=2, head_dim=8, sliding_window=40, **SIZE
    )
    reranker = Reranker.from_pretrained(
        save(transformers.MistralForCausalLM(config), tokenizer, tmp_path / "mistral"), **CAUSAL
    )
    assert read_start(reranker.backbone, reranker.pair_tokenizer.shared_start) == []
    folder = export(reranker, "onnx", tmp_path / "export")
    assert "not read" not in (folder / "README.md").read_text()
    again = Reranker.from_pretrained(folder, precision="fp32")
    np.testing.assert_allclose(again.score(PAIRS), reranker.score(PAIRS), atol=1e-3)


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_another_beginning_than_the_one_built_in_is_refused(one_layer_folder, tmp_path, target):
    reranker = Reranker.from_pretrained(one_layer_folder, **CAUSAL)
    folder = export(reranker, target, tmp_path / "export", int8=True)
    again = Reranker.from_pretrained(folder, max_length=500, instruction="be strict", precision="fp32")
    assert np.isfinite(again.score(PAIRS)).all()
    other = Reranker.from_pretrained(one_layer_folder, **(CAUSAL | {"prompt": "qwen3-reranker"}))
    mixed = Reranker(copy.copy(again.backend), other.tokenizer, again.settings)
    with pytest.raises(CheckpointError, match="another beginning of the prompt built in"):
        mixed.score(PAIRS)
    settings = json.loads((folder / "prorank.json").read_text())
    settings["frame"][0] = "Hello. " + settings["frame"][0]
    (folder / "prorank.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="another beginning of the prompt built in"):
        Reranker.from_pretrained(folder).score(PAIRS)


def test_a_model_without_a_cache_is_exported_whole(tmp_path):
    torch.manual_seed(3)
    tokenizer = byte_tokenizer()
    config = transformers.OpenAIGPTConfig(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=600)
    folder = save(transformers.OpenAIGPTLMHeadModel(config), tokenizer, tmp_path / "gpt")
    reranker = Reranker.from_pretrained(folder, **CAUSAL)
    assert read_start(reranker.backbone, reranker.pair_tokenizer.shared_start) == []


def test_a_masked_model_has_no_such_beginning(bert_folder):
    reranker = Reranker.from_pretrained(bert_folder, prompt="prorank-short", max_length=100, precision="fp32")
    assert read_start(reranker.backbone, reranker.pair_tokenizer.shared_start) == []


@pytest.fixture(scope="module", params=sorted(name for name, one in PROMPTS.items() if not one.thinks))
def tokenizer(request, one_layer_folder):
    return Reranker.from_pretrained(one_layer_folder, **(CAUSAL | {"prompt": request.param})).pair_tokenizer


@given(query=st.text(max_size=700), document=st.text(max_size=700), instruction=st.none() | st.text(max_size=20))
@settings(max_examples=30, deadline=None)
def test_every_sequence_begins_with_the_shared_start(tokenizer, query, document, instruction):
    varied = tokenizer.varied(instruction=instruction)
    (sequence,), _ = varied.encode([(query, document)])
    start = varied.shared_start
    assert sequence[: len(start)] == start
    assert len(sequence) > len(start)


def test_the_start_of_a_joined_prompt_is_its_frame(one_layer_folder):
    segments = ("Judge rele", "vance of query: {query}", "\ndocument: {document}")  # a seam inside a word
    prompt = Prompt(name="seam", segments=segments, joined=True, frame=("<|im_start|>", "?"))
    tokenizer = Reranker.from_pretrained(one_layer_folder, **(CAUSAL | {"prompt": prompt})).pair_tokenizer
    (sequence,), _ = tokenizer.encode([("apple", "stone")])
    assert tokenizer.shared_start == tokenizer.prefix_ids == sequence[: len(tokenizer.prefix_ids)] != []
