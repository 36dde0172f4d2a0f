"""Calibrations: equal to scikit-learn's, better than none where scores mislead; thresholds that keep their word."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from prorank import Reranker
from prorank.data.splits import load_with_split, load_with_splits
from prorank.evaluation.calibrate import methods, resampled, shares_above, threshold
from prorank.evaluation.calibration import (
    brier_score,
    calibration_error,
    fit_isotonic,
    fit_temperature,
    isotonic_probabilities,
    precision_threshold,
)
from prorank.util.errors import DataError

pairs = st.lists(st.tuples(st.integers(-5, 5).map(float), st.integers(0, 1)), min_size=2, max_size=40)


@given(pairs)
def test_isotonic_probabilities_are_scikit_learns(data):
    scores, labels = map(list, zip(*data))
    if len(set(labels)) == 2:
        others = np.linspace(-6, 6, 25)
        wanted = IsotonicRegression(out_of_bounds="clip").fit(scores, labels).predict(others)
        assert isotonic_probabilities(others, fit_isotonic(scores, labels)) == pytest.approx(wanted)


@given(pairs, st.floats(0, 1))
def test_a_threshold_gives_its_precision_and_no_lower_one_does(data, wanted):
    scores, labels = map(list, zip(*data))
    found = precision_threshold(scores, labels, wanted)
    precisions = {bound: shares_above((scores, labels), bound)[0] for bound in scores}
    good = [bound for bound, precision in precisions.items() if precision >= wanted]
    assert found == (min(good) if good else None)


def sampled(slope, intercept, count=4_000, seed=0):
    draw = np.random.default_rng(seed)
    scores = draw.normal(size=count) * 3
    return scores.tolist(), (draw.random(count) < 1 / (1 + np.exp(-(slope * scores + intercept)))).astype(int).tolist()


def test_each_method_mends_what_it_can():
    (scores, labels), (others, wanted) = sampled(0.4, -2.0), sampled(0.4, -2.0, seed=1)
    errors = {name: calibration_error(f(others).tolist(), wanted) for name, f in methods(scores, labels).items()}
    assert errors["none"] > 0.2 and errors["platt"] < 0.03 and errors["isotonic"] < 0.04
    assert errors["temperature"] > 0.1  # it cannot move the zero
    briers = {name: brier_score(f(others).tolist(), wanted) for name, f in methods(scores, labels).items()}
    assert max(briers["platt"], briers["isotonic"]) < briers["temperature"] < briers["none"]
    assert fit_temperature(*sampled(0.4, 0.0))["slope"] == pytest.approx(0.4, abs=0.03)
    with pytest.raises(DataError, match="relevant and irrelevant"):
        methods([1.0, 2.0], [1, 1])


def test_the_interval_of_a_threshold_covers_it_and_narrows_with_queries():
    widths = []
    for count in (20, 400):
        draw = np.random.default_rng(5)
        run = {f"q{i}": {f"d{j}": float(draw.normal() + 2 * (j == 0)) for j in range(4)} for i in range(count)}
        qrels = {query: {"d0": 1} for query in run}
        found = threshold({"dev": run, "test": run}, {"dev": qrels, "test": qrels}, 0.8, seed=0)
        score = found["score"]
        assert score["low"] <= score["value"] <= score["high"] and found["precision"]["value"] >= 0.8
        assert threshold({"dev": {"q": {"d0": 0.0, "d1": 1.0}}}, {"dev": {"q": {"d0": 1}}}, 0.9, 0)["score"] is None
        widths.append(found["precision"]["high"] - found["precision"]["low"])
    assert widths[1] < widths[0] / 2


def test_drawings_of_many_queries_are_not_held_together():
    run = {f"q{i}": {f"d{j}": float(j) for j in range(20)} for i in range(200)}
    drawn = resampled(run, {query: {"d0": 1} for query in run}, seed=0)
    scores, labels = next(drawn)
    assert len(scores) == len(labels) == 200 * 20 and sum(labels) == 200 and iter(drawn) is drawn


def test_a_made_split_is_named_and_lists_of_one_kind_are_refused(word_collection, bert_folder, tmp_path, call):
    Reranker(bert_folder, prompt="prorank-short", max_length=48, precision="fp32").save_pretrained(tmp_path / "model")
    own = tmp_path / "words"
    shutil.copytree(word_collection, own)
    lists = "".join(f"q{query}\td{query}\n" for query in range(30, 40))
    (own / "candidates").mkdir()
    (own / "candidates" / "test.tsv").write_text("query-id\tcorpus-id\n" + lists)
    code, _, err = call("calibrate", tmp_path / "model", own, "--depth", 5)
    assert code != 0 and "words: the lists of test hold 10 relevant documents of 10" in " ".join(err.split())
    (own / "candidates" / "test.tsv").unlink()
    (own / "qrels" / "test.tsv").unlink()
    code, out, err = call("calibrate", tmp_path / "model", own, "--depth", 5)
    assert code == 0, err
    assert "words: made splits" in out and "test is 10 of the 24 queries of train" in out


def test_the_command_measures_each_collection(word_collection, bert_folder, tmp_path, call):
    Reranker(bert_folder, prompt="prorank-short", max_length=48, precision="fp32").save_pretrained(tmp_path / "model")
    words = ("calibrate", tmp_path / "model", word_collection, "--depth", 5, "--precision", 0.1)
    code, out, err = call(*words, "--output", tmp_path / "found.json")
    assert code == 0, err
    (found,) = json.loads((tmp_path / "found.json").read_text())
    assert [row["method"] for row in found["methods"]] == ["none", "temperature", "platt", "isotonic"]
    assert f"| platt | {found['methods'][2]['ece']:.4f} |" in out and "precision of 0.1" in out
    assert "left out" not in err
    code, _, err = call(*words[:3], tmp_path / "none", "--output", tmp_path / "second.json")
    assert (
        code == 2 and str(tmp_path / "none") in "".join(err.split()) and "rerank" not in err
    )  # before anything is measured


def test_lost_judgments_are_told_where_something_is_measured(word_collection, tmp_path, caplog):
    shutil.copytree(word_collection, tmp_path / "c")
    with (tmp_path / "c" / "qrels" / "test.tsv").open("a") as file:
        file.write("q30\tnone\t1\nq0\td0\t1\nzz\td1\t1\n")
    for load in (lambda: load_with_split(str(tmp_path / "c"), "test"), lambda: load_with_splits(str(tmp_path / "c"))):
        caplog.clear()
        load()
        assert "c: 2 judgments are left out" in caplog.text and "document 'none'" in caplog.text
