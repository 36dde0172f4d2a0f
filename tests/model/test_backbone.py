import logging

import pytest
import torch
import transformers
from conftest import SIZE, bert_tokenizer, byte_tokenizer, save
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from prorank import Reranker
from prorank.model.backbone import Backbone
from prorank.model.device import fast_bf16, resolve_precision
from prorank.model.loading import detect_family, load_backbone
from prorank.model.packing import one_pack
from prorank.util.errors import CheckpointError

KV = {"num_key_value_heads": 2}
CAUSAL = {
    "qwen2": lambda v: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(vocab_size=v, **SIZE, **KV)),
    "qwen3": lambda v: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(vocab_size=v, head_dim=8, **SIZE, **KV)),
    "llama": lambda v: transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=v, **SIZE, **KV)),
    "gemma2": lambda v: transformers.Gemma2ForCausalLM(
        transformers.Gemma2Config(vocab_size=v, head_dim=8, final_logit_softcapping=0.5, **SIZE, **KV)
    ),
    "granite": lambda v: transformers.GraniteForCausalLM(
        transformers.GraniteConfig(vocab_size=v, logits_scaling=7.0, **SIZE, **KV)
    ),
    "gpt2": lambda v: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=v, n_embd=32, n_layer=2, n_head=4)
    ),
}
MASKED = {
    "bert": lambda v: transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=v, **SIZE)),
    "roberta": lambda v: transformers.RobertaForMaskedLM(
        transformers.RobertaConfig(vocab_size=v, pad_token_id=0, **SIZE)
    ),
    "modernbert": lambda v: transformers.ModernBertForMaskedLM(
        transformers.ModernBertConfig(vocab_size=v, pad_token_id=0, cls_token_id=2, sep_token_id=3, **SIZE)
    ),
}


def spread(model):
    """Larger random weights, so that a forgotten factor shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("kind", [*CAUSAL, *MASKED])
def test_slot_logits_equal_the_models_own(kind, tmp_path):
    masked = kind in MASKED
    tokenizer = bert_tokenizer() if masked else byte_tokenizer()
    save(spread((MASKED if masked else CAUSAL)[kind](len(tokenizer))), tokenizer, tmp_path)
    backbone = load_backbone(tmp_path, precision="fp32")
    assert backbone.family == ("masked" if masked else "causal")
    lengths = torch.tensor([9, 4, 12, 7])
    ids = torch.randint(5, len(tokenizer), (4, 12))
    mask = (torch.arange(12)[None] < lengths[:, None]).long()
    slot = lengths - (2 if masked else 1)
    ours = backbone(ids, mask, slot)
    for row in range(4):
        whole = backbone.core(input_ids=ids[row : row + 1, : lengths[row]]).logits[0, slot[row]]
        torch.testing.assert_close(ours[row], whole.float(), atol=2e-5, rtol=1e-4)
    some = backbone(ids, mask, slot, rows=[7, 5])
    torch.testing.assert_close(some, ours[:, [7, 5]])


def test_embeddings_stand_in_for_a_missing_head_and_say_so(encoder_folder, caplog):
    with caplog.at_level(logging.WARNING):
        backbone = Reranker.from_pretrained(
            encoder_folder, prompt="prorank-short", max_length=64, precision="fp32"
        ).backbone
    assert "word embeddings serve as the head" in caplog.text
    ids = torch.randint(5, 20, (1, 6))
    hidden = backbone.core(input_ids=ids).last_hidden_state[0, 3]
    expected = backbone.core.embeddings.word_embeddings.weight @ hidden
    actual = backbone(ids, torch.ones_like(ids), torch.tensor([3]))[0]
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


def test_a_head_that_would_be_random_is_refused(encoder_folder, tmp_path):
    model = transformers.BertModel.from_pretrained(encoder_folder)
    model.config.architectures = ["BertForMaskedLM"]  # claims a head that it lacks
    model.save_pretrained(tmp_path)
    bert_tokenizer().save_pretrained(tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    config.architectures = ["BertForMaskedLM"]
    config.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="would be random"):
        load_backbone(tmp_path)


def test_lora_leaves_the_start_reachable_and_merges_on_saving(qwen_folder, tmp_path):
    backbone = load_backbone(qwen_folder, precision="fp32", for_training=True)
    ids = torch.randint(5, 100, (2, 8))
    mask, slot = torch.ones_like(ids), torch.tensor([7, 7])
    start = backbone(ids, mask, slot)
    backbone.add_lora(rank=4, alpha=8)
    trained = [name for name, p in backbone.named_parameters() if p.requires_grad]
    assert trained and all("lora" in name for name in trained)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    changed = backbone(ids, mask, slot)
    assert (changed - start).abs().max() > 1e-3
    with backbone.without_lora():
        torch.testing.assert_close(backbone(ids, mask, slot), start)
    backbone.save(tmp_path)
    merged = load_backbone(tmp_path, precision="fp32")
    assert not merged.has_lora
    torch.testing.assert_close(merged(ids, mask, slot), changed, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(backbone(ids, mask, slot), changed)  # saving left the adapters alone


@pytest.mark.parametrize("folder", ["qwen_folder", "bert_folder"])
def test_what_lora_freezes_is_kept_as_it_is_computed(folder, request, tmp_path, monkeypatch):
    from prorank.model import backbone as module

    ids = torch.randint(5, 30, (2, 8))
    found = []
    for kept in (True, False):
        backbone = load_backbone(request.getfixturevalue(folder), precision="bf16", for_training=True)
        with monkeypatch.context() as patch:
            if kept:
                patch.setattr(module, "cast_frozen", lambda *_: None)
            torch.manual_seed(2)
            backbone.add_lora(rank=4, alpha=8)
        with torch.no_grad():
            for name, parameter in backbone.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.3)
        logits = backbone(ids, torch.ones_like(ids), torch.tensor([7, 7]))
        logits.log_softmax(-1)[:, 3].sum().backward()
        adapters = {name: p for name, p in backbone.named_parameters() if p.requires_grad}
        assert {p.dtype for p in adapters.values()} == {torch.float32}
        found.append([logits, *(p.grad for p in adapters.values())])
        narrow = [p for p in backbone.parameters() if p.dtype == torch.bfloat16]
        assert bool(narrow) != kept and not any(p.requires_grad for p in narrow)
    for one, other in zip(*found):
        assert (one - other).norm() < 0.05 * one.norm()  # products were bf16 before as well, summed in other places
    backbone.save(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert any(p.dtype == torch.bfloat16 for p in backbone.parameters())  # saving left the model alone


def test_the_gradient_of_adapters_multiplies_no_frozen_weights(qwen_folder):
    """Trained whole, a backward pass costs two forward passes; with small adapters hardly more than one."""
    products = []
    for lora in (False, True):
        backbone = load_backbone(qwen_folder, precision="fp32", for_training=True)
        if lora:
            backbone.add_lora(rank=1, alpha=1)
        pack = one_pack([list(range(5, 69))] * 4, causal=True)
        with FlopCounterMode(display=False) as forward:
            hidden = backbone(pack=pack)
        with FlopCounterMode(display=False) as backward:
            hidden.sum().backward()
        products.append(backward.get_total_flops() / forward.get_total_flops())
    assert products[0] > 1.7 and products[1] < 1.3


def test_precision_is_never_half_by_accident(qwen_folder):
    cpu = torch.device("cpu")
    assert resolve_precision("auto", cpu) == (torch.bfloat16 if fast_bf16(cpu) else torch.float32)
    assert resolve_precision("fp32", cpu) == torch.float32
    training = load_backbone(qwen_folder, precision="bf16", for_training=True)
    assert {p.dtype for p in training.parameters()} == {torch.float32}  # master weights
    assert {p.dtype for p in load_backbone(qwen_folder, precision="bf16").parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("name", "avx512_bf16", "amx", "fast"),
    [
        ("AMD EPYC 9R14", True, False, True),
        ("AMD EPYC 7R13", False, False, False),
        ("Intel(R) Xeon(R) Processor", True, False, False),  # AMX hidden by the virtual machine
        ("Intel(R) Xeon(R) Platinum 8488C", True, True, True),
        ("", True, False, False),
    ],
)
def test_bf16_is_taken_where_cpus_are_fast_at_it(monkeypatch, name, avx512_bf16, amx, fast):
    monkeypatch.setattr("prorank.model.device.processor", lambda: name)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert fast_bf16(torch.device("cpu")) is fast


def test_bf16_stays_close_to_fp32(bert_folder):
    ids = torch.randint(5, 20, (3, 10))
    arguments = (ids, torch.ones_like(ids), torch.tensor([4, 5, 6]))
    exact = load_backbone(bert_folder, precision="fp32")(*arguments)
    rough = load_backbone(bert_folder, precision="bf16")(*arguments)
    assert rough.dtype == torch.float32
    assert (exact - rough).abs().max() < 0.05 * exact.abs().max()


def test_missing_models_and_families_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="cannot load"):
        load_backbone(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="'vit'"):
        detect_family(transformers.ViTConfig())


def test_pickled_weights_are_not_read(bert_folder, tmp_path):
    model = transformers.BertForMaskedLM.from_pretrained(bert_folder)
    model.config.save_pretrained(tmp_path)
    bert_tokenizer().save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError):
        load_backbone(tmp_path)


def test_adapters_beside_experts_are_trained():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "moe_intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "num_experts": 2}
    config = transformers.Qwen3MoeConfig(
        vocab_size=100, bos_token_id=None, eos_token_id=None, num_experts_per_tok=1, **sizes, **heads
    )
    backbone = Backbone(transformers.Qwen3MoeForCausalLM(config), None, "causal")
    backbone.add_lora(4, 8, 0.0)
    ids = torch.tensor([[5, 6, 7]])
    backbone.slot_hidden(ids, torch.ones_like(ids), torch.tensor([2])).sum().backward()
    assert all(weight.grad is not None for name, weight in backbone.named_parameters() if "lora" in name)


def test_a_head_of_an_unknown_kind_is_named():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.RemBertConfig(
        vocab_size=100, input_embedding_size=16, output_embedding_size=16, bos_token_id=None, eos_token_id=None, **sizes
    )
    backbone = Backbone(transformers.RemBertForMaskedLM(config), None, "masked")
    with pytest.raises(CheckpointError, match="the head of RemBertForMaskedLM is not known"):
        backbone.supports_packing  # noqa: B018
