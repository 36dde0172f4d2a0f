"""Both stages on a causal model that has learned a toy language: relevance is token overlap."""

import pytest

from prorank.bench.toy import toy_recipe, toy_tokenizer
from prorank.pipeline.run import run_recipe
from prorank.recipe.loading import validate_recipe


def test_answers_of_the_toy_language_are_single_tokens():
    tokenizer = toy_tokenizer()
    assert [len(tokenizer(text)["input_ids"]) for text in (" unrelated", " related", " apple")] == [1, 1, 1]


@pytest.mark.timeout(240)
def test_both_stages_teach_what_they_should(toy_folder, tmp_path):
    tree = toy_recipe(toy_folder)
    tree["warmup"] |= {"evaluate_every": 40}
    tree["evaluation"] |= {"rerank_depth": 60}
    results = run_recipe(validate_recipe(tree), tmp_path / "run")
    rows = {row["stage"]: row for row in results["rows"]}
    assert results["warmup"]["start"]["format_rate"] < 0.10  # it says `related`, it has never been asked for 1
    for metrics in (results["warmup"], results["warmup"]["test"]):
        assert metrics["format_rate"] >= 0.99
        assert metrics["balanced_accuracy"] >= 0.90
    assert results["warmup"]["diagnosis"] == ""
    assert rows["score-learning"]["ndcg@10"] > max(0.95, rows["warmup"]["ndcg@10"])
