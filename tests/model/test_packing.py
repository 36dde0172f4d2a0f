import numpy as np
import pytest
import torch
import transformers
from conftest import SIZE
from hypothesis import given
from hypothesis import strategies as st
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from prorank.model import attention
from prorank.model.attention import WrittenOut, _attention, _mask, packed_attention
from prorank.model.backbone import Backbone
from prorank.model.last_layer import layers_of
from prorank.model.packing import MIN_SHARED, Pack, one_pack, plan_packs, shared_length

GQA = {**SIZE, "num_key_value_heads": 2}
MODELS = {
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(vocab_size=100, **GQA)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(vocab_size=100, head_dim=8, **GQA)),
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=100, **GQA)),
    "granite": lambda: transformers.GraniteForCausalLM(transformers.GraniteConfig(vocab_size=100, **GQA)),
    "mistral with a window": lambda: transformers.MistralForCausalLM(
        transformers.MistralConfig(vocab_size=100, sliding_window=7, head_dim=8, **GQA)
    ),
    "gemma3 with windows": lambda: transformers.Gemma3ForCausalLM(
        transformers.Gemma3TextConfig(
            vocab_size=100, sliding_window=6, head_dim=8, layer_types=["sliding_attention", "full_attention"], **GQA
        )
    ),
    "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=100, **SIZE)),
    "roberta": lambda: transformers.RobertaForMaskedLM(
        transformers.RobertaConfig(vocab_size=100, max_position_embeddings=80, **SIZE)
    ),
    "modernbert with windows": lambda: transformers.ModernBertForMaskedLM(
        transformers.ModernBertConfig(vocab_size=100, pad_token_id=0, local_attention=8, **SIZE)
    ),
}


def backbone_of(name: str) -> Backbone:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad():  # default initialisation is so small that attention hardly shows
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    masked = any(kind in name for kind in ("bert",))
    return Backbone(model, None, "masked" if masked else "causal")


def padded_hidden(backbone, sequences, slot_from_end):
    longest = max(map(len, sequences))
    ids = torch.tensor([s + [0] * (longest - len(s)) for s in sequences])
    lengths = torch.tensor([len(s) for s in sequences])
    mask = (torch.arange(longest)[None] < lengths[:, None]).long()
    return backbone.slot_hidden(ids, mask, lengths - slot_from_end)


def packed_hidden(backbone, sequences, groups, budget, slot_from_end):
    found = {}
    for pack in plan_packs(
        sequences,
        groups,
        budget,
        causal=backbone.family == "causal",
        slot_from_end=slot_from_end,
        position_offset=backbone.position_offset,
    ):
        found.update(zip(pack.sequences, backbone.packed_hidden(pack)))
    return torch.stack([found[i] for i in range(len(sequences))])


@pytest.mark.parametrize("name", ["qwen2", "mistral with a window", "modernbert with windows"])
def test_long_spans_are_attended_block_by_block(name, monkeypatch):
    backbone = backbone_of(name)
    sequences = [[*range(10, 40), *(5 + (7 * i + j) % 90 for i in range(40))] for j in range(3)]
    with torch.inference_mode():
        expected = packed_hidden(backbone, sequences, [0] * 3, 999, 1)
        monkeypatch.setattr(attention, "QUERY_BLOCK", 16)
        found = packed_hidden(backbone, sequences, [0] * 3, 999, 1)
    torch.testing.assert_close(found, expected, atol=2e-5 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_packed_states_equal_the_models_own(name):
    backbone = backbone_of(name)
    assert backbone.supports_packing
    generator = torch.Generator().manual_seed(1)
    prefix = torch.randint(5, 100, (12,), generator=generator).tolist()
    tails = [torch.randint(5, 100, (n,), generator=generator).tolist() for n in (30, 3, 17, 1, 25)]
    sequences = [prefix + tail for tail in tails] + [tails[0], tails[4]]
    slot = 1 if backbone.family == "causal" else 2
    sequences = [[*s, 7, 8] for s in sequences]
    with torch.inference_mode():
        expected = padded_hidden(backbone, sequences, slot)
        for budget in (1, 60, 1000):
            found = packed_hidden(backbone, sequences, [0] * 5 + [1, 2], budget, slot)
            torch.testing.assert_close(found, expected, atol=2e-5 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("name", ["qwen2", "bert", "roberta", "mistral with a window"])
def test_the_last_layer_asks_at_the_slots_alone(name, monkeypatch):
    backbone = backbone_of(name)
    layers = layers_of(backbone.core.base_model)
    asked, attended = [], []
    for layer in layers:
        bert = not hasattr(layer, "self_attn")
        part = layer.attention.self.query if bert else layer.self_attn.q_proj
        output = layer.attention.output.dense if bert else layer.self_attn.o_proj
        for each in (part, output):
            each.register_forward_hook(lambda _, __, found: asked.append(int(found.any(-1).sum())))
    real = attention._attention_at
    monkeypatch.setattr(
        attention, "_attention_at", lambda slots, *more: attended.append(len(slots)) or real(slots, *more)
    )
    pack = one_pack(
        [[5, 6, 7, 8], [5, 9, 9]], causal=backbone.family == "causal", position_offset=backbone.position_offset
    )
    with torch.inference_mode():
        backbone.packed_hidden(pack)
        assert asked == [7, 7] * (len(layers) - 1) + [2, 2] and attended == [2]
        found = backbone.packed_hidden(pack)
    assert "forward" not in vars(part) and found.any(-1).all()  # the layers are as they were


def test_many_slots_of_a_sequence_are_attended_in_one_call(monkeypatch):
    backbone = backbone_of("qwen3")
    monkeypatch.setattr(attention, "_attention_at", None)
    sequences = [[5, 6, 7, 8, 9, 3], [5, 9, 9, 2, 8]]
    with torch.inference_mode():
        (pack,) = plan_packs(sequences, [0, 1], 99, causal=True, slots=4)
        found = backbone.packed_hidden(pack).view(2, 4, -1)
        for row, sequence in zip(found, (sequences[place] for place in pack.sequences)):
            ids = torch.tensor([sequence])
            expected = backbone.slot_hidden(
                ids, torch.ones_like(ids), torch.tensor([[len(sequence) - 4 + i for i in range(4)]])
            )
            torch.testing.assert_close(row, expected[0], atol=1e-4, rtol=1e-4)


def test_padded_layers_run_twice_give_the_same_gradient():
    gradients = []
    for twice in (False, True):
        backbone = backbone_of("qwen3").train()
        backbone.gradient_checkpointing = twice
        padded_hidden(backbone, [[5, 6, 7, 8], [5, 9, 9]], 1).pow(2).sum().backward()
        gradients.append({n: p.grad.clone() for n, p in backbone.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_gradients_through_a_pack_equal_those_through_padding():
    backbone = backbone_of("qwen2")
    sequences = [[*range(10, 30), 3, i] for i in range(4)]
    gradients = []
    for hidden in (packed_hidden(backbone, sequences, [0] * 4, 99, 1), padded_hidden(backbone, sequences, 1)):
        backbone.zero_grad()
        hidden.pow(2).sum().backward()
        gradients.append({n: p.grad.clone() for n, p in backbone.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("name", ["qwen2", "gemma3 with windows", "bert", "modernbert with windows"])
def test_layers_run_twice_give_the_same_gradient(name):
    sequences = [[*range(10, 30), 3, i] for i in range(4)] + [[5, 6, 7]]
    gradients, runs = [], []
    for twice in (False, True):
        backbone = backbone_of(name).train()
        for module in backbone.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.1
        layer = layers_of(backbone.core.base_model)[0]
        part = getattr(layer, "mlp", None) or layer.intermediate
        part.register_forward_pre_hook(lambda *_, now=twice: runs.append(now))
        backbone.gradient_checkpointing = twice
        pack = one_pack(sequences, [0] * 4 + [1], causal=backbone.family == "causal")
        torch.manual_seed(4)
        backbone(pack=pack).pow(2).sum().backward()
        gradients.append({n: p.grad.clone() for n, p in backbone.named_parameters() if p.grad is not None})
    assert (runs.count(False), runs.count(True)) == (1, 2)
    for gradient, again in zip(gradients[0].values(), gradients[1].values()):
        assert torch.equal(gradient, again)


def test_transformers_own_gradient_checkpointing_is_refused():
    from prorank.util.errors import CheckpointError

    backbone = backbone_of("qwen2").train()
    backbone.model.gradient_checkpointing_enable()
    with pytest.raises(CheckpointError, match="gradient checkpointing"):
        backbone(pack=one_pack([[10, 11, 12]], causal=True))


@pytest.mark.parametrize(
    "config, model",
    [
        (transformers.Gemma2Config(vocab_size=100, head_dim=8, **GQA), transformers.Gemma2ForCausalLM),
        (transformers.GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4), transformers.GPT2LMHeadModel),
        (transformers.BloomConfig(vocab_size=100, hidden_size=32, n_layer=2, n_head=4), transformers.BloomForCausalLM),
    ],
)
def test_a_model_that_packing_does_not_suit_is_recognised(config, model):
    torch.manual_seed(0)
    backbone = Backbone(model(config).eval(), None, "causal")
    if backbone.supports_packing:  # then it must be right beyond the probe's few tokens
        sequences = [list(range(3, 60)), [*range(3, 20), 70, 71, 72]]
        with torch.inference_mode():
            found = packed_hidden(backbone, sequences, [0, 0], 500, 1)
            torch.testing.assert_close(found, padded_hidden(backbone, sequences, 1), atol=1e-4, rtol=1e-4)
    else:
        assert model is not transformers.GPT2LMHeadModel


def test_the_probe_finds_a_wrong_attention(monkeypatch):
    from prorank.model import attention

    def forgets_the_prefix(module, query, key, value, attention_mask=None, *, pack, **rest):
        spans = [span._replace(prefix_start=0, prefix_stop=0) for span in pack.spans]
        wrong = Pack(pack.input_ids, pack.position_ids, spans, pack.slots, pack.sequences, pack.causal)
        return packed_attention(module, query, key, value, attention_mask, pack=wrong, **rest)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, attention.ATTENTION, forgets_the_prefix)
    assert not backbone_of("qwen2").supports_packing


sequences_and_groups = st.lists(
    st.tuples(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(0, 2)), min_size=1, max_size=12
)


@given(sequences_and_groups, st.integers(1, 80), st.booleans())
def test_packs_hold_every_sequence_once_within_the_budget(items, budget, causal):
    sequences, groups = [s for s, _ in items], [g for _, g in items]
    packs = list(plan_packs(sequences, groups, budget, causal=causal))
    assert sorted(i for pack in packs for i in pack.sequences) == list(range(len(sequences)))
    for pack in packs:
        ids, positions = pack.input_ids[0].tolist(), pack.position_ids[0].tolist()
        assert len(pack.sequences) == 1 or len(ids) <= budget
        assert [s.start for s in pack.spans] == [0, *[s.stop for s in pack.spans][:-1]]
        assert pack.spans[-1].stop == len(ids)
        ends = {span.stop - 1: span for span in pack.spans}
        for index, slot in zip(pack.sequences, pack.slots.tolist()):
            span = ends[slot]  # the slot is the last token; its span and prefix spell the sequence
            pieces = [range(span.prefix_start, span.prefix_stop), range(span.start, span.stop)]
            assert [ids[i] for piece in pieces for i in piece] == sequences[index]
            assert [positions[i] for piece in pieces for i in piece] == list(range(len(sequences[index])))
            assert causal or span.prefix_start == span.prefix_stop


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=2, max_size=6))
def test_shared_length_is_the_longest_common_prefix(sequences):
    length = shared_length(sequences)
    assert length < min(map(len, sequences))
    assert len({tuple(s[:length]) for s in sequences}) == 1
    assert length == min(map(len, sequences)) - 1 or len({tuple(s[: length + 1]) for s in sequences}) > 1


def test_a_shared_prefix_is_computed_once():
    prefix = list(range(50))
    (pack,) = plan_packs([[*prefix, 60 + i] for i in range(20)], [0] * 20, 999, causal=True)
    assert pack.input_ids.shape == (1, 70)
    (short,) = plan_packs([[*prefix[: MIN_SHARED - 1], 60 + i] for i in range(3)], [0] * 3, 999, causal=True)
    assert short.input_ids.shape == (1, 3 * MIN_SHARED)


def reference_varlen(query, key, value, cu_q, cu_k, max_q, max_k, *, scale, window_size, enable_gqa, num_splits):
    """Plain softmax attention with the documented meaning of torch's varlen_attn (lower-right alignment)."""
    output, group = torch.empty_like(query), query.shape[1] // key.shape[1]
    assert enable_gqa == (group > 1) and num_splits == 1
    for q0, q1, k0, k1 in zip(cu_q[:-1], cu_q[1:], cu_k[:-1], cu_k[1:]):
        assert q1 - q0 <= max_q and k1 - k0 <= max_k
        q, k, v = query[q0:q1], key[k0:k1].repeat_interleave(group, 1), value[k0:k1].repeat_interleave(group, 1)
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        at = torch.arange(q1 - q0)[:, None] + (k1 - k0) - (q1 - q0)
        distance = at - torch.arange(k1 - k0)[None]
        left, right = window_size
        allowed = (distance >= -right if right >= 0 else distance == distance) & (
            distance <= left if left >= 0 else distance == distance
        )
        output[q0:q1] = torch.einsum("hqk,khd->qhd", scores.masked_fill(~allowed, -torch.inf).softmax(-1), v)
    return output


def reference_varlen_2_11(query, key, value, cu_q, cu_k, max_q, max_k, *, scale, window_size):
    """The same before grouped queries and `num_splits`."""
    assert query.shape[1] == key.shape[1]
    return reference_varlen(
        query,
        key,
        value,
        cu_q,
        cu_k,
        max_q,
        max_k,
        scale=scale,
        window_size=window_size,
        enable_gqa=False,
        num_splits=1,
    )


@pytest.mark.parametrize("kernel", [reference_varlen, reference_varlen_2_11])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 5])
def test_the_gpu_call_means_the_same_as_the_loop(causal, window, kernel, monkeypatch):
    """Indices and lengths for torch's flash kernel, checked against a plain implementation of its contract."""
    import torch.nn.attention.varlen as varlen

    from prorank.model.attention import _varlen_attention, varlen_kernel

    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    varlen_kernel.cache_clear()
    sequences = [[*range(20), 30, 31], [*range(20), 40], [5, 6, 7, 8, 9, 10, 11]]
    (pack,) = plan_packs(sequences, [0, 0, 1], 99, causal=causal)
    torch.manual_seed(0)
    tokens = pack.input_ids.shape[1]
    query, key, value = torch.randn(1, 4, tokens, 8), torch.randn(1, 2, tokens, 8), torch.randn(1, 2, tokens, 8)
    expected, _ = packed_attention(None, query, key, value, pack=pack, scaling=0.3, sliding_window=window)
    try:
        found = _varlen_attention(query, key, value, pack, 0.3, window)
    finally:
        varlen_kernel.cache_clear()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("rows", [128, 4])
@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("kind", ["whole", "causal", "masked", "behind a prefix", "window"])
def test_written_out_attention_equals_torchs_in_values_and_gradients(heads, kind, rows, monkeypatch):
    monkeypatch.setattr(attention, "WRITTEN_OUT", rows)  # nine queries at once, or three blocks of three
    torch.manual_seed(0)
    keys = 9 if kind == "causal" else 13
    shapes = [(1, 4, 9, 8), (1, heads, keys, 8), (1, heads, keys, 8)]
    mask = {
        "masked": (torch.rand(9, 13) < 0.7) | (torch.arange(13) == 0),
        "behind a prefix": _mask(9, 4, True, None, torch.device("cpu")),
        "window": _mask(9, 4, True, 5, torch.device("cpu")),
    }.get(kind)
    causal = kind in ("causal", "behind a prefix", "window")
    found = []
    for dtype in (torch.float32, torch.bfloat16):  # torch's own kernel, the formula
        torch.manual_seed(1)
        states = [torch.randn(shape).bfloat16().to(dtype).requires_grad_() for shape in shapes]
        out = _attention(*states, mask, 0.0, causal, 0.3)
        out.square().sum().backward()
        found.append([out.float(), *(s.grad.float() for s in states)])
    for exact, written in zip(*found):
        torch.testing.assert_close(written, exact, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_in_bf16_with_written_out_attention(name, monkeypatch):
    """Rotary embeddings leave queries and keys in float32 under autocast, values in bfloat16."""
    backbone = backbone_of(name)
    backbone.compute_dtype = torch.bfloat16
    calls = []
    monkeypatch.setattr(WrittenOut, "apply", lambda *inputs: calls.append(inputs[0].dtype) or inputs[0])
    packed_hidden(backbone, [[*range(10, 22)]], [0], 99, 1)
    assert torch.bfloat16 in calls


@pytest.mark.parametrize("rows", [128, 2])
@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("causal", [True, False])
def test_the_gradient_of_written_out_attention_is_the_formulas(heads, causal, rows, monkeypatch):
    monkeypatch.setattr(attention, "WRITTEN_OUT", rows)
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(1, h, n, 3, dtype=torch.float64, requires_grad=True) for h, n in ((4, 3), (heads, 5), (heads, 5))
    )
    mask = torch.ones(3, 5, dtype=torch.bool).tril(2) if causal else None
    inputs = (query, key, value)
    assert torch.autograd.gradcheck(lambda *states: WrittenOut.apply(*states, mask, causal, 0.4), inputs)
    out = WrittenOut.apply(query, key, value, mask, causal, 0.4)
    exact = torch.nn.functional.scaled_dot_product_attention(*inputs, attn_mask=mask, scale=0.4, enable_gqa=True)
    torch.testing.assert_close(out, exact)
    kept = list(out.grad_fn.saved_tensors)
    assert [t.shape[-1] for t in kept] == [3, 3, 3]  # no weights among them
