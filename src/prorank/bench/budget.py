"""How long runs will take on this machine: pairs counted from their recipes, speed measured on a few real pairs.

Knows recipes, collections and a backbone; trains nothing that is kept. Loading, BM25, a teacher's scores and mining are
left out: minutes at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any, NamedTuple

from prorank.data.collection import Collection
from prorank.evaluation.rerank import sample_queries
from prorank.pipeline.stages import ready_to_train
from prorank.recipe.sections import RankingSection, Recipe
from prorank.reranker import Reranker
from prorank.training.context import DEV_QUERIES

PROBES = 16  # pairs that the speeds are measured on


class Counts(NamedTuple):
    """Pairs that a run is trained on and pairs that it scores."""

    trained: int
    scored: int


class Speed(NamedTuple):
    """Tokens per second in training and in scoring, and tokens of a pair."""

    training: float
    scoring: float
    tokens: float


def evaluations(section: RankingSection) -> int:
    """Held-out evaluations of a ranking stage: its start, and every `evaluate_every` steps.

    >>> from prorank.recipe.sections import ScoreLearningSection
    >>> evaluations(ScoreLearningSection(steps=100, evaluate_every=50))
    3
    """
    return 1 + section.steps // section.evaluate_every


def counted(recipe: Recipe, collections: Sequence[Collection]) -> Counts:
    """Pairs of a run, its evaluations on dev and test included."""
    evaluation, depth = recipe.evaluation, recipe.evaluation.rerank_depth
    most = evaluation.max_queries
    stages, trained, scored = 1, 0, 0  # zero-shot is measured as well
    if (warmup := recipe.warmup) is not None:
        stages += 1
        trained += warmup.steps * warmup.pairs_per_step
        scored += (3 + warmup.steps // warmup.evaluate_every) * 2 * warmup.held_out_pairs  # verdict and end of the turn
    if (score := recipe.score_learning) is not None:
        stages += 1
        trained += score.steps * score.queries_per_step * (1 + score.negatives.total)
        scored += evaluations(score) * score.dev_queries * len(collections) * depth
    split = recipe.data.test
    tests = sum(len(sample_queries(c.qrels[split], most)) if split in c.qrels else most or 0 for c in collections)
    dev = min(DEV_QUERIES, most or DEV_QUERIES) * len(collections) if evaluation.hybrid_weight == "dev" else 0
    return Counts(trained, scored + stages * (tests + dev) * depth)


def measured(recipe: Recipe, collections: Sequence[Collection]) -> Speed:
    """Speeds of the recipe's model on this machine, on judged pairs of its collections."""
    section = recipe.backbone
    reranker = Reranker.from_pretrained(
        section.model,
        prompt=section.prompt,
        max_length=section.max_length,
        instruction=section.instruction,
        score=section.score,
        family=section.family,
        precision=section.precision,
        for_training=True,
    )
    texts = [
        (c.queries[query], c.documents[document].content)
        for c in collections
        for judged in list(next(iter(c.qrels.values())).items())[:PROBES]
        for query, document in [(judged[0], next(iter(judged[1])))]
    ]
    sequences, _ = reranker.pair_tokenizer.encode(texts)
    tokens = mean(map(len, sequences))
    sequences = sequences[:PROBES]
    seconds = min(_seconds(lambda: reranker.score_sequences(sequences)) for _ in range(2))
    scoring = sum(map(len, sequences)) / seconds
    backbone = ready_to_train(reranker.backbone, recipe)

    def step() -> None:
        batch = reranker.pair_tokenizer.collate(sequences)
        logits = backbone(batch.input_ids, batch.attention_mask, batch.slot, reranker.pair_tokenizer.answer_ids)
        (logits[:, -1] - logits[:, 0]).mean().backward()
        backbone.zero_grad()

    training = sum(map(len, sequences)) / min(_seconds(step) for _ in range(2))
    return Speed(training, scoring, tokens)


def hours(counts: Counts, speed: Speed) -> float:
    """Hours of a run.

    >>> round(hours(Counts(3600, 7200), Speed(training=100.0, scoring=200.0, tokens=100.0)), 2)
    2.0
    """
    return speed.tokens * (counts.trained / speed.training + counts.scored / speed.scoring) / 3600


def budget_rows(recipes: Mapping[str, Recipe], seeds: int, collections: Sequence[Collection]) -> list[dict[str, Any]]:
    """One row per variant: pairs and hours of all its seeds together; the speeds are the first recipe's."""
    speed = measured(next(iter(recipes.values())), collections)
    rows = []
    for variant, recipe in recipes.items():
        counts = counted(recipe, collections)
        row = {"variant": variant, "trained": seeds * counts.trained, "scored": seeds * counts.scored}
        rows.append(row | {"hours": seeds * hours(counts, speed)})
    return rows


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
