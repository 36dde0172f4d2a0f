"""What a run works on: its collection or union with splits, first-stage lists, and the queries that are measured.

Knows recipes, collections and first stages; nothing of models or training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from prorank.collection import Collection, Qrels, Run, read_run, write_run
from prorank.evaluation.stages import carved_sentence, sample_queries
from prorank.retrieval import BM25Index, bm25_run, candidate_run, dense_run
from prorank.study import Study
from prorank.training import processes
from prorank.training.inputs import load_collections
from prorank.training.recipe import Recipe
from prorank.training.splits import run_splits
from prorank.training.union import Member, named, united

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
class Setting:
    """What every step of a run needs."""

    recipe: Recipe
    folder: Path
    collection: Collection
    first_stage: Run
    console: Console
    log_to: tuple[str, ...] = ()
    members: tuple[Member, ...] = ()  # of a union; one collection is a union of one
    trust_remote_code: bool = False  # the user's word, never the recipe's
    leakage: dict[str, Any] = field(default_factory=dict)  # see `splits.sound`

    def __post_init__(self) -> None:
        self.members = self.members or (Member(self.collection, self.first_stage, 1.0),)

    @property
    def study(self) -> Study:
        """The run's finished products."""
        return Study(self.folder)

    def weights(self) -> list[float]:
        """How often each member's items come."""
        return [member.weight for member in self.members]

    def texts(self) -> Mapping[str, str]:
        """Document id -> the text that the model reads, joined when it is asked for."""
        return Texts(self.collection)


def prepare_data(
    recipe: Recipe,
    folder: Path,
    console: Console,
    log_to: Sequence[str] = (),
    collections: Sequence[Collection] | None = None,
) -> Setting:
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
    parts = [named(collection) for collection in loaded] if data.union else loaded
    study, saved = Study(folder), folder / "first_stage.run"

    def search() -> None:
        if not study.has(saved.name):
            run = {query: listed for part in parts for query, listed in first_stage(recipe, part).items()}
            write_run(run, saved, tag=recipe.first_stage.method)
            study.keep(saved.name)

    processes.first_only(search)
    run = read_run(saved)
    if not data.union:
        return Setting(recipe, folder, parts[0], run, console, tuple(log_to), leakage=leakage)
    members = tuple(
        Member(part, {query: listed for query, listed in run.items() if query in part.queries}, one.weight)
        for part, one in zip(parts, data.union)
    )
    return Setting(recipe, folder, united(parts), run, console, tuple(log_to), members, leakage=leakage)


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


def test_qrels(setting: Setting) -> Qrels:
    """Judgments of the test queries that are measured (all, or the recipe's seeded sample of each collection)."""
    return sampled(setting, setting.recipe.data.test, setting.recipe.evaluation.max_queries)


def dev_qrels(setting: Setting) -> Qrels:
    """Judgments of the dev queries, at most `DEV_QUERIES` (the hybrid's weight is tuned on them)."""
    return sampled(
        setting, setting.recipe.data.dev, min(DEV_QUERIES, setting.recipe.evaluation.max_queries or DEV_QUERIES)
    )


def sampled(setting: Setting, split: str, count: int | None) -> Qrels:
    """At most `count` queries of a split, of each of a union's collections."""
    found: Qrels = {}
    for member in setting.members:
        found |= sample_queries(member.collection.judgments(split), count, setting.recipe.seed)
    return found
