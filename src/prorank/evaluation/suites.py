"""Suites: what a benchmark's collections are, which split, which first stage, which metrics. One entry a suite.

Knows names; loads nothing. With a folder given, a suite's collections are read from `FOLDER/NAME` in BEIR layout;
without one they come from the hub or through ir_datasets, which needs a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from prorank.data.collection import holds_collection
from prorank.util.errors import DataError, InputError

P_MRR = "p_mrr"  # key of the change between two versions of a query
PUBLIC_METRICS = ("nDCG@10", "RR@10", "AP@100", "R@100", "P@1")


class Task(NamedTuple):
    """One collection of a suite.

    Attributes:
        name: in tables, and of its folder.
        source: what `load_collection` takes.
    """

    name: str
    source: str


class Suite(NamedTuple):
    """A benchmark.

    Attributes:
        title: what it is, in a few words.
        tasks: its collections; empty for `open`, which takes a folder's.
        split: whose queries are measured.
        metrics: names of ir-measures; nDCG@10 is among them, tests are made with it.
        table: key of the metric that the table shows.
        lists: rerank the collections' own candidate lists. `open` does so wherever there are any.
        depth: first-stage documents that are reranked.
        relevant_from: least grade that counts in metrics without grades.
        exclude_query_document: leave out the document of a query's own id, as BEIR does.
    """

    title: str
    tasks: tuple[Task, ...] = ()
    split: str = "test"
    metrics: tuple[str, ...] = PUBLIC_METRICS
    table: str = "ndcg@10"
    lists: bool = False
    depth: int = 100
    relevant_from: int = 1
    exclude_query_document: bool = False


def _tasks(pattern: str, names: str) -> tuple[Task, ...]:
    return tuple(Task(name, pattern.format(name)) for name in names.split())


BEIR = "trec-covid nfcorpus nq hotpotqa fiqa arguana webis-touche2020 quora dbpedia-entity scidocs fever climate-fever"
NANO = "ClimateFEVER DBPedia FEVER FiQA2018 HotpotQA MSMARCO NFCorpus NQ QuoraRetrieval SCIDOCS ArguAna SciFact"
CHINESE = "T2 MMarco Du Covid Cmedqa Ecom Medical Video"
CODE = "apps cosqa synthetic-text2sql codetrans-dl stackoverflow-qa codetrans-contest codefeedback-st codefeedback-mt"
BRIGHT = "biology earth_science economics psychology robotics stackoverflow sustainable_living leetcode pony aops"

SUITES: dict[str, Suite] = {
    "open": Suite("the collections of a folder, in BEIR layout"),
    "beir": Suite(
        "BEIR without the four that are not public and CQADupStack",
        _tasks("BeIR/{}", f"{BEIR} scifact"),
        exclude_query_document=True,
    ),
    "nano-beir": Suite(
        "NanoBEIR: fifty queries of each of BEIR's", _tasks("zeta-alpha-ai/Nano{}", f"{NANO} Touche2020"), split="train"
    ),
    "chinese": Suite("C-MTEB's retrieval", _tasks("mteb/{}Retrieval", CHINESE), split="dev"),
    "code": Suite("CoIR without CodeSearchNet", _tasks("CoIR-Retrieval/{}", CODE)),
    "bright": Suite("BRIGHT: queries that take reasoning", _tasks("bright:{}", f"{BRIGHT} theoremqa_theorems")),
    "followir": Suite(
        "FollowIR: instructions that change what is relevant",
        _tasks("followir:{}", "core17 robust04 news21"),
        metrics=("nDCG@10", "nDCG@5", "AP@1000"),
        table=P_MRR,
        lists=True,
        depth=1000,
    ),
    "trec-dl": Suite(
        "TREC Deep Learning, passages: the official lists",
        _tasks("irds-lists:msmarco-passage/{}/judged", "trec-dl-2019 trec-dl-2020"),
        metrics=("nDCG@10", "RR@10", "AP@1000", "R@100"),
        lists=True,
        relevant_from=2,
    ),
}


def suite_named(name: str) -> Suite:
    """A suite of the registry.

    Raises:
        InputError: no such suite; the hint names those that there are.

    >>> suite_named("beir").tasks[0]
    Task(name='trec-covid', source='BeIR/trec-covid')
    """
    if name not in SUITES:
        raise InputError(f"no suite '{name}'", hint=f"there are {', '.join(SUITES)}")
    return SUITES[name]


def tasks_of(name: str, folder: Path | None) -> Sequence[Task]:
    """A suite's collections: a folder's own, where one is given.

    Args:
        name: of the suite.
        folder: holds the collections, each in a folder of its own; `open` looks one level deeper too.

    Raises:
        InputError: `open` without a folder.
        DataError: the folder holds none of them; or lacks one of the suite's.
    """
    suite = suite_named(name)
    if suite.tasks:
        if folder is None:
            return suite.tasks
        missing = [task.name for task in suite.tasks if not holds_collection(folder / task.name)]
        if missing:
            raise DataError(f"{folder} lacks {', '.join(missing)} of suite '{name}'", hint="--suite open takes any")
        return [Task(task.name, str(folder / task.name)) for task in suite.tasks]
    if folder is None:
        raise InputError(f"suite '{name}' needs a folder of collections", hint="prorank evaluate MODEL FOLDER --suite")
    places = [place for place in [*folder.glob("*"), *folder.glob("*/*")] if holds_collection(place)]
    if not places:
        hint = "a collection is a folder with corpus.jsonl and qrels"
        if holds_collection(folder):
            hint = "it is one itself: leave --suite out, or give the folder that it lies in"
        raise DataError(f"{folder}: no collection in it", hint=hint)
    return [Task(place.relative_to(folder).as_posix(), str(place)) for place in sorted(places)]
