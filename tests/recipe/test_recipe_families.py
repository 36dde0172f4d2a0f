"""Defaults by the backbone's family, switches that moved, and what the shipped recipes say of themselves."""

import io

import pytest
from rich.console import Console
from tiny_runs import tiny

from prorank.pipeline.run import run_recipe
from prorank.recipe.families import for_family
from prorank.recipe.loading import MOVED, dump_recipe, load_recipe, validate_recipe
from prorank.training.inputs import settled
from prorank.util.errors import CheckpointError, ProrankError, RecipeError
from prorank.util.yaml_text import parse_yaml

LORA = {"rank": 4, "alpha": 8}


@pytest.mark.parametrize(
    ("lora", "said", "rate", "bonus"),
    [
        (None, {}, 1e-4, 0.0),
        (LORA, {}, 1e-3, 0.0),
        (LORA, {"learning_rate": 2e-4}, 2e-4, 0.0),
        (None, {"entropy_bonus": 0.1}, 1e-4, 0.1),  # said, though it is the field's own default
    ],
)
def test_a_causal_backbone_has_its_own_defaults_where_the_recipe_says_nothing(lora, said, rate, bonus):
    recipe = validate_recipe({"name": "a", "backbone": {"lora": lora}, "warmup": {"steps": 7} | said})
    found = for_family(recipe, "causal")
    assert (found.warmup.learning_rate, found.warmup.entropy_bonus, found.warmup.steps) == (rate, bonus, 7)
    assert for_family(found, "causal") == found and for_family(recipe, "masked") == recipe
    assert validate_recipe(parse_yaml(dump_recipe(found), "dumped")) == found
    assert found.score_learning == recipe.score_learning


def test_the_family_is_read_from_the_backbone_or_taken_from_the_recipe(bert_folder, qwen_folder, tmp_path):
    def bonus(model, **backbone):
        return settled(
            validate_recipe({"name": "a", "backbone": {"model": str(model)} | backbone})
        ).warmup.entropy_bonus

    assert (bonus(bert_folder), bonus(qwen_folder), bonus("prorank-mini"), bonus("embedded")) == (0.1, 0.0, 0.1, 0.1)
    assert bonus(tmp_path / "nowhere", family="causal") == 0.0
    with pytest.raises(CheckpointError, match="nowhere"):
        bonus(tmp_path / "nowhere")


def test_a_run_says_what_it_filled_in_and_keeps_it(qwen_folder, word_collection, tmp_path, monkeypatch):
    def stop(context):
        raise ProrankError(f"got as far as {context.recipe.warmup.learning_rate}")

    monkeypatch.setattr("prorank.pipeline.run.all_stages", stop)
    recipe, said = tiny(qwen_folder, word_collection, backbone__lora=LORA), io.StringIO()
    for resume in (False, True):  # the same recipe goes on with what was kept
        with pytest.raises(ProrankError, match=r"got as far as 0\.001"):
            run_recipe(recipe, tmp_path, console=Console(file=said, width=200), log_to=(), resume=resume)
    assert "defaults of a causal backbone: warmup.learning_rate=0.001 warmup.entropy_bonus=0.0" in said.getvalue()
    kept = load_recipe(tmp_path / "recipe.yaml").warmup
    assert (kept.learning_rate, kept.entropy_bonus) == (1e-3, 0.0)


@pytest.mark.parametrize("old", sorted(MOVED))
def test_the_old_place_of_a_switch_names_the_new_one(old):
    section, _, name = old.partition(".")
    with pytest.raises(RecipeError, match=rf"unknown key '{old}' \(it is 'warmup\.experimental\.{name}' now\)"):
        validate_recipe({"name": "a", section: {name: 1}})
    with pytest.raises(RecipeError, match=rf"override '{old}=1': unknown key .*warmup\.experimental\.{name}"):
        load_recipe("quickstart", [f"{old}=1"])


def test_the_paper_recipe_draws_as_published():
    warmup, lora = load_recipe("prorank-0.5b-paper").warmup, load_recipe("prorank-0.5b-paper").backbone.lora
    assert (warmup.num_generations, warmup.scale_advantages, warmup.kl, warmup.epsilon) == (5, "std", 0.001, 0.2)
    assert (warmup.learning_rate, warmup.entropy_bonus, warmup.separate_rewards, lora) == (1e-6, 0.0, False, None)
    switches = warmup.experimental
    assert not switches.fade_format and not switches.balance_verdicts and switches.supervised_weight == 0
    assert load_recipe("prorank-0.5b").warmup.num_generations == "exact"
