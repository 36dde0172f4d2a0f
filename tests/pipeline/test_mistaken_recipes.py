"""Recipes that name what is not there are refused before any work; a recipe without stages promises no model."""

import shutil

import pytest
from tiny_runs import tiny

from prorank.pipeline.run import run_recipe
from prorank.recipe.loading import dump_recipe
from prorank.util.errors import DataError, PromptError


def test_a_mistyped_prompt_is_found_before_anything_is_made(bert_folder, word_collection, tmp_path):
    recipe = tiny(bert_folder, word_collection, backbone__prompt="nope")
    with pytest.raises(PromptError, match=r"backbone\.prompt: no prompt named 'nope' \(use one of "):
        run_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_without_stages_promises_no_model(bert_folder, word_collection, tmp_path, call):
    recipe = tiny(bert_folder, word_collection, warmup=None, score_learning=None)
    (tmp_path / "a.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    code, out, err = call("train", tmp_path / "a.yaml", "--output", tmp_path / "run")
    assert code == 0, err
    assert "Results in" in out and "checkpoint" not in out and not (tmp_path / "run" / "checkpoint").exists()


def test_doubtful_data_under_strict_name_the_recipes_own_switch(bert_folder, word_collection, tmp_path):
    folder = shutil.copytree(word_collection, tmp_path / "c")
    with (folder / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "empty", "text": ""}\n')
    with pytest.raises(DataError, match=r"1 doubtful entries: .*\(mend them, or leave out .*data\.strict"):
        run_recipe(tiny(bert_folder, folder, data__strict=True), tmp_path / "run")
