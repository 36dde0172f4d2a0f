"""Graded candidate lists for ERank: documents by tier, a teacher's grades, the generation nearest the mean.

Every answer of the teacher is written down at once, so nothing is asked twice and a killed run can be resumed. Source:
ERank, arXiv 2509.00520, section 3.2 and appendix C. Knows collections, candidate lists and teachers;
nothing of training.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from rich.console import Console
from rich.progress import Progress

from prorank.data.collection import Collection
from prorank.data.splits import load_with_split, require_relevant
from prorank.erank.graders import Generation, Task, Teacher
from prorank.evaluation.rerank import sample_queries
from prorank.first_stage.bm25 import BM25Index, bm25_run
from prorank.recipe.sections import Quotas
from prorank.training.lists import CandidateList, build_candidate_lists
from prorank.util.errors import DataError
from prorank.util.files import atomic_writer, json_line, parse_json, text_lines
from prorank.util.live import locked
from prorank.util.provenance import fingerprint
from prorank.util.texts import surrogate

LONGEST = 2_048  # tokens of a generation that is kept
CHUNK = 8  # queries whose tasks are handed to the teacher together


class GradedDocument(NamedTuple):
    """A document of a query's list: the teacher's grade 0..10, whether it is judged relevant, what the teacher said."""

    id: str
    grade: int
    relevant: bool
    text: str


GradedLists = dict[str, list[GradedDocument]]  # query id -> its list


def consensus(generations: Sequence[Generation]) -> Generation | None:
    """The generation whose grade is nearest the mean grade; None where none held a grade. Ties take the first.

    >>> consensus([Generation(2), Generation(9), Generation(8), Generation(None)]).grade
    8
    """
    graded = [generation for generation in generations if generation.grade is not None]
    if not graded:
        return None
    mean = sum(generation.grade or 0 for generation in graded) / len(graded)
    return min(graded, key=lambda generation: abs((generation.grade or 0) - mean))


class Cache:
    """Answers of a teacher in a file, one per line; a line cut off by a kill is passed over.

    Args:
        path: JSON Lines file; made where it is missing.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.known: dict[str, Generation] = {}
        whole = 0
        if path.is_file():
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if not line.endswith(b"\n"):
                        break
                    try:
                        row = json.loads(line)
                        self.known[row["key"]] = Generation(row["grade"], row["text"], row["tokens"])
                    except (ValueError, KeyError, TypeError) as error:
                        raise DataError(f"{path}:{number}: not an answer: {error}", hint="delete the line") from error
                    whole += len(line)
            os.truncate(path, whole)
        self.file: IO[str] = path.open("a", encoding="utf-8")

    def add(self, key: str, generation: Generation) -> None:
        """Write an answer down; it is on the disk when this returns."""
        self.known[key] = generation
        self.file.write(json_line({"key": key, **generation._asdict()}))
        self.file.flush()
        os.fsync(self.file.fileno())


def cache_file(output: Path) -> Path:
    """Where the answers are kept that graded lists are made of.

    >>> cache_file(Path("grades.jsonl")).name
    'grades.cache.jsonl'
    """
    return output.with_suffix(".cache.jsonl")


def kept_answers(output: Path) -> list[str]:
    """How many answers are kept for the graded lists of a file, as one item; none at all gives an empty list."""
    file = cache_file(output)
    count = file.read_bytes().count(b"\n") if file.is_file() else 0
    return [f"{count} answers in {file}"] if count else []


def key_of(teacher: Teacher, task: Task, beside: str = "") -> str:
    """What a cached answer is found by: all that it depends on.

    Args:
        teacher: its model, prompt and settings.
        task: texts and judgment, and which generation this is.
        beside: fingerprint of the query's whole list, where the grade depends on it.
    """
    return fingerprint(json.dumps([teacher.key, *task[2:], beside]))


def keys_of(teacher: Teacher, tasks: Iterable[Task]) -> dict[Task, str]:
    """The key of each task; with a teacher of whole lists, all of a list's change when the list does."""
    lists: dict[str, list[Task]] = {}
    for task in tasks:
        lists.setdefault(task.query_id, []).append(task)
    keys: dict[Task, str] = {}
    for own in lists.values():
        beside = fingerprint(json.dumps([task[2:] for task in own])) if teacher.whole_lists else ""
        keys |= {task: key_of(teacher, task, beside) for task in own}
    return keys


def tasks_of(
    collection: Collection, candidates: Sequence[CandidateList], generations: int
) -> Iterator[list[list[Task]]]:
    """Tasks by query and document, some queries at a time; a query's candidate lists are joined without repetitions."""
    lists: dict[str, dict[str, int]] = {}
    for one in candidates:
        for document, label in zip(one.documents, one.labels):
            known = lists.setdefault(one.query_id, {})
            known[document] = max(label, known.get(document, 0))
    queries = list(lists)
    for start in range(0, len(queries), CHUNK):
        yield [
            [
                Task(query, d, collection.queries[query], collection.documents[d].content, label, number)
                for number in range(generations)
            ]
            for query in queries[start : start + CHUNK]
            for d, label in lists[query].items()
        ]


def graded_candidates(
    source: str, split: str, queries: int | None, quotas: Mapping[str, int], seed: int
) -> tuple[Collection, list[CandidateList]]:
    """A collection, and candidate lists of a split's queries by BM25's tiers.

    Args:
        source: folder, bundled name or hub data set.
        split: whose queries.
        queries: a seeded sample of them; None takes all.
        quotas: documents by tier besides a relevant one.
        seed: of the draw and of splits that are made.
    """
    loaded = load_with_split(source, split, seed=seed)
    qrels = sample_queries(loaded.judgments(split), queries, seed)
    require_relevant(qrels, f"split '{split}' of {loaded.name}")
    index = BM25Index.build(loaded.documents)
    run = bm25_run(index, loaded, {query: loaded.queries[query] for query in qrels}, top_k=1000)
    return loaded, build_candidate_lists(loaded, qrels, run, Quotas(**quotas, random=0), seed)


def synthesize(
    collection: Collection, candidates: Sequence[CandidateList], teacher: Teacher, output: Path, console: Console
) -> dict[str, float]:
    """Grade the candidates and write one JSON line per query.

    Args:
        collection: texts.
        candidates: lists whose documents are graded.
        teacher: who grades.
        output: JSON Lines to write: `query_id`, `documents` of `id`, `grade`, `relevant`, `text`. The teacher's answers
            are kept beside it, in `.cache.jsonl`.
        console: where progress goes.

    Returns:
        Statistics: `queries`, `documents`, `asked`, `malformed` and `dropped` (too long, or no generation with a grade)
        counts, `mean_grade_relevant` and `mean_grade_other` where there are such documents.

    Raises:
        ProrankError: another process grades into the same file.
        DataError: the teacher gave no usable grade at all.
    """
    with locked(output.parent, output.name):
        return _graded(collection, candidates, teacher, output, console)


def _graded(
    collection: Collection, candidates: Sequence[CandidateList], teacher: Teacher, output: Path, console: Console
) -> dict[str, float]:
    cache = Cache(cache_file(output))
    lists: GradedLists = {}
    asked = malformed = dropped = 0
    kept, used = set(cache.known), set[str]()
    with Progress(console=console, transient=True) as bar:
        total = len({(one.query_id, document) for one in candidates for document in one.documents})
        line = bar.add_task("grade", total=total)
        for documents in tasks_of(collection, candidates, teacher.generations):
            keys = keys_of(teacher, (task for tasks in documents for task in tasks))
            used.update(keys.values())
            new = {task for task, key in keys.items() if key not in cache.known}
            if teacher.whole_lists:
                queries = {task.query_id for task in new}
                new = {task for task in keys if task.query_id in queries}
            wanted = [task for task in keys if task in new]
            for task, generation in teacher.ask(wanted) if wanted else ():
                cache.add(keys[task], generation)
                asked += 1
            for tasks in documents:
                answers = [cache.known[keys[task]] for task in tasks]
                malformed += sum(generation.grade is None for generation in answers)
                chosen = consensus(answers)
                if chosen is None or chosen.grade is None or chosen.tokens > LONGEST:
                    dropped += 1
                    continue
                graded = GradedDocument(tasks[0].document_id, chosen.grade, tasks[0].label > 0, chosen.text)
                lists.setdefault(tasks[0].query_id, []).append(graded)
            bar.advance(line, len(documents))
    if not lists:
        raise DataError(
            f"the teacher gave no usable grade: {malformed} answers without one, {dropped} documents dropped",
            hint=f"look at its answers in {cache_file(output)}",
        )
    write_graded(lists, output)
    if other := len(kept - used):
        console.print(f"  {other} kept answers are to other texts or from another teacher, and were not used")
    everything = [document for documents in lists.values() for document in documents]

    def mean(relevant: bool) -> dict[str, float]:
        grades = [document.grade for document in everything if document.relevant == relevant]
        name = "mean_grade_relevant" if relevant else "mean_grade_other"
        return {name: sum(grades) / len(grades)} if grades else {}

    return {
        "queries": len(lists),
        "documents": len(everything),
        "asked": asked,
        "malformed": malformed,
        "dropped": dropped,
        **mean(True),
        **mean(False),
    }


def write_graded(lists: Mapping[str, Sequence[GradedDocument]], path: Path) -> None:
    """Write graded lists, one JSON line per query, whole or not at all."""
    with atomic_writer(path) as file:
        for query, documents in lists.items():
            row = {"query_id": query, "documents": [document._asdict() for document in documents]}
            file.write(json_line(row))


def read_graded(path: Path, collection: Collection) -> GradedLists:
    """Read what `write_graded` wrote.

    Raises:
        DataError: a malformed line, a grade outside 0..10, an id that the collection lacks, or a query twice; with the
            line.
    """
    lists: GradedLists = {}
    for number, line in text_lines(path):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        query, documents = _graded_list(parse_json(line, str(path), number), place)
        if query in lists:
            raise DataError(f"{place}: a second list for query '{query}'")
        for document in documents:
            if query not in collection.queries or document.id not in collection.documents:
                raise DataError(f"{place}: '{query}' or '{document.id}' is not in {collection.name}")
            if type(document.grade) is not int or not 0 <= document.grade <= 10:
                raise DataError(f"{place}: the grade of '{document.id}' is {document.grade!r}, not 0..10")
        lists[query] = documents
    return lists


def _graded_list(row: Any, place: str) -> tuple[str, list[GradedDocument]]:
    try:
        query, documents = row["query_id"], [GradedDocument(**document) for document in row["documents"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{place}: not a graded list: {error}") from error
    for text in (query, *(part for document in documents for part in (document.id, document.text))):
        if not isinstance(text, str) or surrogate(text):
            raise DataError(f"{place}: not a graded list: ids and texts must be whole strings, got {text!r}")
    return query, documents
