"""The examples do what they say."""

import json
import re
import runpy
from pathlib import Path

import evaluate_run
import own_loss
import own_prompt
import own_reward
import postgres_rerank
import psycopg
import pytest
import rerank_for_rag

from prorank import Reranker
from prorank.data.collection import load_collection
from prorank.data.trec import write_run
from prorank.first_stage.bm25 import BM25Index

ROOT = Path(__file__).parents[1]


@pytest.fixture
def two_candidates():
    collection = load_collection("cosqa")
    texts = {d.id: d.content for d in list(collection.documents.values())[:300]}
    return BM25Index.build(dict(list(collection.documents.items())[:300])), texts


def test_rag_loop_keeps_the_best_passages(two_candidates):
    index, texts = two_candidates
    found = rerank_for_rag.context_for("python read a csv file", index, texts, Reranker(), passages=2)
    scores = [float(score) for score in re.findall(r"^\[([+-][\d.]+)\]", found, re.MULTILINE)]
    assert len(scores) == 2 and scores == sorted(scores, reverse=True)


def test_own_prompt_gives_its_own_answers(bert_folder):
    reranker = Reranker(bert_folder, prompt=own_prompt.HELPFUL, max_length=48)
    assert reranker.settings.prompt.answers == ("no", "yes")
    assert len(reranker.rank("apple", ["apple river", "stone"])) == 2


def test_own_reward_rises(encoder_folder):
    reranker = Reranker(encoder_folder, prompt="prorank-short", max_length=64, precision="fp32", for_training=True)
    expected = own_reward.warm_up(reranker, steps=40, learning_rate=3e-3)
    assert expected[-1] > expected[0] + 0.1


def test_own_loss_falls(encoder_folder):
    reranker = Reranker(encoder_folder, prompt="prorank-short", max_length=64, precision="fp32", for_training=True)
    losses = own_loss.train(reranker, steps=40, learning_rate=3e-3)
    assert losses[-1] < 0.7 * losses[0]


def test_evaluate_run_compares_two_runs(word_collection, tmp_path):
    qrels = load_collection(word_collection).judgments("test")
    write_run({q: {"d59": 2.0, **dict.fromkeys(judged, 1.0)} for q, judged in qrels.items()}, tmp_path / "second.run")
    write_run({q: {"d59": 1.0, **dict.fromkeys(judged, 2.0)} for q, judged in qrels.items()}, tmp_path / "first.run")
    said = evaluate_run.report(str(word_collection), str(tmp_path / "second.run"), str(tmp_path / "first.run"))
    assert "first.run: ndcg@10 1.000 [1.000, 1.000]" in said and "second.run: ndcg@10 0.631" in said
    assert "difference +0.369" in said
    lines = [f"{query} 0 {document} {grade}\n" for query, own in qrels.items() for document, grade in own.items()]
    (tmp_path / "judged.qrels").write_text("".join(lines), encoding="utf-8")
    runs = (str(tmp_path / "second.run"), str(tmp_path / "first.run"))
    assert evaluate_run.report(str(tmp_path / "judged.qrels"), *runs) == said


@pytest.mark.skipif(
    postgres_rerank.program("initdb") is None, reason="PostgreSQL is not installed (Debian: apt-get install postgresql)"
)
def test_postgres_finds_and_the_reranker_orders(two_candidates):
    _, texts = two_candidates
    query = "python read a csv file"
    with postgres_rerank.cluster() as address:
        socket = Path(address.split()[0].removeprefix("host="))
        with psycopg.connect(address) as database:
            assert database.execute("SHOW listen_addresses").fetchone() == ("",)
            postgres_rerank.index(database, texts)
            found = postgres_rerank.search(database, query, 30)
    assert not socket.exists()
    scores = [score for *_, score in found]
    assert 10 < len(found) <= 30 and scores == sorted(scores, reverse=True) and scores[0] > scores[-1]
    reranker = Reranker()
    ranked = postgres_rerank.rerank(reranker, query, found, 5)
    best = max(found, key=lambda row: reranker.score([(query, row[1])])[0])
    assert ranked[0][0] == best[0] and [chance for _, chance in ranked] == sorted((c for _, c in ranked), reverse=True)


def test_lancedb_joins_vectors_and_words_and_the_reranker_orders(two_candidates, encoder_folder, tmp_path):
    import lancedb_hybrid
    from sentence_transformers import SentenceTransformer

    from prorank.integrations.lancedb import ProrankReranker

    _, texts = two_candidates
    query, reranker = "python read a csv file", Reranker()
    encoder = SentenceTransformer(str(encoder_folder), device="cpu")
    table = lancedb_hybrid.table_of(str(tmp_path), texts, encoder)
    found = lancedb_hybrid.search(table, query, encoder, ProrankReranker(reranker), 10)
    chances = reranker.probability(reranker.score([(query, row["text"]) for row in found]))
    assert 10 <= len(found) <= 20 and chances == sorted(chances, reverse=True)
    assert [row["_relevance_score"] for row in found] == pytest.approx(chances, abs=1e-4)


@pytest.mark.parametrize(
    ("script", "prints"),
    [
        ("own_loss", r"[\d.]+ -> [+\d.]+"),
        ("own_prompt", r"'corpus_id': 1"),
        ("own_reward", r"[\d.]+ -> [+\d.]+"),
        ("rerank_for_rag", r"(?m)^\[[+-][\d.]+\] "),
    ],
)
def test_scripts_run_as_they_stand(script, prints, capsys):
    runpy.run_path(str(ROOT / "examples" / f"{script}.py"), run_name="__main__")
    assert re.search(prints, capsys.readouterr().out)


@pytest.mark.parametrize("arguments", [[], ["a.run", "b.run"], ["c", "a.run", "b.run", "more"]])
def test_a_script_without_its_arguments_says_its_usage(arguments, monkeypatch):
    monkeypatch.setattr("sys.argv", ["evaluate_run.py", *arguments])
    with pytest.raises(SystemExit, match=r"^usage: python evaluate_run\.py JUDGMENTS BASELINE"):
        runpy.run_path(str(ROOT / "examples" / "evaluate_run.py"), run_name="__main__")


def test_the_notebook_runs():
    """Cell after cell in one namespace, as Jupyter would run it."""
    cells = json.loads((ROOT / "examples" / "both_stages.ipynb").read_text(encoding="utf-8"))["cells"]
    names = {}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert [row["stage"] for row in names["results"]["rows"]][1:4] == ["zero-shot", "warmup", "score-learning"]
    assert names["trained"].settings.recipe["name"] == "quickstart"
