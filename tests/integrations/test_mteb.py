"""MTEB evaluates a reranker as a cross-encoder, on a task of a few words."""

import shutil

import datasets
import mteb
import numpy as np
import pytest
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models import CrossEncoderProtocol
from pages import ROOT, blocks

from prorank import Reranker
from prorank.engine.scorer import ScoredPairs
from prorank.evaluation.metrics import evaluate_run
from prorank.integrations.mteb import MTEBReranker
from prorank.prompts.truncation import Truncation
from prorank.util.errors import InputError

DOCUMENTS = {"a": ("", "red stone"), "b": ("Green", "tree water"), "c": ("", "the blue river")}
QUERIES = {"q": "red stone", "r": "blue river"}
QRELS = {"q": {"a": 1}, "r": {"c": 1}}


class Words(AbsTaskRetrieval):
    metadata = TaskMetadata(
        name="Words",
        dataset={"path": "none/none", "revision": "1"},
        description="A few words.",
        type="Reranking",
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
    )

    def load_data(self, **_):
        corpus = [{"id": key, "title": title, "text": text} for key, (title, text) in DOCUMENTS.items()]
        queries = datasets.Dataset.from_list([{"id": key, "text": text} for key, text in QUERIES.items()])
        lists = {query: list(DOCUMENTS) for query in QUERIES}
        split = RetrievalSplitData(
            corpus=datasets.Dataset.from_list(corpus), queries=queries, relevant_docs=QRELS, top_ranked=lists
        )
        self.dataset, self.data_loaded = {"default": {"test": split}}, True


def test_mteb_finds_the_ndcg_of_our_own_scores(bert_folder):
    options = {"prompt": "prorank-short", "max_length": 48, "precision": "fp32"}
    wrapped = MTEBReranker(str(bert_folder), device="cpu", **options)
    assert isinstance(wrapped, CrossEncoderProtocol)
    result = mteb.evaluate(wrapped, [Words()], cache=None, show_progress_bar=False, co2_tracker=False)
    reranker = Reranker(bert_folder, **options)
    texts = {key: f"{title} {text}".strip() for key, (title, text) in DOCUMENTS.items()}
    run = {q: dict(zip(texts, reranker.score([(query, t) for t in texts.values()]))) for q, query in QUERIES.items()}
    wanted = evaluate_run(run, QRELS, ("nDCG@10",)).mean("ndcg@10")
    assert wanted < 1 and result.task_results[0].scores["test"][0]["ndcg_at_10"] == pytest.approx(wanted, abs=1e-4)


def test_queries_of_one_text_are_lists_of_their_own_for_a_cascade(bert_folder):
    asked, wrapped = [], MTEBReranker(str(bert_folder), prompt="prorank-short", max_length=48)

    def score_detailed(pairs, progress, lists):
        asked.append(lists)
        return ScoredPairs(np.zeros(len(pairs)), Truncation(0, 0))

    wrapped.reranker.score_detailed = score_detailed
    documents = [{"text": ["tree"] * 4}]
    wrapped.predict([{"id": ["a", "a", "b"], "text": ["red"] * 3}, {"id": ["c"], "text": ["red"]}], documents)
    wrapped.predict([{"text": ["red", "red", "blue", "blue"]}], documents)
    assert asked == [[0, 0, 1, 2], [0, 0, 1, 1]]


def test_the_guides_code_evaluates(bert_folder, tmp_path, monkeypatch):
    """docs/guide/evaluate.md as it stands, on a task that is at hand in place of the hub's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mteb, "get_tasks", lambda names: [Words()])
    found, evaluate = [], mteb.evaluate
    monkeypatch.setattr(mteb, "evaluate", lambda *asked: found.append(evaluate(*asked, cache=None, co2_tracker=False)))
    Reranker(bert_folder, prompt="prorank-short", max_length=48).save_pretrained("runs/quickstart/checkpoint")
    (code,) = blocks(ROOT / "docs" / "guide" / "evaluate.md", "python")
    exec(compile(code, "evaluate.md", "exec"), {})
    assert 0 < found[0].task_results[0].scores["test"][0]["ndcg_at_10"] <= 1


def test_another_revision_and_unequal_inputs_are_refused(bert_folder):
    with pytest.raises(InputError, match="no revision 'main'"):
        MTEBReranker(str(bert_folder), "main")
    wrapped = MTEBReranker(str(bert_folder), prompt="prorank-short", max_length=48)
    with pytest.raises(InputError, match="1 queries for 2 documents"):
        wrapped.predict([{"text": ["q"]}], [{"text": ["a", "b"]}])


def test_results_of_one_model_are_not_taken_for_anothers(bert_folder, tmp_path):
    options = {"prompt": "prorank-short", "max_length": 48}
    copy = tmp_path / bert_folder.name
    shutil.copytree(bert_folder, copy)
    revisions = [
        MTEBReranker(str(copy), **(options | more)).mteb_model_meta.revision for more in ({}, {}, {"max_length": 40})
    ]
    assert revisions[0] == revisions[1] != revisions[2]
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    other = MTEBReranker(str(copy), **options).mteb_model_meta.revision
    assert other not in revisions
    MTEBReranker(str(copy), other, **options)
