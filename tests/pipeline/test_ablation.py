"""Ablations: variants differ from the recipe in one thing, are measured on the same queries, and are not repeated."""

import json

import pytest
from tiny_runs import tiny

from prorank.bench.ablation import BASE, VARIANTS, fitting, pairs_of, rows_of, varied
from prorank.bench.budget import counted
from prorank.data.collection import load_collection
from prorank.evaluation.metrics import read_per_query
from prorank.recipe.loading import dump_recipe, load_recipe
from prorank.recipe.sections import Recipe
from prorank.training.inputs import settled
from prorank.util.errors import DataError, RecipeError

RECIPE = Recipe(name="r", seed=7)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_changes_its_own_sections_and_nothing_else(variant):
    one, tree = varied(RECIPE, variant, 2), RECIPE.model_dump()
    changed = {name for name, value in one.model_dump().items() if value != tree[name]}
    own = set(VARIANTS[variant]) | ({"score_learning"} if variant == "no-warmup" else set())
    assert changed - {"seed", "evaluation"} <= own
    assert (one.seed, one.evaluation.seed) == (2, 7)  # trained with its own, measured on the recipe's queries


def test_without_warmup_the_pairs_are_equal():
    recipe = load_recipe("quickstart")
    a_step = 8 * 8
    assert abs(pairs_of(varied(recipe, "no-warmup", 1)) - pairs_of(recipe)) <= a_step / 2
    assert pairs_of(varied(recipe, "no-score-learning", 1)) == 60 * 16


@pytest.mark.parametrize(
    ("variant", "staleness"), [("stale-0", {0}), ("stale-2", {0, 1, 2}), ("stale-8", set(range(9)))]
)
def test_stale_variants_use_verdicts_as_often_as_they_say(variant, staleness):
    from prorank.warmup.rollouts import batch_of_step

    section = varied(RECIPE, variant, 1).warmup
    first: dict[int, int] = {}
    drawn_together = section.experimental.rollout_batches
    found = set()
    for step in range(section.experimental.epochs * drawn_together * 2):
        batch = batch_of_step(step, section)
        first.setdefault(batch // drawn_together, step)
        found.add(step - first[batch // drawn_together])
    assert found == staleness


def test_adapters_and_every_weight_have_learning_rates_of_their_own(qwen_folder):
    causal = Recipe(name="r", backbone={"model": str(qwen_folder)})
    rates = {name: settled(varied(causal, name, 1)).warmup.learning_rate for name in (BASE, "lora", "full")}
    assert rates == {BASE: 1e-4, "lora": 1e-3, "full": 1e-4}
    said = Recipe(name="r", backbone={"model": str(qwen_folder)}, warmup={"learning_rate": 2e-5})
    assert settled(varied(said, "lora", 1)).warmup.learning_rate == 2e-5


def test_only_what_fits_the_recipe_is_run():
    assert "listwise" not in fitting(RECIPE) and "exact" not in fitting(RECIPE) and fitting(RECIPE)[0] == BASE
    no_warmup = RECIPE.model_copy(update={"warmup": None})
    assert not {"supervised", "drawn", "no-score-learning"} & set(fitting(no_warmup))
    with pytest.raises(RecipeError, match="has no warmup, which 'drawn' changes"):
        varied(no_warmup, "drawn", 1)
    with pytest.raises(RecipeError, match=r"no variant 'magic'.*no-warmup"):
        varied(RECIPE, "magic", 1)


def run(variant, seed, values):
    queries = {f"q{i}": value for i, value in enumerate(values)}
    stages = {"BM25": 0.1, "score-learning": sum(values) / len(values)}
    return {"variant": variant, "seed": seed, "pairs": 10, "stages": stages, "last": "score-learning"} | {
        "verdicts": {"test": {"format_rate": 1.0, "balanced_accuracy": 0.5 + seed / 10}},
        "per_query": queries,
    }


def test_rows_are_means_over_seeds_compared_query_by_query():
    runs = [run(BASE, 1, [0.5] * 12), run(BASE, 2, [0.7] * 12), run("uft", 1, [0.6] * 12), run("uft", 2, [0.8] * 12)]
    base, uft = rows_of(runs)
    assert base["ndcg@10"] == pytest.approx(0.6) and "versus_recipe" not in base
    assert uft["seeds"] == pytest.approx([0.6, 0.8]) and uft["balanced_accuracy"] == pytest.approx(0.65)
    assert uft["versus_recipe"]["difference"] == pytest.approx(0.1) and uft["versus_recipe"]["wins"] == 12
    assert uft["versus_recipe"]["adjusted"] == uft["versus_recipe"]["p_value"] < 0.01


def test_pairs_are_counted_as_the_run_uses_them(word_collection):
    recipe = tiny("model", word_collection, evaluation__hybrid_weight=0.2, evaluation__max_queries=4)
    counts = counted(recipe, [load_collection(word_collection)])
    assert counts.trained == 4 * 4 + 6 * 2 * 5 == pairs_of(recipe)
    # held-out pairs five times (two answers each), dev lists four times, four test queries after three stages
    assert counts.scored == 5 * 2 * 10 + 4 * 6 * 5 + 3 * 4 * 5


def test_the_command_trains_each_variant_once(bert_folder, word_collection, tmp_path, call):
    (tmp_path / "r.yaml").write_text(dump_recipe(tiny(bert_folder, word_collection, evaluation__max_queries=6)))
    command = ["ablate", tmp_path / "r.yaml", "--variants", "no-warmup,supervised", "--seeds", "1"]
    command += ["--work", tmp_path / "runs", "--output", tmp_path / "a.json"]
    code, out, err = call(*command)
    assert code == 0, err
    assert [line.split(" | ")[0] for line in out.splitlines()[2:]] == ["| recipe", "| no-warmup", "| supervised"]
    found = json.loads((tmp_path / "a.json").read_text())
    rows = {row["variant"]: row for row in found["rows"]}
    assert "format_rate" in rows["supervised"] and "format_rate" not in rows["no-warmup"]
    values = read_per_query(tmp_path / "runs" / "supervised" / "1" / "score-learning" / "test" / "per_query.tsv")
    assert sum(values["ndcg@10"].values()) / 6 == pytest.approx(rows["supervised"]["ndcg@10"], abs=1e-6)
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "runs").rglob("*.json"))
    assert call(*command, "--force")[0] == 0
    assert before == sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "runs").rglob("*.json"))
    assert "warmup.steps: 4" in call(*command[:2], "warmup.steps=2", *command[2:], "--output", tmp_path / "b.json")[2]
    code, out, err = call(*command[:-2], "--budget", "--json")
    assert code == 0 and [row["trained"] for row in json.loads(out)] == [80, 76]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no table"),
        ("query-id\tndcg@10\nq1\t0.5\t1\n", ":2: 2 values for 1"),
        ("query-id\tp@1\nq\tx\n", "'x' is no"),
    ],
)
def test_a_damaged_table_of_queries_is_named(tmp_path, text, says):
    (tmp_path / "per_query.tsv").write_text(text)
    with pytest.raises(DataError, match=says):
        read_per_query(tmp_path / "per_query.tsv")
