"""The training comparison: every system sees the same lists, the tables agree with the files, nothing runs twice."""

import json
from dataclasses import replace

import pytest
from rich.console import Console

from prorank.bench.peer_trainer import table
from prorank.bench.peers import SYSTEMS, peers_markdown, recipe_of
from prorank.recipe.loading import load_recipe
from prorank.score_learning.lists import drawn_lists
from prorank.training.context import prepare_data
from prorank.util.errors import RecipeError

SHORT = [
    *("backbone.max_length=48", "backbone.precision=fp32", "warmup.steps=2", "warmup.pairs_per_step=4"),
    *("warmup.evaluate_every=2", "warmup.held_out_pairs=10", "score_learning.steps=3", "evaluation.max_queries=4"),
    *("score_learning.queries_per_step=2", "score_learning.evaluate_every=2", "score_learning.dev_queries=4"),
    *("score_learning.pseudo_queries=0", "score_learning.negatives={hard: 1, medium: 1, easy: 0, random: 0}"),
]


@pytest.fixture
def base(word_collection, bert_folder, encoder_folder):
    models = [f"backbone.model={bert_folder}", f"score_learning.teacher.model={encoder_folder}"]
    return load_recipe("minilm", [f"data.collection={word_collection}", *models, *SHORT])


def context_of(base, system, folder):
    return prepare_data(recipe_of(base, system, 1), folder, Console(quiet=True))


def test_every_system_is_trained_on_the_same_lists_in_the_same_order(base, tmp_path):
    lists = {}
    for number, system in enumerate(SYSTEMS):
        folder = tmp_path / str(number)
        folder.mkdir()
        lists[system], _ = drawn_lists(context_of(base, system, folder))
    first = lists["sentence-transformers, BCE"]
    assert len(first) == 3 * 2 and all(own == first for own in lists.values())
    assert drawn_lists(replace(context_of(base, "prorank, stage 2", tmp_path), recipe=base))[0] != first  # other seed


def test_the_peers_tables_hold_the_lists_labels_and_teacher(base, tmp_path):
    context = context_of(base, "sentence-transformers, MarginMSE", tmp_path)
    lists, teacher = drawn_lists(context)
    flat, listed, margins = (table(context, loss, lists, teacher) for loss in ("bce", "lambda", "margin_mse"))
    texts = context.texts()
    assert flat["document"] == [texts[d] for one in lists for d in one.documents]
    assert flat["label"] == [1.0, 0.0, 0.0] * 6 == [y for labels in listed["labels"] for y in labels]
    assert margins["document_2"] == [texts[one.documents[2]] for one in lists]
    scale = context.recipe.score_learning.teacher.temperature
    assert margins["label"][0] == pytest.approx([teacher[lists[0].query_id][d] / scale for d in lists[0].documents])


def test_the_command_trains_both_libraries_and_reads_what_is_done(base, word_collection, tmp_path, call, monkeypatch):
    names = "sentence-transformers, BCE; prorank, stage 2"
    model = f"backbone.model={base.backbone.model}"
    shared = [word for one in [model, *SHORT] for word in ("--override", one)]
    words = (
        "bench",
        "training",
        word_collection,
        *shared,
        "--systems",
        names,
        "--seeds",
        "1",
        "--work",
        tmp_path / "w",
    )
    code, out, err = call(*words, "--output", tmp_path / "found.json")
    assert code == 0, err
    found = json.loads((tmp_path / "found.json").read_text())
    assert out.strip() == peers_markdown(found)
    for row in found["rows"]:
        assert row["pairs"] == 18 and row["seconds"] > 0 and row["ndcg@10"] == pytest.approx(row["by_seed"][0])
    assert found["rows"][1]["versus_first"]["wins"] + found["rows"][1]["versus_first"]["ties"] <= 4
    monkeypatch.setattr("prorank.bench.peers.run_system", None)  # training again would fail
    assert call(*words)[1] == out
    assert "no system 'x'" in call(*words[:3], "--systems", "x")[2]


def test_a_recipe_of_one_stage_is_refused(base):
    with pytest.raises(RecipeError, match="lacks a stage"):
        recipe_of(base.model_copy(update={"warmup": None}), "prorank, stage 2", 1)
