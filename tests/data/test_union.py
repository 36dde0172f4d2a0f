"""Several collections as one: ids, negatives, weights, a whole run."""

from collections import Counter

import numpy as np
import pytest
from conftest import write_collection
from rich.console import Console
from tiny_runs import tiny

from prorank import Reranker
from prorank.data.collection import load_collection
from prorank.data.union import merge, turns, with_prefixed_ids
from prorank.pipeline.run import prepare_folder, run_recipe
from prorank.prompts.truncation import Truncation
from prorank.recipe.sections import Quotas
from prorank.score_learning.distillation import ask_teacher
from prorank.score_learning.lists import labelled_sources, list_items
from prorank.training.context import prepare_data
from prorank.util.errors import DataError
from prorank.warmup.pairs import labelled_pairs


@pytest.fixture(scope="module")
def pair_of_collections(tmp_path_factory):
    """Two collections with the same ids and other words."""
    folder = tmp_path_factory.mktemp("union")
    for name, words in (("fruit", "apple pear plum fig lemon"), ("metal", "iron zinc lead gold tin")):
        texts = [f"{a} {b}" for a in words.split() for b in words.split() if a != b]
        documents = {f"d{i}": text for i, text in enumerate(texts)}
        queries = {f"q{i}": text for i, text in enumerate(texts)}
        splits = {"train": range(10), "dev": range(10, 14), "test": range(14, 20)}
        qrels = {split: {f"q{i}": {f"d{i}": 1} for i in numbers} for split, numbers in splits.items()}
        write_collection(folder / name, documents, queries, qrels)
    return folder


def union_recipe(model, folder, **changes):
    parts = [{"collection": "fruit", "weight": 3.0}, {"collection": "metal"}]
    return tiny(model, "cosqa", data__union=parts, data__folder=str(folder), **changes)


def test_ids_carry_their_collection(pair_of_collections):
    parts = [load_collection(pair_of_collections / name) for name in ("fruit", "metal")]
    whole = merge([with_prefixed_ids(part) for part in parts])
    assert len(whole.documents) == 40 and len(whole.queries) == 40
    assert whole.documents["metal/d0"].text == parts[1].documents["d0"].text
    assert whole.documents["metal/d0"].id == "metal/d0"
    assert whole.judgments("dev")["fruit/q10"] == {"fruit/d10": 1}
    assert whole.fingerprint not in (parts[0].fingerprint, parts[1].fingerprint)
    with pytest.raises(DataError, match="one name"):
        merge([parts[0], parts[0]])


def test_turns_follow_the_weights_and_never_change_what_was_drawn():
    drawn = Counter(turns([1.0, 3.0], 4000, seed=1))
    assert 0.2 < drawn[0] / 4000 < 0.3
    assert turns([1.0, 3.0], 4000, seed=1)[:100] == turns([1.0, 3.0], 100, seed=1)


@pytest.mark.parametrize("negatives", ["exchanged", Quotas(hard=1, medium=0, random=1)])
def test_pairs_stay_within_a_collection(negatives, bert_folder, pair_of_collections, tmp_path):
    recipe = union_recipe(bert_folder, pair_of_collections)
    prepare_folder(recipe, tmp_path, force=False, resume=False)
    context = prepare_data(recipe, tmp_path, Console(quiet=True))
    pairs = labelled_pairs(context, "train", 200, negatives)
    assert len(pairs) == 200
    names = [(p.query_id.split("/")[0], p.document_id.split("/")[0]) for p in pairs]
    assert all(query == document for query, document in names)
    share = Counter(query for query, _ in names)
    assert 0.6 < share["fruit"] / 200 < 0.9
    for query, listed in context.first_stage.items():
        assert all(d.split("/")[0] == query.split("/")[0] for d in listed)


def test_pseudo_queries_are_shared_by_weight(bert_folder, pair_of_collections, tmp_path):
    changes = {"score_learning__pseudo_queries": 4}
    recipe = union_recipe(bert_folder, pair_of_collections, **changes)
    prepare_folder(recipe, tmp_path, force=False, resume=False)
    sources = labelled_sources(prepare_data(recipe, tmp_path, Console(quiet=True)))
    for source in sources:
        assert all(d.split("/")[0] == source.collection.name for judged in source.qrels.values() for d in judged)


@pytest.mark.parametrize("negatives", ["exchanged", Quotas(hard=3, medium=2, random=5)])
def test_no_test_query_and_no_passage_it_looks_for_is_trained_on(negatives, bert_folder, tmp_path):
    documents = {f"d{i}": f"common word{i}" for i in range(60)}
    documents["d7"] = documents["d41"].upper()  # a copy of a held document
    queries = {f"q{i}": f"common  word{i}" for i in range(60)} | {"q0": "Common word55"}  # the text of q55
    qrels = {
        "train": {f"q{i}": {f"d{i % 50}": 1, f"d{(i + 30) % 60}": 1} for i in range(40)},
        "dev": {f"q{i}": {f"d{i}": 1} for i in range(40, 50)},
        "test": {f"q{i}": {f"d{i}": 1} for i in range(50, 60)},
    }
    write_collection(tmp_path / "data", documents, queries, qrels)
    held_queries, held = {f"q{i}" for i in range(40, 60)} | {"q0"}, {f"d{i}" for i in range(40, 60)} | {"d7"}
    recipe = tiny(
        bert_folder,
        tmp_path / "data",
        data__hold_out_documents=True,
        score_learning__pseudo_queries=20,
        score_learning__negatives={"hard": 3, "medium": 2, "random": 5},
    )
    prepare_folder(recipe, tmp_path / "run", force=False, resume=False)
    context = prepare_data(recipe, tmp_path / "run", Console(quiet=True))
    assert held & {d for listed in context.first_stage.values() for d in listed}  # the first stage knows them
    pairs = labelled_pairs(context, "train", 300, negatives)
    assert not held & {pair.document_id for pair in pairs}
    assert not held_queries & {pair.query_id for pair in pairs}
    seen = {}
    texts = {context.collection.documents[d].content for d in held}

    class Spy:
        def encode(self, wanted):
            seen["pairs"] = wanted
            return [[0]] * len(wanted), Truncation(0, 0)

    list_items(context, Spy())
    assert len(seen["pairs"]) == 6 * 2 * 11
    assert not any(text in texts for _, text in seen["pairs"])
    assert {q for source in labelled_sources(context) for q in source.qrels} & held_queries == set()


def test_a_union_trains_from_data_to_report(bert_folder, encoder_folder, pair_of_collections, tmp_path):
    teacher = {"model": str(encoder_folder), "first_stage": "dev", "temperature": 0.5}
    recipe = union_recipe(bert_folder, pair_of_collections, score_learning__teacher=teacher)
    results = run_recipe(recipe, tmp_path / "run")
    assert results["collection"] == "fruit+metal" and results["queries"] == 12
    stage = next(row for row in results["rows"] if row["stage"] == "score-learning")
    assert stage["by_collection"].keys() == {"fruit", "metal"}
    assert sum(stage["by_collection"].values()) / 2 == pytest.approx(stage["ndcg@10"])


def test_a_reranker_teaches_beside_the_others(bert_folder, encoder_folder, pair_of_collections, tmp_path):
    Reranker(bert_folder, prompt="prorank-short", max_length=64).save_pretrained(tmp_path / "teacher")
    reranker = Reranker(tmp_path / "teacher")
    found = {}
    for name in (None, str(tmp_path / "teacher")):
        teacher = {"model": str(encoder_folder), "first_stage": 0.3, "reranker": name, "reranker_share": 0.25}
        recipe = union_recipe(bert_folder, pair_of_collections, score_learning__teacher=teacher)
        folder = tmp_path / f"run-{name is None}"
        prepare_folder(recipe, folder, force=False, resume=False)
        context = prepare_data(recipe, folder, Console(quiet=True))
        sources = labelled_sources(context)
        drawn = {query: list(sources[0].collection.documents)[::4] for query in sources[0].qrels}
        found[name] = ask_teacher(context, sources, drawn, {})
    plain, joined = found.values()
    query, scores = next(iter(plain.items()))
    texts = context.texts()
    own = np.array(reranker.score([(sources[0].collection.queries[query], texts[d]) for d in scores]))
    expected = 0.75 * np.array(list(scores.values())) + 0.25 * (own - own.mean()) / own.std()
    np.testing.assert_allclose(list(joined[query].values()), expected, atol=1e-3)
