"""A reranker alone as the teacher: its own scores, asked once, resumed after a kill, on unjudged queries too."""

import json
import shutil

import pytest
import torch
from rich.console import Console
from tiny_runs import killed_at_the_third_block, tiny

from prorank import Reranker
from prorank.pipeline.run import prepare_folder
from prorank.pipeline.stages import STAGES, train_ranking
from prorank.recipe.loading import load_recipe
from prorank.score_learning.lists import drawn_lists
from prorank.score_learning.losses import listwise_kl, pointwise_mse
from prorank.training.context import prepare_data
from prorank.util.errors import RecipeError


def taught_by(model, student, collection, loss="mse", **changes):
    teacher = {"model": None, "reranker": str(model), "loss": loss, "temperature": 2.0}
    more = {"score_learning__teacher": teacher, "score_learning__label_weight": 0.0, "warmup": None}
    return tiny(student, collection, **{**more, **changes})


def context_of(recipe, folder):
    prepare_folder(recipe, folder, force=False, resume=True)
    return prepare_data(recipe, folder, Console(quiet=True))


@pytest.fixture
def published_shape(qwen_folder, tmp_path):
    """Random weights in the architecture and with the prompt of mxbai-rerank-large-v2."""
    Reranker(qwen_folder, prompt="prorank", max_length=300, precision="fp32").save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


def test_the_teachers_scores_are_its_own_and_asked_once(published_shape, bert_folder, word_collection, tmp_path):
    context = context_of(taught_by(published_shape, bert_folder, word_collection), tmp_path / "run")
    lists, scores = drawn_lists(context)
    texts, one = context.texts(), lists[0]
    wanted = Reranker(published_shape).score([(one.query, texts[d]) for d in one.documents])
    assert [scores[one.query_id][d] for d in one.documents] == pytest.approx(wanted, abs=1e-4)
    shutil.rmtree(published_shape)  # asking again would fail
    assert drawn_lists(context)[1] == scores and not list((tmp_path / "run").rglob("*.part"))


def test_a_killed_teacher_goes_on(bert_folder, word_collection, tmp_path, monkeypatch):
    context = context_of(taught_by("prorank-mini", bert_folder, word_collection), tmp_path / "run")
    scored = killed_at_the_third_block(monkeypatch, 12)
    with pytest.raises(KeyboardInterrupt):
        drawn_lists(context)
    _, scores = drawn_lists(context)
    pairs = sum(map(len, scores.values()))
    assert sum(scored[:2]) + sum(scored[3:]) == pairs and sum(scored[:2]) > 0


def test_queries_without_judgments_are_taught_from_and_judged_ones_kept_out(bert_folder, word_collection, tmp_path):
    collection = tmp_path / "c"
    shutil.copytree(word_collection, collection)
    rows = [json.loads(line) for line in (collection / "queries.jsonl").read_text().splitlines()]
    words = [row["text"] for row in rows]
    new = [{"_id": f"new{i}", "text": f"{words[i]} {words[i + 1]}"} for i in range(8)]
    new.append({"_id": "copy", "text": words[35].upper()})  # of a test query
    with (collection / "queries.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in new)
    changes = {"score_learning__unlabelled": 50, "score_learning__steps": 40}
    context = context_of(taught_by("prorank-mini", bert_folder, collection, **changes), tmp_path / "run")
    lists, scores = drawn_lists(context)
    taught = {one.query_id for one in lists}
    assert {f"new{i}" for i in range(8)} <= taught and "copy" not in taught
    assert all(d in scores[one.query_id] for one in lists for d in one.documents)


def test_a_student_comes_nearer_to_a_real_teacher(bert_folder, word_collection, tmp_path):
    changes = {"score_learning__steps": 40, "score_learning__evaluate_every": 40, "score_learning__learning_rate": 3e-3}
    recipe = taught_by("prorank-mini", bert_folder, word_collection, **changes)
    train_ranking(context_of(recipe, tmp_path / "run"), str(bert_folder), STAGES[0])
    log = json.loads((tmp_path / "run" / "score-learning" / "training" / "log.json").read_text())
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert losses[-1] < 0.9 * losses[0]


def test_losses_differ_in_what_they_ask_for():
    scores, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 2.0]])
    assert pointwise_mse(scores, teacher) == 4 and listwise_kl(scores, teacher) == 0  # KL knows no level


def test_the_shipped_recipe_names_the_published_teacher_and_mistakes_are_told():
    teacher = load_recipe("distil-prorank").score_learning.teacher
    assert (teacher.model, teacher.reranker, teacher.loss) == (None, "mixedbread-ai/mxbai-rerank-large-v2", "mse")
    for override, says in (("teacher.reranker=null", "nobody teaches"), ("teacher.first_stage=0.5", "bi-encoder")):
        with pytest.raises(RecipeError, match=says):
            load_recipe("distil-prorank", [f"score_learning.{override}"])
    with pytest.raises(RecipeError, match="several bi-encoders have none in common"):
        load_recipe("prorank-mini", ["score_learning.teacher.model=[a, b]", "score_learning.teacher.margin=0.1"])
    with pytest.raises(RecipeError, match="no labels"):
        load_recipe("tune", ["score_learning.unlabelled=5"])
