"""What runs on a slower path says so once, and the versions that the fast one needs are the ones that are promised."""

import inspect
import logging
import re
import sys
import types
from pathlib import Path

import pytest
import torch
import transformers

from prorank.model import attention
from prorank.model.loading import load_backbone
from prorank.training.trainer import SlotTrainer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fresh_kernel():
    attention.varlen_kernel.cache_clear()
    yield
    attention.varlen_kernel.cache_clear()


def before_2_11(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None, scale=None): ...


@pytest.mark.parametrize(
    "kernel, lacks",
    [
        (None, "scale, window_size"),
        (before_2_11, "window_size"),
    ],
)
def test_an_older_torch_attends_text_by_text_and_says_so_once(kernel, lacks, fresh_kernel, monkeypatch, caplog):
    module = types.ModuleType("torch.nn.attention.varlen")
    if kernel is not None:
        module.varlen_attn = kernel
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)
    with caplog.at_level(logging.WARNING):
        assert attention.varlen_kernel() is None and attention.varlen_kernel() is None
    (record,) = caplog.records
    assert f"({lacks})" in record.getMessage() and "install torch 2.11 or newer" in record.getMessage()


def test_the_kernel_of_this_torch_is_taken_where_it_has_all_arguments(fresh_kernel, caplog):
    torch_has_it = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 11)
    assert (attention.varlen_kernel() is not None) == torch_has_it
    assert bool(caplog.records) != torch_has_it


@pytest.mark.parametrize("refuses", [True, False])
def test_a_model_that_cannot_be_packed_says_so_once(bert_folder, refuses, monkeypatch, caplog):
    backbone = load_backbone(bert_folder, precision="fp32", device="cpu")
    whole = backbone.packed_hidden

    def unlike(pack):
        if refuses:
            raise NotImplementedError("packed attention has no soft cap")
        return whole(pack) + 1.0

    monkeypatch.setattr(backbone, "packed_hidden", unlike)
    with caplog.at_level(logging.WARNING):
        assert not backbone.supports_packing and not backbone.supports_packing
    (record,) = caplog.records
    why = "no soft cap" if refuses else "mix tokens outside their attention"
    assert "bert" in record.getMessage() and why in record.getMessage() and "take longer" in record.getMessage()


def test_a_model_that_is_packed_says_nothing(bert_folder, caplog):
    with caplog.at_level(logging.WARNING):
        assert load_backbone(bert_folder, precision="fp32", device="cpu").supports_packing
    assert not caplog.records


def test_the_lowest_versions_that_are_tested_are_those_that_are_promised():
    pins = re.findall(r"^([a-z-]+)==([\d.]+)$", (ROOT / "constraints-lowest.txt").read_text(), re.MULTILINE)
    promised = dict(
        re.findall(r'"([a-z-]+)>=([\d.]+)(?:,<\d+)?"', (ROOT / "pyproject.toml").read_text(), re.IGNORECASE)
    )
    assert len(pins) > 10

    def numbers(version):
        return [int(part) for part in [*version.split("."), "0", "0"]][:3]

    for name, version in pins:
        assert numbers(promised[name]) == numbers(version), name
    core = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL | re.MULTILINE)[1]
    assert set(re.findall(r'"([a-z-]+)>=', core)) <= dict(pins).keys()
    assert "transformers>=5.2,<6" in core  # private hooks of its Trainer are overridden


@pytest.mark.parametrize(
    "hook",
    [
        "_save",
        "_save_checkpoint",
        "_load_from_checkpoint",
        "_load_optimizer_and_scheduler",
        "_load_rng_state",
        "_load_best_model",
    ],
)
def test_the_private_hooks_of_transformers_trainer_are_still_called_as_they_are_overridden(hook):
    theirs, ours = (inspect.signature(getattr(kind, hook)).parameters for kind in (transformers.Trainer, SlotTrainer))
    assert list(theirs) == list(ours)
