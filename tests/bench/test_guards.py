"""`prorank bench guards`: the study of the warmup's guards."""

import pytest
from rich.console import Console
from tiny_runs import tiny

from prorank.util.errors import RecipeError


@pytest.mark.pictures
def test_the_study_of_guards_repeats_nothing(bert_folder, word_collection, tmp_path, monkeypatch, capsys):
    from prorank.bench import guards
    from prorank.bench.tables import guards_table, plot_guards

    recipe = tiny(bert_folder, word_collection)
    run = lambda variants, seeds: guards.run_guards(recipe, variants, seeds, tmp_path, Console(quiet=True))  # noqa: E731
    first = run(["recipe", "supervised"], [1])
    monkeypatch.setattr(guards, "run_variant", lambda *_: pytest.fail("this run is done"))
    again = run(["recipe", "supervised"], [1])
    assert first == again
    assert [row["variant"] for row in again["rows"]] == ["recipe", "supervised"]
    assert (
        again["runs"][0]["curve"][-1]["step"] == 4
        and again["variants"]["supervised"]["experimental"]["policy_weight"] == 0
    )
    plot_guards(again["runs"], tmp_path / "guards.png")
    assert (tmp_path / "guards.png").stat().st_size > 1000
    Console().print(guards_table(again["rows"]))
    assert "supervised" in capsys.readouterr().out
    with pytest.raises(RecipeError, match="no variant 'unheard'"):
        run(["unheard"], [1])


def test_every_variant_of_the_study_is_a_recipe(bert_folder, word_collection):
    from prorank.bench.guards import VARIANTS, varied

    recipe = tiny(bert_folder, word_collection)
    for name in VARIANTS:
        assert (varied(recipe, name, 3) != varied(recipe, "recipe", 3)) == (name != "recipe")
