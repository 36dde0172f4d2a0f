"""Memory that the system does not tell, or that did not grow, leaves a ratio out; times are reported all the same."""

import json

import pytest

from prorank.bench import step, warmup


@pytest.mark.parametrize("theirs", [0, None])
@pytest.mark.parametrize("benchmark", ["step", "warmup"])
def test_memory_that_cannot_be_told_ends_no_benchmark(benchmark, theirs, word_collection, tmp_path, monkeypatch, call):
    def measured(worker, spec, what):
        ours = spec["contender"].startswith("prorank")
        extra = {"extra_bytes": 4_096 if ours else theirs}
        return {"seconds": 1.0 if ours else 2.0, "all_seconds": [1.0]} | extra

    monkeypatch.setattr({"step": step, "warmup": warmup}[benchmark], "measured_alone", measured)
    if benchmark == "warmup":
        monkeypatch.setattr(warmup, "find_spec", lambda _: True)
        chosen = ("--steps", 1)
    else:
        chosen = ("embedded", "--collection", word_collection, "--queries", 2, "--documents", 3, "--lora", "0")
    code, _, err = call("bench", benchmark, *chosen, "--device", "cpu", "--output", tmp_path / "found.json")
    assert code == 0, err
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["memory_ratio"].values()) == {None}
    assert set(found["speed_ratio"].values()) == {2.0}
