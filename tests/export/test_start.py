"""The beginning that all sequences of a prompt share is a constant of a causal model's graph."""

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
    assert start > 20 and f"first {start} tokens are built in" in (folder / "README.md").read_text()
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
    assert "built in" not in (folder / "README.md").read_text()
    again = Reranker.from_pretrained(folder, precision="fp32")
    np.testing.assert_allclose(again.score(PAIRS), reranker.score(PAIRS), atol=1e-3)


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
    assert sequence[: len(start)] == start and len(start) >= len(varied.prefix_ids)
    assert len(sequence) > len(start)
