import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import tiny

from prorank import Reranker
from prorank.data.collection import load_collection
from prorank.data.runs import top
from prorank.data.trec import read_run
from prorank.engine.scores import probabilities
from prorank.evaluation.calibration import calibration_error, even_odds, fit_platt, judged_scores
from prorank.pipeline.run import run_recipe
from prorank.util.errors import DataError


@given(st.floats(0.2, 5), st.floats(-3, 3), st.floats(-50, 50), st.floats(0.1, 20))
def test_the_generating_curve_is_found_again(slope, intercept, offset, scale):
    draw = np.random.default_rng(0)
    x = draw.normal(size=50_000)
    y = draw.random(50_000) < probabilities(x, {"slope": slope, "intercept": intercept})
    found = fit_platt((x * scale + offset).tolist(), y.astype(int).tolist())
    assert found["slope"] * scale == pytest.approx(slope, rel=0.15, abs=0.05)
    predicted = probabilities(x * scale + offset, found)
    assert calibration_error(predicted, y) < 0.02
    assert predicted.mean() == pytest.approx(y.mean(), abs=0.005)


def test_the_likelihood_of_the_smoothed_targets_is_flat_at_what_is_found():
    draw = np.random.default_rng(3)
    x = draw.normal(300.0, 40.0, 500)
    labels = (draw.random(500) < probabilities(x, {"slope": 0.05, "intercept": -16.0})).astype(int)
    positives = labels.sum()
    target = np.where(labels, (positives + 1) / (positives + 2), 1 / (500 - positives + 2))
    missed = probabilities(x, fit_platt(x.tolist(), labels.tolist())) - target
    assert abs(missed.mean()) < 1e-6 and abs((missed * (x - x.mean())).mean()) < 1e-4


def test_separable_scores_stay_finite_and_monotone():
    found = fit_platt([-1.0] * 30 + [1.0] * 10, [0] * 30 + [1] * 10)
    low, high = probabilities([-1.0, 1.0], found)
    assert 0 < low < 0.1 and 0.85 < high < 1


@pytest.mark.parametrize(
    ("scores", "labels", "words"),
    [([1.0, 2.0], [1, 1], "relevant and irrelevant"), ([1.0, 2.0, 3.0] * 9, [1, 0, 0] * 9, "not likelier")],
)
def test_what_cannot_be_calibrated_is_said(scores, labels, words):
    with pytest.raises(DataError, match=words):
        fit_platt(scores, labels)


def test_a_sure_and_wrong_prediction_is_an_error_of_one():
    assert calibration_error([1.0, 1.0], [0, 0]) == 1.0


def test_unjudged_documents_are_not_relevant():
    assert judged_scores({"q": {"a": 1.0}, "other": {"b": 2.0}}, {"q": {"a": 2}, "missing": {}}) == ([1.0], [1])


def test_at_even_odds_one_half_is_where_both_kinds_are_equally_likely():
    draw = np.random.default_rng(1)
    relevant, other = draw.normal(2.0, 1.0, 500), draw.normal(0.0, 1.0, 9500)  # equal densities at 1
    labels = [1] * 500 + [0] * 9500
    found = even_odds(fit_platt([*relevant, *other], labels), labels)
    assert -found["intercept"] / found["slope"] == pytest.approx(1.0, abs=0.1)


@pytest.fixture
def reranker(bert_folder):
    return Reranker.from_pretrained(bert_folder, prompt="prorank-short", max_length=64, precision="fp32")


def test_probabilities_of_a_reranker(reranker):
    assert reranker.probability([0.0]) == [0.5]  # the model's own
    reranker.settings = reranker.settings.model_copy(update={"calibration": {"slope": 2.0, "intercept": -4.0}})
    assert reranker.probability([2.0]) == [0.5]
    graded = reranker.settings.model_copy(update={"score": "expected_grade", "calibration": None})
    reranker.settings = graded
    with pytest.raises(ValueError, match="not calibrated"):
        reranker.probability([1.0])


def test_a_threshold_leaves_out_what_is_unlikely(reranker):
    documents = ["river", "stone cloud", "tiger", "piano lemon"]
    ranked = reranker.rank("river", documents)
    middle = (ranked[1]["score"] + ranked[2]["score"]) / 2
    calibration = {"slope": 1.0, "intercept": -middle}
    reranker.settings = reranker.settings.model_copy(update={"calibration": calibration})
    assert reranker.rank("river", documents, threshold=0.5) == ranked[:2]
    assert reranker.rank("river", documents, threshold=0.5, top_k=1) == ranked[:1]
    assert reranker.rank("river", documents, threshold=0.0) == ranked
    assert reranker.rank("river", [], threshold=0.5) == []
    with pytest.raises(ValueError, match="between 0 and 1"):
        reranker.rank("river", documents, threshold=1.5)


def test_a_run_calibrates_its_checkpoint(bert_folder, word_collection, tmp_path):
    folder = tmp_path / "run"
    run_recipe(tiny(bert_folder, word_collection, score_learning__steps=2), folder)
    saved = json.loads((folder / "checkpoint" / "prorank.json").read_text())["calibration"]
    reranked = top(read_run(folder / "score-learning" / "dev.run"), 5)
    scores, labels = judged_scores(reranked, load_collection(word_collection).judgments("dev"))
    try:
        assert saved == even_odds(fit_platt(scores, labels), labels)
    except DataError:  # two steps of training may teach nothing
        assert saved is None
