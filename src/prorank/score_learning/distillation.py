"""A teacher's scores for score learning: bi-encoders, joined with the first stage and a reranker if asked for.

Knows runs and the models that teach; not the one that learns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from prorank.data.collection import Collection
from prorank.data.runs import Qrels, Run, lists_of, pairs_within, scored_lists
from prorank.data.trec import read_run, write_run
from prorank.data.union import Subset
from prorank.evaluation.hybrid import choose_weight
from prorank.evaluation.rerank_file import made_from, rerank_through, run_fingerprint
from prorank.evaluation.streaming import Journal
from prorank.first_stage.dense import biencoder_scores
from prorank.first_stage.fusion import z_score
from prorank.reranker import Reranker, model_facts
from prorank.training import distributed
from prorank.training.context import DEV_QUERIES, RunContext, sampled


class Source(NamedTuple):
    """What one subset's candidate lists are built from."""

    collection: Collection
    run: Run
    qrels: Qrels
    negatives: Mapping[str, Sequence[str]] = {}  # of the recipe's mined file


def teacher_scores(
    context: RunContext, queries: Mapping[str, str], wanted: Mapping[str, Sequence[str]], known: Run
) -> Run:
    """The recipe's teacher over the wanted pairs, those already known left out of the work."""
    section = context.recipe.score_learning
    assert section is not None and section.teacher is not None
    new = {query: [d for d in dict.fromkeys(ids) if d not in known.get(query, {})] for query, ids in wanted.items()}
    new = {query: ids for query, ids in new.items() if ids}
    context.console.print(f"  teacher: scoring {sum(map(len, new.values()))} pairs")
    batch_size = section.teacher.batch_size
    asked = [biencoder_scores(model, queries, context.texts(), new, batch_size) for model in section.teacher.models]
    scores = asked[0] if len(asked) == 1 else mean_scores(asked)
    return {query: known.get(query, {}) | scores.get(query, {}) for query in wanted}


def mean_scores(runs: Sequence[Run]) -> Run:
    """Mean of several models' z-scores, each among a query's documents; the runs hold the same pairs.

    >>> mean_scores([{"q": {"a": 0.75, "b": 0.5}}, {"q": {"a": 0.0, "b": -4.0}}])
    {'q': {'a': 1.0, 'b': -1.0}}
    """
    found: Run = {}
    for query, listed in runs[0].items():
        scores = zip(*(z_score([run[query][document] for document in listed]) for run in runs))
        found[query] = {document: sum(own) / len(runs) for document, own in zip(listed, scores)}
    return found


def taught(context: RunContext, sources: Sequence[Source], drawn: Mapping[str, Sequence[str]], known: Run) -> Run:
    """Teacher scores of the drawn documents, kept in the run's folder: a resumed run does not ask again."""
    product = "score-learning/teacher.run"
    saved = context.folder / product

    def ask() -> None:
        if not context.study.has(product):
            write_run(ask_teacher(context, sources, drawn, known), saved, tag="teacher")
            context.study.keep(product)
            for journal in saved.parent.glob("teacher-*.run.part*"):  # of `reranker_alone`
                journal.unlink()

    distributed.run_on_main(ask)
    return read_run(saved)


def ask_teacher(context: RunContext, sources: Sequence[Source], drawn: Mapping[str, Sequence[str]], known: Run) -> Run:
    """Similarities of the drawn documents, or their join with the first stage and a reranker."""
    section = context.recipe.score_learning
    assert section is not None and section.teacher is not None
    if section.teacher.model is None:
        assert section.teacher.reranker is not None
        return reranker_alone(context, sources, drawn, section.teacher.reranker)
    queries = {query: text for source in sources for query, text in source.collection.queries.items()}
    run = {query: listed for source in sources for query, listed in source.run.items()}
    share, reranker = section.teacher.first_stage, section.teacher.reranker
    if share == 0 and reranker is None and len(section.teacher.models) == 1:
        return teacher_scores(context, queries, drawn, known)
    dev = sampled(context, context.recipe.data.dev, DEV_QUERIES) if share == "dev" else {}
    wanted = {query: [*documents, *run.get(query, {})] for query, documents in drawn.items()}
    wanted |= {query: list(context.first_stage.get(query, {})) for query in dev}
    dense = teacher_scores(context, queries, wanted, known)
    joined: Run = {}
    for source, subset in zip(sources, context.subsets):
        weight = dev_share(context, subset, dev, dense) if share == "dev" else share
        context.console.print(f"  teacher of {subset.collection.name}: the first stage's share is {weight}")
        own = {query: documents for query, documents in drawn.items() if query in source.collection.queries}
        joined |= hybrid_scores(run, dense, own, weight)
    if reranker is None:
        return joined
    pairs = [(query, document) for query, documents in joined.items() for document in documents]
    texts = context.texts()
    teacher = Reranker(reranker)
    scored = teacher.score_detailed([(queries[q], texts[d]) for q, d in pairs], "the teaching reranker")
    teacher.warn(scored)
    return with_reranker(joined, scored_lists(joined, zip(pairs, scored.scores)), section.teacher.reranker_share)


def reranker_alone(
    context: RunContext, sources: Sequence[Source], drawn: Mapping[str, Sequence[str]], model: str
) -> Run:
    """A reranker's own scores of the drawn documents, written down block by block: a killed run resumes there."""
    teacher, found = Reranker(model), Run()
    facts = model_facts(teacher, model)
    for number, source in enumerate(sources):
        lists = {q: dict.fromkeys(ids, 0.0) for q, ids in drawn.items() if q in source.collection.queries}
        most = max(map(len, lists.values()), default=0)
        depends_on = made_from(facts, source.collection, most) | {"the pairs": run_fingerprint(lists)}
        journal = Journal(context.folder / "score-learning" / f"teacher-{number}.run", depends_on)
        context.console.print(f"  teacher: {model} scores {pairs_within(lists.values(), most)} pairs")
        found |= rerank_through(journal, teacher, source.collection, lists, most, "the teacher")
    return found


def dev_share(context: RunContext, subset: Subset, dev: Qrels, dense: Run) -> float:
    """The first stage's share with the best NDCG@10 of the joined lists of the subset's dev queries."""
    own = {query: judged for query, judged in dev.items() if query in subset.collection.queries}
    lists = lists_of(subset.run, own)
    return choose_weight(lists, dense, own, context.recipe.first_stage.depth)


def hybrid_scores(first_stage: Run, dense: Run, wanted: Mapping[str, Sequence[str]], weight: float) -> Run:
    """weight * z(first stage) + (1 - weight) * z(dense) of the wanted documents.

    Means and deviations are those of the first stage's list; a wanted document that it did not find has its score 0.

    Args:
        first_stage: scored lists.
        dense: similarities of every listed and every wanted document.
        wanted: query id -> document ids.
        weight: share of the first stage, 0..1.

    >>> lists, dense = {"q": {"a": 2.0, "b": 1.0}}, {"q": {"a": 0.1, "b": 0.5, "c": 0.3}}
    >>> {d: round(score, 2) for d, score in hybrid_scores(lists, dense, {"q": ["a", "c"]}, 0.25)["q"].items()}
    {'a': -0.5, 'c': -0.75}
    """

    joined: Run = {}
    for query, documents in wanted.items():
        listed = first_stage.get(query, {})
        lexical = z_score([listed.get(document, 0.0) for document in documents], among=list(listed.values()))
        similar = z_score([dense[query][d] for d in documents], among=[dense[query][d] for d in listed])
        joined[query] = {d: weight * x + (1 - weight) * y for d, x, y in zip(documents, lexical, similar)}
    return joined


def with_reranker(joined: Run, scores: Run, share: float) -> Run:
    """(1 - share) * joined score + share * z(reranker's score), the z-score among a query's joined documents.

    Args:
        joined: scores on a z-score's scale.
        scores: the reranker's, of every joined document.
        share: of the reranker, 0..1.

    >>> with_reranker({"q": {"a": 0.5, "b": -0.5}}, {"q": {"a": -3.0, "b": 5.0}}, 0.25)
    {'q': {'a': 0.125, 'b': -0.125}}
    """
    found: Run = {}
    for query, own in joined.items():
        theirs = z_score([scores[query][document] for document in own])
        found[query] = {d: (1 - share) * score + share * other for (d, score), other in zip(own.items(), theirs)}
    return found
