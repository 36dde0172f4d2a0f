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


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("warmup.samples=3", "it is 'warmup.num_generations' now"),
        ("listwise.samples=3", "it is 'listwise.num_generations' now"),
        ("warmup.warmup_share=0.1", "it is 'warmup.lr_warmup_ratio' now"),
        ("score_learning.warmup_share=0.1", "it is 'score_learning.lr_warmup_ratio' now"),
        ("score_learning.recomputes=true", "it is 'score_learning.gradient_checkpointing' now"),
        ("evaluation.rerank=5", "it is 'evaluation.rerank_depth' now"),
        ("warmup.epochs=2", "it is 'warmup.experimental.epochs' now"),
        ("warmup.level=std", "see the shipped recipes"),
        ("warmup.kll=0", "did you mean 'warmup.kl'?"),
    ],
)
def test_renamed_keys_get_their_new_names_and_unlike_ones_no_wrong_advice(override, hint):
    with pytest.raises(RecipeError) as refused:
        load_recipe("quickstart", [override])
    assert hint in str(refused.value) and str(refused.value).count("'warmup.kl'") == ("kll" in override)


@pytest.mark.parametrize(
    "override",
    [
        "seed=true",
        "warmup.steps=true",
        "warmup.learning_rate=false",
        "warmup.num_generations=true",
        "evaluation.hybrid_weight=true",
        "evaluation.seed=false",
        "score_learning.negatives.hard=true",
    ],
)
def test_switches_are_no_numbers(override):
    with pytest.raises(RecipeError, match=r"a number stands here, not true or false, got (True|False)"):
        load_recipe("quickstart", [override])


def test_switches_and_their_absence_stay_switches():
    found = load_recipe("quickstart", ["backbone.dropout=true", "score_learning.gradient_checkpointing=false"])
    assert found.backbone.dropout is True and found.score_learning.gradient_checkpointing is False


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("warmup.num_generations=many", "warmup.num_generations: must be a whole number, or 'exact', got 'many'"),
        ("warmup.num_generations=2.5", "warmup.num_generations: must be a whole number, or 'exact', got 2.5"),
        ("warmup.negatives=foo", "warmup.negatives: must be a section (a mapping), or 'exchanged', got 'foo'"),
        ("score_learning.teacher.first_stage=foo", "must be a number, or 'dev', got 'foo'"),
        ("evaluation.hybrid_weight=2", "must be less than or equal to 1, or 'dev', got 2"),
        ("warmup=3", "warmup: must be a section (a mapping), got 3"),
        ("first_stage.method=x", "must be 'bm25', 'dense' or 'candidates', got 'x'"),
        ("warmup.num_generations=1", "warmup.num_generations: a group of fewer than 2 verdicts"),
        ("warmup.experimental.policy_weight=0", "warmup.experimental: policy_weight and supervised_weight are both 0"),
    ],
)
def test_errors_of_values_name_all_that_may_stand_there_in_plain_words(override, says):
    with pytest.raises(RecipeError) as refused:
        load_recipe("quickstart", [override])
    assert says in str(refused.value)
    for word in ("Value error", "Input should", "instance of", "unable to parse"):
        assert word not in str(refused.value)


def test_a_collection_beside_a_union_is_refused_and_a_runs_own_recipe_is_not(tmp_path):
    union = "data.union=[{collection: a}, {collection: b}]"
    with pytest.raises(RecipeError, match=r"data: collection 'c' and a union of 2: leave out the collection"):
        load_recipe("quickstart", [union, "data.collection=c"])
    (tmp_path / "own.yaml").write_text("name: own\ndata: {collection: c, union: [{collection: a}]}\n")
    with pytest.raises(RecipeError, match=r"own.yaml: data: collection 'c' and a union of 1"):
        load_recipe(tmp_path / "own.yaml")
    resolved = load_recipe("quickstart", [union])
    (tmp_path / "recipe.yaml").write_text(dump_recipe(resolved))  # every default written out
    assert load_recipe(tmp_path / "recipe.yaml") == resolved
    assert load_recipe(tmp_path / "recipe.yaml", ["data.collection=c", "data.union=[]"]).data.collection == "c"
