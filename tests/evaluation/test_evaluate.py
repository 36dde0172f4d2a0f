"""Edges of metrics and reranking that test_evaluation.py leaves out: odd metrics, odd scores, odd depths."""

import json
import math

import ir_measures
import pytest
from conftest import write_collection
from hypothesis import given
from hypothesis import strategies as st

from prorank.data.runs import ranked, rerank_run, split_head, with_tail
from prorank.data.trec import read_run, write_run
from prorank.evaluation.metrics import DEFAULT_METRICS, evaluate_run, write_evaluation
from prorank.util.errors import DataError, ProrankError
from prorank.util.study import file_fingerprint, model_fingerprint

RUN = {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}
QRELS = {"q": {"b": 2, "c": 1}}
scores = st.floats(-1e300, 1e300)
documents = st.sampled_from([f"d{i}" for i in range(10)])


def test_every_default_metric_by_hand():
    # Order a b c, grades 0 2 1: gains at ranks 2 and 3.
    evaluation = evaluate_run(RUN, QRELS)
    ndcg = (2 / math.log2(3) + 1 / math.log2(4)) / (2 / math.log2(2) + 1 / math.log2(3))
    wanted = {"ndcg@10": ndcg, "mrr@10": 1 / 2, "ap@100": (1 / 2 + 2 / 3) / 2, "r@100": 1.0, "p@1": 0.0}
    assert {metric: evaluation.mean(metric) for metric in evaluation.metrics} == pytest.approx(wanted)


def test_cutoffs_cut():
    run = {"q": {f"d{i:02}": -float(i) for i in range(20)}}
    evaluation = evaluate_run(run, {"q": {"d10": 1}}, ("RR@10", "RR@11", "nDCG@10", "nDCG@11"))
    assert [evaluation.mean(metric) for metric in evaluation.metrics] == pytest.approx(
        [0, 1 / 11, 0, 1 / math.log2(12)]
    )


def test_each_query_equals_ir_measures():
    run = {f"q{i}": {f"d{j}": float((i * 7 + j * 5) % 11) + j / 100 for j in range(8)} for i in range(6)}
    qrels = {f"q{i}": {f"d{j}": (i + j) % 3 for j in range(0, 8, 2)} for i in range(6)}
    ours = evaluate_run(run, qrels)
    parsed = {ir_measures.parse_measure(name): key for name, key in zip(DEFAULT_METRICS, ours.metrics)}
    direct = list(ir_measures.iter_calc(list(parsed), qrels, run))
    assert len(direct) == 6 * len(DEFAULT_METRICS)
    for value in direct:
        assert ours.per_query[parsed[value.measure]][value.query_id] == pytest.approx(value.value), value


def test_two_names_of_one_metric_are_both_filled():
    evaluation = evaluate_run(RUN, QRELS, ("AP@100", "MAP@100"))
    assert evaluation.mean("ap@100") == evaluation.mean("map@100") == pytest.approx(7 / 12)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("ndcg@10", "did you mean nDCG@10"),
        ("mrr@10", "did you mean RR@10"),
        ("recall@100", "did you mean R@100"),
        ("", "unknown metric ''"),
        ("P@0", "cutoff of at least 1"),
        ("nDCG@x", "unknown metric"),
        ("P", "lacks a parameter"),
        ("nDCG(foo=3)@10", "one too many"),
        ("nDCG@10 RR@10", "unknown metric"),
        ("__import__('os').getcwd()", "unknown metric"),
    ],
)
def test_metrics_that_cannot_be_computed_are_named(metric, message):
    with pytest.raises(ProrankError) as caught:
        evaluate_run(RUN, QRELS, (metric,))
    assert message in str(caught.value)


def test_a_metric_that_was_not_evaluated_is_named_with_those_that_were():
    with pytest.raises(DataError, match=r"'mrr@10' was not evaluated \(there are p@1\)"):
        evaluate_run(RUN, QRELS, ("P@1",)).mean("mrr@10")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_are_refused(bad):
    with pytest.raises(DataError, match="query 'q', document 'a'"):
        evaluate_run({"q": {"a": bad, "b": 1.0}}, QRELS)
    with pytest.raises(DataError, match="query 'q', document 'a'"):
        rerank_run(RUN, {"q": {"a": bad}}, 1)


@pytest.mark.parametrize("bad", [2**31 - 1, 1001, -1001, 1.0, "1", None])
def test_grades_that_no_metric_can_count_are_refused(bad):
    with pytest.raises(DataError, match=r"query 'q', document 'b' is .*grades are integers up to 1000"):
        evaluate_run(RUN, {"q": {"b": bad, "c": 1}})


def test_a_query_with_an_empty_list_scores_zero():
    assert evaluate_run({"q": {}}, QRELS).per_query["ndcg@10"] == {"q": 0.0}


@given(st.dictionaries(documents, scores, min_size=1), st.integers(0, 12))
def test_the_tail_lies_strictly_below_the_head_whatever_the_scores(head, count):
    tail = [f"a{i:02}" for i in range(count)][::-1]  # ids that would win every tie, in falling order
    order = [document for document, _ in ranked(with_tail(head, tail))]
    assert order == [document for document, _ in ranked(head)] + tail


@given(st.dictionaries(documents, st.floats(-5, 5)), st.dictionaries(documents, st.floats(-5, 5)), st.integers(0, 12))
def test_nothing_is_ever_put_into_a_list(first, others, depth):
    given_scores = {**dict.fromkeys(first, 0.0), **others}
    assert rerank_run({"q": first}, {"q": given_scores, "other": others}, depth)["q"].keys() == first.keys()


def test_depths():
    assert [d for d, _ in ranked(rerank_run(RUN, {}, 0)["q"])] == ["a", "b", "c"]
    assert split_head("q", RUN["q"], {"q": {"a": 0, "b": 1, "c": 2}}, 9) == ({"a": 0, "b": 1, "c": 2}, [])
    with pytest.raises(DataError, match="not -1"):
        rerank_run(RUN, {"q": dict.fromkeys("abc", 1.0)}, -1)


def test_a_summary_says_how_its_figures_were_made(tmp_path, call, bert_folder):
    documents = {f"d{i}": f"river stone {i}" for i in range(4)}
    qrels = {f"q{i}": {f"d{i}": 2, "d3": 1} for i in range(3)}
    folder = write_collection(tmp_path / "c", documents, {f"q{i}": f"stone {i}" for i in range(3)}, {"test": qrels})
    write_run({query: dict.fromkeys(documents, 1.0) for query in qrels}, tmp_path / "own.run")

    def made(*options):
        read = ("--prompt", "prorank-short", "--max-length", 64, "--precision", "fp32")
        code, out, err = call("evaluate", bert_folder, folder, *read, "--json", *options)
        assert code == 0, err
        return json.loads(out)

    plain = made()
    assert plain["model_fingerprint"] == model_fingerprint(bert_folder)
    assert (plain["prompt"], plain["precision"], plain["first_stage"]["run"]) == (
        "prorank-short",
        "torch.float32",
        None,
    )
    own = {"run": str(tmp_path / "own.run"), "run_fingerprint": file_fingerprint(tmp_path / "own.run")}
    for options, changed in (
        (("--relevant-from", 2), {"relevant_from": 2}),
        (("--max-queries", 2, "--seed", 5), {"max_queries": 2, "seed": 5}),
        (("--depth", 2), {"depth": 2}),
        (("--passages", "max"), {"passages": "max"}),
        (("--hybrid", 0.5, "--hybrid-scale", "min-max"), {"hybrid_scale": "min-max"}),
        (("--precision", "bf16"), {"precision": "torch.bfloat16"}),
        (("--prompt", "yesno"), {"prompt": "yesno"}),
    ):
        found = made(*options)
        assert {key: found[key] for key in changed} == changed and not changed.items() <= plain.items()
    assert made("--run", tmp_path / "own.run")["first_stage"].items() >= own.items()


def test_written_figures_and_run_are_those_of_the_evaluation(tmp_path):
    evaluation = evaluate_run(RUN, QRELS, ("nDCG@10", "RR@10"))
    write_evaluation(tmp_path, RUN, evaluation, {})
    assert read_run(tmp_path / "run.trec") == RUN
    header, row = ((tmp_path / "per_query.tsv").read_text().splitlines())[:2]
    assert header == "query-id\tndcg@10\tmrr@10"
    assert [float(cell) for cell in row.split("\t")[1:]] == pytest.approx([evaluation.mean("ndcg@10"), 0.5], abs=1e-6)
    write_evaluation(tmp_path, {"q": {"z": 1.0}}, evaluation, {"second": 1}, force=True)
    assert read_run(tmp_path / "run.trec") == {"q": {"z": 1.0}}
