"""Recipes refuse what they do not know, and say what was meant."""

import pytest

from prorank.recipe.loading import dump_recipe, load_recipe
from prorank.util.errors import RecipeError


def test_recipes_refuse_what_they_do_not_know(tmp_path):
    with pytest.raises(RecipeError, match=r"unknown key 'warmup.step' \(did you mean 'warmup.steps'\?\)"):
        load_recipe("quickstart", ["warmup.step=3"])
    with pytest.raises(RecipeError, match="unknown key 'warmpu'"):
        load_recipe("quickstart", ["warmpu=null"])
    with pytest.raises(RecipeError, match=r"warmup.steps: .*got -1"):
        load_recipe("quickstart", ["warmup.steps=-1"])
    none = "warmup.negatives={hard: 0, medium: 0, easy: 0, random: 0}"
    with pytest.raises(RecipeError, match="at least one negative"):
        load_recipe("quickstart", [none])
    with pytest.raises(RecipeError, match="write key=value"):
        load_recipe("quickstart", ["steps"])
    with pytest.raises(RecipeError, match="'seed' is a value"):
        load_recipe("quickstart", ["seed.x=1"])
    with pytest.raises(RecipeError, match="no recipe 'nope'"):
        load_recipe("nope")
    file = tmp_path / "bad.yaml"
    file.write_text("name: x\n  seed: [")
    with pytest.raises(RecipeError, match=r"bad.yaml:2: not valid YAML"):
        load_recipe(file)
    assert (
        load_recipe("quickstart", ["warmup.learning_rate=1e-4", "warmup.num_generations=16"]).warmup.num_generations
        == 16
    )
    file.write_text(dump_recipe(load_recipe("quickstart")))
    assert load_recipe(file) == load_recipe("quickstart")
