"""Results compared query by query: equal to scipy on the same numbers, and readable from every form they come in."""

import json
import re
from pathlib import Path

import pytest
import scipy.stats
from browser import CHROMIUM, browsing
from conftest import write_collection
from hypothesis import given
from hypothesis import strategies as st

from prorank.data.trec import write_run
from prorank.evaluation.comparison import compared, comparison_latex, t_test
from prorank.evaluation.html_report import page
from prorank.evaluation.metrics import Evaluation, evaluate_run, write_evaluation

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
        write_evaluation(tmp_path / name, run, evaluate_run(run, qrels), {})
    return tmp_path


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


def test_the_page_shows_plots_verdict_and_texts_and_loads_nothing(runs, call):
    page = runs / "report.html"
    code, _, err = call("compare", runs / "bad", runs / "good", "--collection", runs / "c", "--html", page)
    assert code == 0, err
    text = page.read_text()
    assert "good is better than bad by" in text and "it may be chance (p = 0.062)" in text  # five queries
    labels = re.findall(r'<svg role="img" aria-label="([^"]+)"', text)
    assert labels == ["ndcg@10 with 95 % intervals", "Reranking fewer documents", "Scores by label", "Reliability"]
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
