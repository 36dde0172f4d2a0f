import copy
from contextlib import nullcontext

import peft
import pytest
import torch
from torch import nn

from prorank.model.adapters import AdaptedProduct, OnePassLinear, in_one_pass


def adapted(bias=True, dropout=0.0, dtype=torch.float32):
    """The same adapted model twice: as peft has it, and in one pass."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8, bias=bias), nn.GELU(), nn.Linear(8, 5, bias=bias))
    settings = peft.LoraConfig(r=2, lora_alpha=3, lora_dropout=dropout, target_modules=["0", "2"])
    theirs = peft.get_peft_model(model, settings)
    for name, values in theirs.named_parameters():
        if "lora_B" in name:  # zeros at the start, so that A would have no gradient
            nn.init.normal_(values)
        elif "lora_A" not in name:
            values.data = values.data.to(dtype)
    ours = copy.deepcopy(theirs)
    in_one_pass(ours)
    assert sum(type(module) is OnePassLinear for module in ours.modules()) == 2
    return theirs, ours


def step(model, states, context=nullcontext):
    states = states.clone().requires_grad_()
    with context():
        out = model(states)
    out.float().square().sum().backward()
    gradients = {name: values.grad for name, values in model.named_parameters() if values.grad is not None}
    return out.detach(), states.grad, gradients


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 6), (2, 3, 6), (1, 6)])
def test_values_and_gradients_are_pefts(bias, shape):
    theirs, ours = adapted(bias)
    states = torch.randn(shape)
    expected, found = step(theirs, states), step(ours, states)
    torch.testing.assert_close(found, expected)
    assert set(found[2]) == {name for name, _ in ours.named_parameters() if "lora" in name}


def flat(found):
    """Everything that a step gave, in float64 and one row."""
    out, of_states, gradients = found
    return torch.cat([one.double().flatten() for one in (out, of_states, *gradients.values())])


def test_in_bf16_it_errs_hardly_more_than_peft():
    exact, _ = adapted()
    theirs, ours = adapted(dtype=torch.bfloat16)
    states = torch.randn(40, 6)
    context = lambda: torch.autocast("cpu", dtype=torch.bfloat16)  # noqa: E731
    expected, found = step(theirs, states, context), step(ours, states, context)
    assert found[0].dtype == torch.bfloat16 and found[1].dtype == torch.float32
    assert {gradient.dtype for gradient in found[2].values()} == {torch.float32}
    wanted = flat(step(exact, states))
    errors = [(flat(one) - wanted).norm() / wanted.norm() for one in (expected, found)]
    assert errors[1] < 1.5 * errors[0] < 0.02


def test_the_gradient_is_the_formulas():
    torch.manual_seed(0)
    states, down, up = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((4, 6), (2, 6), (5, 2)))
    weight, bias = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    inputs = (states, weight, bias, down, up, 1.5)
    assert torch.autograd.gradcheck(AdaptedProduct.apply, inputs)
    exact = states @ weight.T + bias + 1.5 * states @ down.T @ up.T
    torch.testing.assert_close(AdaptedProduct.apply(*inputs), exact)
    kept = AdaptedProduct.apply(*inputs).grad_fn.saved_tensors
    assert [tuple(tensor.shape) for tensor in kept] == [(4, 6), (5, 6), (2, 6), (5, 2)]  # nothing narrow, nothing wide


@pytest.mark.parametrize("how", ["switched off", "dropped", "trained whole", "another type"])
def test_what_peft_alone_can_do_is_left_to_it(how, monkeypatch):
    theirs, ours = adapted(dropout=0.5 if how == "dropped" else 0.0)
    monkeypatch.setattr(AdaptedProduct, "apply", None)  # calling it would raise
    states = torch.randn(3, 6)
    context = nullcontext
    for model in (theirs, ours):
        if how == "trained whole":
            model.requires_grad_(True)
    if how == "another type":
        context = lambda: torch.autocast("cpu", dtype=torch.bfloat16)  # noqa: E731
    found = []
    for model in (theirs, ours):
        torch.manual_seed(1)
        with model.disable_adapter() if how == "switched off" else nullcontext(), context():
            found.append(model(states))
    assert torch.equal(*found)


def test_copies_and_merging_work_as_before():
    theirs, ours = adapted()
    states = torch.randn(3, 6)
    expected = theirs(states)
    other = copy.deepcopy(ours)
    nn.init.zeros_(other.base_model.model[0].lora_B["default"].weight)
    torch.testing.assert_close(ours(states), expected)  # the copy has adapters of its own
    assert not torch.allclose(other(states), expected)
    torch.testing.assert_close(ours.merge_and_unload()(states), expected)
