"""What a run works on: its collection or union with splits, first-stage lists, and the queries that are measured.

Knows recipes, collections and first stages; nothing of models.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console

from prorank.data.collection import Collection
from prorank.data.runs import Qrels, Run, lists_of
from prorank.data.trec import read_run, write_run
from prorank.data.union import Subset, merge, with_prefixed_ids, without
from prorank.evaluation.judged import KEY, judged_by
from prorank.evaluation.metrics import Evaluation, evaluate_run
from prorank.evaluation.rerank import carved_sentence, sample_queries
from prorank.first_stage.bm25 import BM25Index, bm25_run, candidate_run
from prorank.first_stage.dense import dense_run
from prorank.recipe.sections import Recipe
from prorank.training import distributed
from prorank.training.inputs import load_collections
from prorank.training.splits import own_candidates, run_splits
from prorank.util.study import Study
from prorank.util.texts import plain

logger = logging.getLogger(__name__)
DEV_QUERIES = 200  # at most, of each collection, where a weight is tuned


class Texts(Mapping[str, str]):
    """Document id -> content of a collection's documents; nothing is copied.

    Args:
        collection: whose documents.
    """

    def __init__(self, collection: Collection) -> None:
        self.documents = collection.documents

    def __getitem__(self, document: str) -> str:
        return self.documents[document].content

    def __iter__(self) -> Iterator[str]:
        return iter(self.documents)

    def __len__(self) -> int:
        return len(self.documents)


@dataclass
class RunContext:
    """What every step of a run needs."""

    recipe: Recipe
    folder: Path
    collection: Collection
    first_stage: Run
    console: Console
    log_to: tuple[str, ...] = ()
    subsets: tuple[Subset, ...] = ()  # of a union; one collection is a union of one
    trust_remote_code: bool = False  # the user's word, never the recipe's
    leakage: dict[str, Any] = field(default_factory=dict)  # see `splits.sound`

    def __post_init__(self) -> None:
        self.subsets = self.subsets or (Subset(self.collection, self.first_stage, 1.0),)

    @property
    def study(self) -> Study:
        """The run's finished products."""
        return Study(self.folder)

    @cached_property
    def first_stage_evaluation(self) -> Evaluation:
        """Metrics of the first stage alone, on the test queries that are measured."""
        qrels = test_qrels(self)
        return evaluate_run(lists_of(self.first_stage, qrels), qrels)

    def judgments(self) -> dict[str, Any]:
        """What the measured queries are judged by, as results keep it beside their metrics."""
        data = self.recipe.data
        excluded = data.exclude_query_document
        return {KEY: judged_by(self.collection, data.test, exclude_query_document=excluded)}

    def weights(self) -> list[float]:
        """How often each subset's items come."""
        return [subset.weight for subset in self.subsets]

    def texts(self) -> Mapping[str, str]:
        """Document id -> the text that the model reads, joined when it is asked for."""
        return Texts(self.collection)


def prepare_data(
    recipe: Recipe,
    folder: Path,
    console: Console,
    log_to: Sequence[str] = (),
    collections: Sequence[Collection] | None = None,
) -> RunContext:
    """Collections with splits, and the first-stage run of all their queries.

    Args:
        recipe: what to do.
        folder: of the run; `run.prepare_folder` has made it.
        console: where to print.
        log_to: where training logs go besides console and `log.json`.
        collections: the recipe's, where they are read already.
    """
    data = recipe.data
    loaded, leakage = run_splits(recipe, load_collections(recipe) if collections is None else collections)
    for collection in loaded:
        for problem in collection.problems[:3]:
            console.print(f"  [yellow]{problem}[/yellow]")
        if len(collection.problems) > 3:
            more = len(collection.problems) - 3
            console.print(f"  [yellow]... and {more} more; see `prorank data check`[/yellow]")
        splits = {name: len(collection.judgments(name)) for name in (data.train, data.dev, data.test)}
        console.print(f"[bold]{collection.name}[/bold]: {len(collection.documents)} documents, queries {splits}")
        if collection.carved:
            console.print(f"  [yellow]{carved_sentence(collection.carved)}[/yellow]")
    if leakage["queries"]:
        done = "dropped" if leakage["rule"] == "drop" else "trained on all the same"
        console.print(f"  [yellow]{leakage['queries']} training queries stand in dev or test too: {done}[/yellow]")
    parts = [with_prefixed_ids(collection) for collection in loaded] if data.union else loaded
    study, saved = Study(folder), folder / "first_stage.run"

    def search() -> None:
        for part in parts:
            tell_bm25_lists(recipe, part)
        if not study.has(saved.name):
            run = {query: listed for part in parts for query, listed in first_stage(recipe, part).items()}
            write_run(run, saved, tag=recipe.first_stage.method)
            study.keep(saved.name)

    distributed.run_on_main(search)
    run = read_run(saved)
    if not data.union:
        return RunContext(recipe, folder, parts[0], run, console, tuple(log_to), leakage=leakage)
    subsets = tuple(
        Subset(part, {query: listed for query, listed in run.items() if query in part.queries}, one.weight)
        for part, one in zip(parts, data.union)
    )
    return RunContext(recipe, folder, merge(parts), run, console, tuple(log_to), subsets, leakage=leakage)


def first_stage(recipe: Recipe, collection: Collection) -> Run:
    """Candidate lists of all judged queries, by the recipe's method."""
    section = recipe.first_stage
    splits = (recipe.data.train, recipe.data.dev, recipe.data.test)
    wanted = {q: collection.queries[q] for split in splits for q in collection.judgments(split)}
    if section.method == "dense":
        return dense_run(section.dense_model, collection, wanted, top_k=section.depth)
    index = BM25Index.build(collection.documents, language=section.language)
    run = bm25_run(index, collection, wanted, section.depth)
    if section.method == "candidates":
        run |= candidate_run(collection, *(split for split in splits if split in collection.candidates))
    return run


def tell_bm25_lists(recipe: Recipe, collection: Collection) -> None:
    """Where the recipe takes the collection's own candidate lists, warn of queries whose lists BM25 makes."""
    if recipe.first_stage.method != "candidates":
        return
    listed = own_candidates(recipe, collection)
    for split in (recipe.data.train, recipe.data.dev, recipe.data.test):
        judged = collection.judgments(split)
        lacking = sum(query not in listed for query in judged)
        if lacking:
            text = "%s: %d of %d queries of split '%s' have no candidates; BM25 makes their lists"
            logger.warning(text, collection.name, lacking, len(judged), split)


def first_stage_name(context: RunContext) -> str:
    """What made the lists of the measured test queries."""
    method = context.recipe.first_stage.method
    if method != "candidates":
        return {"bm25": "BM25", "dense": "dense"}[method]
    listed = set().union(*(own_candidates(context.recipe, subset.collection) for subset in context.subsets))
    measured = test_qrels(context)
    lacking = sum(query not in listed for query in measured)
    if lacking == len(measured):
        return "BM25"
    return "candidates (BM25)" + f", {lacking} lists of BM25" * bool(lacking)


def test_qrels(context: RunContext) -> Qrels:
    """Judgments of the test queries that are measured (all, or the recipe's seeded sample of each collection)."""
    return sampled(context, context.recipe.data.test, context.recipe.evaluation.max_queries)


def dev_qrels(context: RunContext) -> Qrels:
    """Judgments of the dev queries, at most `DEV_QUERIES` (the hybrid's weight is tuned on them)."""
    return sampled(
        context, context.recipe.data.dev, min(DEV_QUERIES, context.recipe.evaluation.max_queries or DEV_QUERIES)
    )


def sampled(context: RunContext, split: str, count: int | None) -> Qrels:
    """At most `count` queries of a split, of each of a union's collections."""
    found: Qrels = {}
    own = context.recipe.evaluation.seed
    for subset in context.subsets:
        found |= sample_queries(subset.collection.judgments(split), count, context.recipe.seed if own is None else own)
    return found


def training_subsets(context: RunContext) -> tuple[Subset, ...]:
    """What is trained on: everything, or everything but dev's and test's queries and the documents they look for.

    Held out are texts, not ids: a copy of a held document or query, in whichever collection, is gone too.
    """
    data = context.recipe.data
    if not data.hold_out_documents:
        return context.subsets
    documents, queries = set(), set()
    for subset in context.subsets:
        for split in (data.dev, data.test):
            for query, judged in subset.collection.judgments(split).items():
                queries.add(plain(subset.collection.queries[query]))
                documents |= {plain(subset.collection.documents[d].content) for d, grade in judged.items() if grade > 0}
    return tuple(
        without(
            subset,
            {d for d, document in subset.collection.documents.items() if plain(document.content) in documents},
            {query for query, text in subset.collection.queries.items() if plain(text) in queries},
            data.train,
        )
        for subset in context.subsets
    )
