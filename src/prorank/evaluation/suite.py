"""A suite measured: every system reranks the same first-stage lists of every collection; what is done is kept.

Each collection has a folder with one folder per system (`run.trec`, `per_query.tsv`, `summary.json`), reused only while
data, settings and model files are the same; inside one, a killed process resumes. Knows collections, first
stages and systems by their face.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape

from prorank.data.collection import Collection
from prorank.data.overlap import without_query_documents
from prorank.data.runs import Qrels, Run, lists_of, without_relevant
from prorank.data.splits import load_with_split, require_relevant
from prorank.data.trec import check_ids, read_run
from prorank.engine.load import RerankerOptions
from prorank.evaluation.comparison import compared
from prorank.evaluation.html_report import Entry, collection_sections
from prorank.evaluation.judged import KEY, judged_by
from prorank.evaluation.metrics import PER_QUERY, RUN, SUMMARY, Evaluation, evaluate_run, write_evaluation
from prorank.evaluation.p_mrr import no_longer_relevant, p_mrr
from prorank.evaluation.rerank import PRIMARY, result_notes, sample_queries
from prorank.evaluation.rerank_file import JOURNAL, rerank_through, run_fingerprint
from prorank.evaluation.significance import holm, mean_of_means_interval
from prorank.evaluation.streaming import Journal, Scorer
from prorank.evaluation.suites import P_MRR, Suite, Task, suite_named, tasks_of
from prorank.evaluation.systems import Timed, check_systems, folder_names, open_system, system_files
from prorank.first_stage.cached import cached_first_stage
from prorank.util.errors import DataError
from prorank.util.files import atomic_writer, read_json
from prorank.util.live import locked
from prorank.util.provenance import hardware, versions
from prorank.util.study import Inputs, Study
from prorank.util.version import VERSION

FIRST = "BM25"
PAGE = "page.html"


class Measured(NamedTuple):
    """One system on one collection."""

    run: Run
    evaluation: Evaluation
    cost: Mapping[str, Any]  # `seconds` and `pairs`


class Systems:
    """The systems by name, each loaded when it is first needed."""

    def __init__(self, names: Sequence[str], options: RerankerOptions) -> None:
        self.folders = folder_names(names)
        check_systems(names, options)
        self.files = {name: system_files(name) for name in names}  # a mistyped name is told at once
        self._options, self._open = options, dict[str, Scorer]()

    @property
    def fingerprints(self) -> dict[str, str]:
        """Those of all systems' files."""
        return {key: value for own in self.files.values() for key, value in own.items()}

    def __getitem__(self, name: str) -> Scorer:
        if name not in self._open:
            self._open[name] = open_system(name, self._options)
        return self._open[name]


def run_suite(
    name: str,
    systems: Sequence[str],
    output: Path,
    *,
    folder: Path | None = None,
    depth: int | None = None,
    max_queries: int | None = None,
    seed: int = 13,
    options: RerankerOptions | None = None,
    console: Console,
    force: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """Measure systems on a suite.

    Args:
        name: of the suite.
        systems: names as `evaluation.systems` takes them; the first stage is measured beside them.
        output: folder of the results.
        folder: where the collections lie; None takes them from the hub.
        depth: first-stage documents that are reranked; None takes the suite's.
        max_queries: a seeded sample of each collection's queries.
        seed: of the sample, and of splits that a collection lacks.
        options: of `Reranker`.
        console: where progress goes.
        force: measure again what was made from something else; refused without.

    Returns:
        Results, and the HTML of each collection.

    Raises:
        ProrankError: what cannot be loaded or measured, or a folder with results of other data, settings or models.
    """
    suite = suite_named(name)
    tasks, opened = tasks_of(name, folder), Systems(systems, options or {})
    settings: dict[str, Any] = {"depth": depth or suite.depth, "max_queries": max_queries, "seed": seed}
    settings |= {"metrics": list(suite.metrics)}
    settings |= {key: str(value) for key, value in (options or {}).items() if value is not None}
    rows, pages = [], []
    for task in tasks:
        console.print(f"[bold]{escape(task.name)}[/bold]")
        row, page = measure_task(suite, task, opened, output, settings, console, force)
        rows.append(row)
        pages.append(page)
    adjust(rows)
    found: dict[str, Any] = {"suite": name, "title": suite.title, "table": suite.table, "systems": [FIRST, *systems]}
    found |= {"collections": rows, "means": means(rows, [FIRST, *systems], suite), "settings": settings}
    for row in rows:
        del row["values"]
    found["model_fingerprints"] = opened.fingerprints
    return found | {"versions": versions(), "hardware": hardware()}, pages


def measure_task(
    suite: Suite, task: Task, systems: Systems, output: Path, settings: Mapping[str, Any], console: Console, force: bool
) -> tuple[dict[str, Any], str]:
    """One collection: a row of results (with `values`, per query, for the means) and its part of the page."""
    loaded = load_with_split(task.source, suite.split, seed=settings["seed"])
    if suite.exclude_query_document:
        loaded = without_query_documents(loaded)
    qrels = sample_queries(loaded.judgments(suite.split), settings["max_queries"], settings["seed"])
    require_relevant(qrels, f"split '{suite.split}' of {loaded.name}", suite.relevant_from)
    if suite.table == P_MRR and not no_longer_relevant(qrels):
        hint = "their ids end in -og and -changed; --max-queries may have parted them"
        raise DataError(f"{loaded.name}: no query in both versions, so there is no p-MRR", hint=hint)
    check_ids([*qrels, *loaded.documents], loaded.name)
    listed = suite.lists or (not suite.tasks and suite.split in loaded.candidates)
    lists = cached_first_stage(loaded, suite.split, qrels, max(100, settings["depth"]), listed)
    results = {FIRST: Measured(lists, evaluate_run(lists, qrels, suite.metrics, suite.relevant_from), {})}
    for name, place in systems.folders.items():
        work = output / task.name / place
        results[name] = measure(suite, loaded, lists, qrels, systems, name, work, settings, force)
    rows = compared({name: one.evaluation for name, one in results.items()}, PRIMARY)
    for row, one in zip(rows, results.values()):
        row |= {key: one.evaluation.mean(key) for key in one.evaluation.metrics} | dict(one.cost)
        if changes := p_mrr(one.run, qrels):
            row[P_MRR] = sum(changes.values()) / len(changes)
    left_out = len(without_relevant(loaded.judgments(suite.split)))
    for note in result_notes(len(qrels), left_out, loaded.carved):
        console.print(f"[yellow]{escape(f'{task.name}: {note}')}[/yellow]", highlight=False)
    found = {"name": task.name, "split": suite.split, "queries": len(qrels), "documents": len(loaded.documents)}
    found |= {"queries_without_relevant": left_out}
    found |= {"own_lists": listed, "carved": loaded.carved.get(suite.split), "data_fingerprint": loaded.fingerprint}
    values = {name: list(one.evaluation.values(PRIMARY).values()) for name, one in results.items()}
    files = systems.fingerprints | {f"the run of {name}": run_fingerprint(one.run) for name, one in results.items()}
    files |= {"the collection": loaded.fingerprint}
    study, inputs = Study(output / task.name), Inputs({"systems": list(systems.folders), **settings}, files)
    if not study.reusable(PAGE, inputs, force=True):
        study.begin(inputs)
        entries = [Entry(row, one.run, one.evaluation.values(PRIMARY)) for row, one in zip(rows, results.values())]
        with atomic_writer(study.folder / PAGE) as file:
            file.write("\n".join(collection_sections(entries, loaded, qrels, "nDCG@10")))
        study.keep(PAGE)
    return found | {"rows": rows, "values": values}, (study.folder / PAGE).read_text(encoding="utf-8")


def measure(
    suite: Suite,
    collection: Collection,
    lists: Run,
    qrels: Qrels,
    systems: Systems,
    name: str,
    work: Path,
    settings: Mapping[str, Any],
    force: bool,
) -> Measured:
    """One system on one collection, read back where it is done."""
    study = Study(work)
    files = systems.files[name] | {"the first stage": run_fingerprint(lists), "the collection": collection.fingerprint}
    inputs = Inputs({"system": name, **settings}, files)
    with locked(work):
        if not all(study.reusable(product, inputs, force) for product in (SUMMARY, RUN)):
            if not study.file.is_file() or study.differences(inputs):
                study.begin(inputs)
            made_from = {"prorank": VERSION, **inputs.settings, **files}
            journal = Journal(work / JOURNAL, made_from, force)
            scorer, title = Timed(systems[name]), f"{collection.name}: {name}"
            run = rerank_through(journal, scorer, collection, lists, settings["depth"], title)
            evaluation = evaluate_run(run, qrels, suite.metrics, suite.relevant_from)
            cost = {"seconds": scorer.seconds, "pairs": scorer.pairs}  # of this process alone
            judged = judged_by(collection, suite.split, suite.relevant_from, suite.exclude_query_document)
            write_evaluation(work, run, evaluation, {"system": name, **cost, KEY: judged}, force=True)
            journal.discard()
            study.keep(RUN, PER_QUERY, SUMMARY)
    run = lists_of(read_run(work / RUN), lists)
    evaluation = evaluate_run(run, qrels, suite.metrics, suite.relevant_from)  # the table of metrics is rounded
    cost = {key: value for key, value in read_json(work / SUMMARY).items() if key in ("seconds", "pairs")}
    return Measured(run, evaluation, cost)


def adjust(rows: Sequence[Mapping[str, Any]]) -> None:
    """Add `p_value_suite`: the randomisation test's p adjusted by Holm for all systems and collections together."""
    others = [row["versus_first"] for found in rows for row in found["rows"] if "versus_first" in row]
    for other, p in zip(others, holm([other["p_value"] for other in others])):
        other["p_value_suite"] = p


def means(rows: Sequence[Mapping[str, Any]], names: Sequence[str], suite: Suite) -> list[dict[str, Any]]:
    """Each system's mean over the collections, with intervals: of itself, and of the difference from the first."""
    found = []
    for place, name in enumerate(names):
        own = [row["values"][name] for row in rows]
        first = [row["values"][names[0]] for row in rows]
        apart = [[a - b for a, b in zip(x, y)] for x, y in zip(own, first)]
        mean = {key: sum(row["rows"][place][key] for row in rows) / len(rows) for key in (PRIMARY, suite.table)}
        one: dict[str, Any] = {"name": name, **mean, f"{PRIMARY}_interval": mean_of_means_interval(own)}
        if place:
            one["difference"] = sum(sum(group) / len(group) for group in apart) / len(apart)
            one["difference_interval"] = mean_of_means_interval(apart)
            pairs = sum(row["rows"][place].get("pairs", 0) for row in rows)
            seconds = sum(row["rows"][place].get("seconds", 0.0) for row in rows)
            one["seconds_per_100_documents"] = 100 * seconds / pairs if pairs else None
        found.append(one)
    return found
