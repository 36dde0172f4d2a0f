"""Profiles: whose time is counted where, and products counted as they would be by hand."""

import json

import pytest
import torch

from prorank.bench import profile


def test_products_are_counted_by_hand():
    matrix = torch.randn(8, 4)
    rows = torch.randn(5, 4)
    assert profile.product_flops(lambda: torch.nn.functional.linear(rows, matrix)) == 2 * 5 * 4 * 8
    batched = torch.randn(3, 5, 4)
    assert profile.product_flops(lambda: torch.bmm(batched, batched.transpose(1, 2))) == 0  # attention's own


def test_work_that_multiplies_shows_as_products():
    rows, matrix = torch.randn(1024, 1024), torch.randn(1024, 1024)
    found = profile.shares(lambda: [torch.mm(rows, matrix) for _ in range(5)])
    assert found["matrix products"] == max(found.values())
    assert sum(found.values()) == pytest.approx(1)


def test_the_command_profiles_reading_and_training(qwen_folder, tmp_path, call, monkeypatch):
    monkeypatch.setattr(profile, "REPEATS", 1)
    words = ("bench", "profile", qwen_folder, "--stages", "inference,warmup", "--lora", "0,2")
    output = tmp_path / "found.json"
    code, out, err = call(*words, "--pairs", 8, "--length", 16, "--precision", "fp32", "--output", output)
    assert code == 0, err
    rows = json.loads(output.read_text())["rows"]
    assert [(row["stage"], row["lora"]) for row in rows] == [("inference", 0), ("warmup", 0), ("warmup", 2)]
    assert all(row["limit_share"] > 0 and sum(row["shares"].values()) == pytest.approx(1) for row in rows)
    forward, full, lora = (row["product_flops"] for row in rows)
    assert 2 * forward < lora < full < 5 * forward  # backward is two products, one where weights are frozen
    assert f"{rows[0]['limit_share']:.2f}" in out


def test_unknown_stages_are_refused(qwen_folder, call):
    code, _, err = call("bench", "profile", qwen_folder, "--stages", "reading")
    assert code == 2 and "no stage 'reading'" in err
