"""Results compared query by query: equal to scipy on the same numbers, and readable from every form they come in."""

import json
import re
import warnings
from pathlib import Path

import pytest
import scipy.stats
from browser import CHROMIUM, browsing
from conftest import write_collection
from hypothesis import given
from hypothesis import strategies as st

from prorank.data.collection import load_collection
from prorank.data.splits import load_with_split
from prorank.data.trec import read_run, write_run
from prorank.evaluation.comparison import compared, comparison_latex, t_test
from prorank.evaluation.html_report import NOTES, page, verdict
from prorank.evaluation.judged import KEY, judged_by
from prorank.evaluation.metrics import Evaluation, evaluate_run, metric_key, write_evaluation

values = st.lists(st.integers(0, 10).map(lambda n: n / 10), min_size=3, max_size=9)


def result(numbers):
    return Evaluation(("ndcg@10",), {"ndcg@10": {f"q{i}": value for i, value in enumerate(numbers)}})


@given(values, st.randoms(use_true_random=False))
def test_tests_are_scipys_and_holms(numbers, draw):
    others = [[min(1.0, value + draw.choice([0.0, 0.1, 0.2])) for value in numbers] for _ in range(2)]
    rows = compared({"a": result(numbers), "b": result(others[0]), "c": result(others[1])}, "ndcg@10")
    found = [row["versus_first"] for row in rows[1:]]
    for own, other in zip(found, others):
        exact = scipy.stats.permutation_test(
            ([x - y for x, y in zip(other, numbers)],), sum, permutation_type="samples", n_resamples=float("inf")
        )
        assert own["p_value"] == pytest.approx(exact.pvalue)
        if other != numbers:
            assert own["t_p_value"] == pytest.approx(scipy.stats.ttest_rel(other, numbers).pvalue, nan_ok=True)
        assert own["wins"] + own["ties"] + own["losses"] == len(numbers) and own["losses"] == 0
    smaller, larger = sorted(row["p_value"] for row in found)
    assert min(row["p_value_holm"] for row in found) == pytest.approx(min(1.0, 2 * smaller))
    assert max(row["p_value_holm"] for row in found) == pytest.approx(max(min(1.0, 2 * smaller), larger))


def test_equal_results_do_not_differ():
    assert t_test([0.5, 0.7], [0.5, 0.7]) == 1.0


@pytest.mark.parametrize("other", [[0.2, 0.3, 0.4], [0.1 + 1e-9, 0.2, 0.3]])
def test_differences_that_are_all_alike_bring_no_warning_of_a_library(other):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 0 <= t_test(other, [0.1, 0.2, 0.3]) <= 1


def test_a_run_ties_with_its_own_table_though_that_is_rounded(tmp_path, call):
    queries, qrels = {f"q{i}": "text" for i in range(8)}, {f"q{i}": {"d1": 1} for i in range(8)}
    write_collection(tmp_path / "c", {"d0": "zero", "d1": "one"}, queries, {"test": qrels})
    run = {query: {"d0": 2.0, "d1": 1.0} for query in queries}  # NDCG 0.6309297...
    write_run(run, tmp_path / "own.run")
    write_evaluation(tmp_path / "own", run, evaluate_run(run, qrels), {})
    code, out, err = call("compare", tmp_path / "own", tmp_path / "own.run", "--collection", tmp_path / "c", "--json")
    assert code == 0 and json.loads(out)[1]["versus_first"]["ties"] == 8, err


@pytest.fixture
def runs(tmp_path):
    documents = {f"d{i}": f"text {i}" for i in range(6)}
    queries = {f"q{i}": f"query {i}" for i in range(5)}
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(5)}
    write_collection(tmp_path / "c", documents, queries, {"test": qrels})
    good = {q: {d: float(d in judged) for d in documents} for q, judged in qrels.items()}
    bad = {q: {d: -float(d in judged) for d in documents} for q, judged in qrels.items()}
    for name, run in (("good", good), ("bad", bad)):
        write_run(run, tmp_path / f"{name}.run")
        write_evaluation(tmp_path / name, run, evaluate_run(run, qrels), judged(tmp_path / "c"))
    return tmp_path


def judged(collection, /, **changes):
    """A summary that says by which judgments it was measured."""
    return {KEY: judged_by(load_collection(collection), "test") | changes}


def test_folders_tables_and_runs_give_the_same(runs, call):
    forms = [
        ("compare", runs / "bad", runs / "good"),
        ("compare", runs / "bad" / "per_query.tsv", runs / "good"),
        ("compare", runs / "bad.run", runs / "good.run", "--collection", runs / "c"),
        ("compare", runs / "bad", runs / "good.run", "--collection", runs / "c", "--split", "test"),
    ]
    found = []
    for form in forms:
        code, out, err = call(*form, "--json")
        assert code == 0, err
        found.append([(row["ndcg@10"], row.get("versus_first", {}).get("p_value")) for row in json.loads(out)])
    assert found[0][1] == (1.0, 0.0625)  # five of five queries better: 2 of 32 patterns are as extreme
    for other in found[1:]:
        for (value, p), (expected, wanted) in zip(other, found[0]):
            assert value == pytest.approx(expected, abs=1e-6) and p == wanted


def test_tables_for_readers(runs, call):
    code, out, _ = call("compare", runs / "bad", runs / "good")
    assert code == 0 and "over bad" in out and "5/0/0" in out
    code, out, _ = call("compare", runs / "bad", runs / "good", "--latex")
    assert out.startswith(r"\begin{tabular}") and r"\bottomrule" in out
    rows = compared({"a_b": result([0.1, 0.2, 0.3]), "c&d": result([0.2, 0.3, 0.5])}, "ndcg@10")
    assert r"a\_b" in comparison_latex(rows, "ndcg@10") and r"c\&d" in comparison_latex(rows, "ndcg@10")
    rows = compared({"~x^2": result([0.1, 0.2, 0.3]), "{a|$1>\\": result([0.2, 0.3, 0.5])}, "ndcg@10")
    for name in (r"\textasciitilde{}x\textasciicircum{}2 & ", r"\{a$|$\$1$>$\textbackslash{} & "):
        assert f"\n{name}" in comparison_latex(rows, "ndcg@10")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("good",), "two results or more"),
        (("good", "bad.run"), "bad.run: a run needs judgments"),
        (("good", "bad", "--metric", "nDCG@7"), "no metric 'ndcg@7'"),
        (("good", "bad", "--split", "dev"), "only with --collection"),
        (("good", "nowhere"), "nowhere: no such file or folder"),
    ],
)
def test_what_cannot_be_compared_is_said(runs, call, arguments, says):
    places = [runs / word if word in ("good", "bad", "bad.run", "nowhere") else word for word in arguments]
    code, _, err = call("compare", *places)
    assert code == 2 and says in err


def test_other_queries_are_refused(runs, call):
    lines = (runs / "good" / "per_query.tsv").read_text().splitlines()
    (runs / "good" / "per_query.tsv").write_text("\n".join(lines[:-1]) + "\n")
    code, _, err = call("compare", runs / "bad", runs / "good")
    assert code == 2 and "share only 4 queries of 4 and 5" in err


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"collection": "d", "data_fingerprint": "abc"}, "the data is c (fingerprint "),
        ({"split": "dev"}, "split is test and dev"),
        ({"made": {"test": "2 of the 5 queries of train, seed 13"}}, "made is None and {'test': '2 of the 5"),
        ({"relevant_from": 2, "exclude_query_document": True}, "relevant_from is 1 and 2; exclude_query_document is"),
    ],
)
def test_results_of_other_judgments_are_refused_and_the_difference_is_named(runs, call, changes, says):
    (runs / "good" / "summary.json").write_text(json.dumps(judged(runs / "c", **changes)))
    code, _, err = call("compare", runs / "bad", runs / "good")
    assert code == 2 and f"{runs / 'bad'} and {runs / 'good'} were not measured alike: {says}" in err
    code, _, err = call("compare", runs / "bad" / "per_query.tsv", runs / "good" / "per_query.tsv")
    assert code == 2 and says in err
    both = [runs / name / "run.trec" for name in ("bad", "good")]  # what the hint says
    assert call("compare", *both, "--collection", runs / "c")[0] == 0


def test_a_run_is_measured_as_the_tables_beside_it_and_by_no_other_collection(runs, call):
    queries, qrels = {f"q{i}": f"query {i}" for i in range(5)}, {f"q{i}": {"d0": 1, f"d{i + 1}": 2} for i in range(5)}
    write_collection(runs / "graded", {f"d{i}": f"text {i}" for i in range(6)}, queries, {"test": qrels})
    run = read_run(runs / "good.run")
    summary = judged(runs / "graded", relevant_from=2)
    write_evaluation(runs / "strict", run, evaluate_run(run, qrels, relevant_from=2), summary)
    form = ("compare", runs / "strict", runs / "good.run", "--metric", "RR@10", "--json")
    code, out, err = call(*form, "--collection", runs / "graded")
    assert code == 0 and json.loads(out)[1]["versus_first"]["ties"] == 5, err
    code, _, err = call(*form, "--collection", runs / "c")
    assert code == 2 and "the data is graded (fingerprint" in err and "and c (fingerprint" in err


def test_results_that_do_not_say_by_what_they_were_measured_are_compared_with_a_warning(runs, call):
    for text in ("{}", '{"judgments": 7}', "[]"):
        (runs / "bad" / "summary.json").write_text(text)
        code, _, err = call("compare", runs / "bad", runs / "good")
        assert code == 0 and f"{runs / 'bad'}: nothing says by which judgments" in " ".join(err.split())
    (runs / "bad" / "summary.json").unlink()
    assert "nothing says by which judgments" in " ".join(call("compare", runs / "bad", runs / "good")[2].split())


def test_every_command_that_measures_says_by_which_judgments(runs, call, bert_folder, finished, word_collection):
    measure = ("evaluate", bert_folder, "--prompt", "prorank-short", "--depth", 2, "--output")
    assert call(*measure, runs / "one", runs / "c", "--hybrid", 0.2, "--relevant-from", 1)[0] == 0
    (runs / "suite" / "c").mkdir(parents=True)
    for kind in ("corpus.jsonl", "queries.jsonl", "qrels"):
        (runs / "c" / kind).rename(runs / "suite" / "c" / kind)
    assert call(*measure, runs / "all", runs / "suite", "--suite", "open")[0] == 0
    (system,) = (runs / "all" / "c").glob("*/summary.json")
    for file in (runs / "one" / "reranked" / "summary.json", runs / "one" / "hybrid" / "summary.json", system):
        assert json.loads(file.read_text())[KEY] == judged(runs / "suite" / "c")[KEY]
    for stage in ("zero-shot/test", "score-learning/test", "hybrid"):
        assert json.loads((finished[0] / stage / "summary.json").read_text())[KEY] == judged(word_collection)[KEY]


def test_a_single_query_tells_nothing(runs, call):
    for name in ("good", "bad"):
        table = runs / name / "per_query.tsv"
        table.write_text("\n".join(table.read_text().splitlines()[:2]) + "\n")
    code, out, err = call("compare", runs / "bad", runs / "good", "--json")
    found = json.loads(out)[1]["versus_first"]
    assert (
        code == 0
        and err == "1 test query: the intervals say nothing\n"
        and found["p_value"] == found["t_p_value"] == 1.0
        and found["wins"] == 1
    )


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("q0\t1\t1\t1\t1\t1", "query 'q0' stands twice"),
        ("q9\tnan\t1\t1\t1\t1", "'nan' is no number"),
        ("q9\t1\t1\t1\t1\tinf", "'inf' is no number"),
    ],
)
def test_a_damaged_row_of_a_table_is_named(runs, call, row, says):
    table = runs / "good" / "per_query.tsv"
    table.write_text(f"{table.read_text()}{row}\n")
    code, _, err = call("compare", runs / "bad", runs / "good")
    assert code == 2 and f"per_query.tsv:7: {says}" in err


def test_a_table_without_queries_is_none(runs, call):
    table = runs / "good" / "per_query.tsv"
    table.write_text(table.read_text().splitlines()[0] + "\n")
    assert "no table of metrics per query" in call("compare", runs / "good", runs / "bad")[2]


def test_queries_that_a_run_lacks_are_told_and_a_run_of_others_is_refused(runs, call):
    lines = (runs / "good.run").read_text().splitlines(keepends=True)
    (runs / "part.run").write_text("".join(line for line in lines if not line.startswith("q4 ")))
    (runs / "other.run").write_text("".join(f"other-{line}" for line in lines))
    code, _, err = call("compare", runs / "bad.run", runs / "part.run", "--collection", runs / "c")
    assert code == 0 and "part.run lacks 1 of 5 judged queries; they score 0" in " ".join(err.split())
    code, _, err = call("compare", runs / "bad.run", runs / "other.run", "--collection", runs / "c")
    assert code == 2 and "other.run holds none of the 5 judged queries (--split names" in err


def test_every_command_that_reads_a_run_tells_queries_that_it_lacks(runs, call, bert_folder):
    lines = (runs / "good.run").read_text().splitlines(keepends=True)
    (runs / "part.run").write_text("".join(line for line in lines if not line.startswith("q4 ")))
    (runs / "other.run").write_text("".join(f"other-{line}" for line in lines))
    evaluate, mine = (
        ["evaluate", bert_folder, runs / "c", "--depth", 2],
        ["data", "mine", runs / "c", "--split", "test"],
    )
    for command, lost in ((evaluate, "they score 0"), (mine, "they get random negatives alone")):
        places = ["--output", runs / command[0], "--force"] if command is mine else ["--prompt", "prorank-short"]
        code, _, err = call(*command, *places, "--run", runs / "part.run")
        assert code == 0 and f"part.run lacks 1 of 5 judged queries; {lost}" in " ".join(err.split())
        code, _, err = call(*command, *places, "--run", runs / "other.run")
        assert code == 2 and "other.run holds none of the 5 judged queries" in err


@pytest.mark.parametrize("metric", ["RR@10", "P@3", "AP@100"])
def test_a_page_is_made_for_any_metric(runs, call, metric):
    page = runs / "report.html"
    code, _, err = call(
        *("compare", runs / "bad.run", runs / "good.run", "--collection", runs / "c"),
        *("--metric", metric, "--html", page),
    )
    assert code == 0, err
    assert f"{metric_key(metric)} with 95 % intervals" in page.read_text()


def test_a_page_without_the_texts_is_refused(runs, call):
    form = ("compare", runs / "bad", runs / "good", "--collection", runs / "c", "--html", runs / "report.html")
    judgments = runs / "c" / "qrels" / "test.tsv"
    kept = judgments.read_text()
    judgments.write_text("".join(line for line in kept.splitlines(keepends=True) if not line.startswith("q4\t")))
    for name in ("good", "bad"):
        (runs / name / "summary.json").write_text("{}")  # as if made by a version that wrote no record
    code, _, err = call(*form)
    assert code == 2 and "query 'q4' has no judgments in split 'test' of c (--split names" in err
    judgments.write_text(kept)
    (runs / "good" / "run.trec").write_text("q0 Q0 strange 1 9.0 x\n")
    code, _, err = call(*form)
    assert code == 2 and "good: document 'strange' is not in the collection c" in err


def test_a_folder_above_a_result_names_what_lies_in_it(runs, call):
    (runs / "evaluated").mkdir()
    (runs / "good").rename(runs / "evaluated" / "reranked")
    code, _, err = call("compare", runs / "evaluated", runs / "bad")
    assert code == 2 and f"no per_query.tsv in it (give one of {runs / 'evaluated' / 'reranked'})" in err
    assert "prorank evaluate --output writes it" in call("compare", runs / "bad", runs / "c")[2]


def test_the_search_for_results_below_a_folder_is_bounded(runs, call, monkeypatch):
    deep = runs / "a" / "b" / "c" / "d"
    deep.mkdir(parents=True)
    (runs / "good").rename(deep / "good")  # deeper than a run's folder keeps its evaluations
    assert "give one of" not in call("compare", runs / "a", runs / "bad")[2]
    (deep / "good").rename(runs / "a" / "b" / "d")
    assert f"give one of {runs / 'a' / 'b' / 'd'}" in call("compare", runs / "a", runs / "bad")[2]
    monkeypatch.setattr("prorank.evaluation.comparison.LOOKED_AT", 3)
    assert "give one of" not in call("compare", runs / "a", runs / "bad")[2]
    assert "/nope: no such file" in call("compare", runs / "a", "/nope")[2]  # told before any search


def test_results_of_a_made_split_are_compared_by_the_same_seed(runs, call):
    (runs / "c" / "qrels" / "test.tsv").rename(runs / "c" / "qrels" / "train.tsv")
    qrels = load_with_split(str(runs / "c"), "test").judgments("test")
    for name in ("good", "bad"):
        run = {query: scores for query, scores in read_run(runs / f"{name}.run").items() if query in qrels}
        write_evaluation(runs / name, run, evaluate_run(run, qrels), {}, force=True)
    form = ("compare", runs / "bad", runs / "good", "--collection", runs / "c", "--html", runs / "report.html")
    assert "has no judgments in split 'test'" in call(*form, "--seed", 14)[2]
    code, _, err = call(*form)
    assert code == 0 and "made splits, not comparable" in err and "2 test queries: the intervals say nothing" in err


def test_a_verdict_and_its_interval_are_of_one_direction():
    def said(difference, low, high):
        other = {"difference": difference, "low": low, "high": high, "p_value_holm": 0.6}
        return verdict([{"name": "a"}, {"name": "b", "versus_first": other}], "ndcg@10")

    assert "b is worse than a by 0.150 ndcg@10 (95 % interval -0.100 to 0.600); it may be" in said(-0.15, -0.6, 0.1)
    assert "b is worse than a by 0.150 ndcg@10 (95 % interval 0.100 to 0.600); it may be" in said(-0.15, -0.6, -0.1)
    assert said(0.0, -0.1, 0.1) == "b and a are equal in ndcg@10 (95 % interval -0.100 to 0.100; p = 0.600)."


def test_the_page_shows_plots_verdict_and_texts_and_loads_nothing(runs, call):
    page = runs / "report.html"
    code, _, err = call("compare", runs / "bad", runs / "good", "--collection", runs / "c", "--html", page)
    assert code == 0, err
    text = page.read_text()
    assert "good is better than bad by" in text and "it may be chance (p = 0.062)" in text  # five queries
    labels = re.findall(r'<svg role="img" aria-label="([^"]+)"', text)
    assert labels == ["ndcg@10 with 95 % intervals", "Reranking fewer documents", "Scores by label", "Reliability"]
    axes = ("ndcg@10", "documents of the first run", "share of its label", "share found relevant")
    assert all(axis in text for axis in axes)  # what each plot's axis says
    assert all(f"<p>{note[:30]}" in text for note in NOTES)
    assert "rank 6 &rarr; 1" in text and "query 3" in text
    assert not re.findall(r'(?:src|href)="(?!#)', text.replace("xlink:href", "x")) and "<script" not in text
    code, _, err = call("compare", runs / "bad", runs / "good", "--collection", runs / "c", "--html", page)
    assert code == 2 and "already exists" in err
    assert "add --collection" in call("compare", runs / "bad", runs / "good", "--html", runs / "other.html")[2]


def test_texts_on_the_page_are_escaped(runs, call):
    lines = (runs / "c" / "queries.jsonl").read_text().replace("query 3", "<script>alert(1)</script>")
    (runs / "c" / "queries.jsonl").write_text(lines)
    call("compare", runs / "bad", runs / "good", "--collection", runs / "c", "--html", runs / "p.html")
    text = (runs / "p.html").read_text()
    assert "<script" not in text and "&lt;script&gt;" in text


def test_a_title_may_hold_the_word_that_the_page_is_filled_at():
    assert page("ANTIBODY TITLE", ["one"]).count("one") == 1 and "<title>ANTIBODY TITLE</title>" in page(
        "ANTIBODY TITLE", []
    )


def test_runs_are_measured_on_a_sampled_evaluations_queries(runs, call):
    lines = (runs / "good" / "per_query.tsv").read_text().splitlines()
    (runs / "good" / "per_query.tsv").write_text("\n".join(lines[:-2]) + "\n")
    code, out, err = call("compare", runs / "bad.run", runs / "good", "--collection", runs / "c", "--json")
    assert code == 0, err
    assert [row["queries"] for row in json.loads(out)] == [3, 3]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_the_example_page_shows_all_its_plots_in_a_browser():
    page_file = Path(__file__).parents[2] / "docs" / "examples" / "compare-cosqa.html"
    with browsing() as browser:
        page = browser.new_page()
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_file.as_uri())
        boxes = [box.bounding_box() for box in page.get_by_role("img").all()]
        assert len(boxes) == 4 and all(box["width"] > 200 and box["height"] > 60 for box in boxes)
        assert "chance is an unlikely explanation" in page.inner_text(".verdict")
        assert page.evaluate("document.querySelectorAll('svg path').length") > 100
        assert asked == [page_file.as_uri()]  # nothing is loaded from elsewhere
