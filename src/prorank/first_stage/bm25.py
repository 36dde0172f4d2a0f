"""BM25 over a collection: build, search, save, load. Knows terms and documents; nothing of models."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from prorank.data.collection import Collection, Document, documents_fingerprint
from prorank.data.runs import Qrels, Run, ranked, tell_unlisted
from prorank.first_stage.terms import bm25s_library, detect_language, term_numbers
from prorank.types import Language
from prorank.util.errors import DataError
from prorank.util.files import read_json, refuse_folder_overwrite, write_json

_SETTINGS = "prorank_index.json"
HEADING = 100  # characters of a document that an index keeps to show what was found


def best_documents(ids: list[str], scores: np.ndarray, top_k: int, above: float = -np.inf) -> dict[str, float]:
    """The `top_k` highest of scores (N,), best first, ties by id also where the cut falls.

    The work beyond one look at every score grows with `top_k` and with the documents that tie where the cut falls.

    Args:
        ids: (N,) document ids.
        scores: (N,).
        top_k: documents wanted.
        above: scores that are not higher than this are no hits.

    >>> best_documents(["c", "b", "a"], np.array([1.0, 2.0, 1.0]), 2)
    {'b': 2.0, 'a': 1.0}
    >>> best_documents(["b", "a"], np.array([0.0, 1.0]), 2, above=0.0)
    {'a': 1.0}
    """
    hits = np.flatnonzero(scores > above)
    count = min(top_k, len(hits))
    if count == 0:
        return {}
    bar = np.partition(scores[hits], -count)[-count]
    found = {ids[i]: float(scores[i]) for i in np.flatnonzero(scores > bar)}
    tied = heapq.nsmallest(count - len(found), (ids[i] for i in np.flatnonzero(scores == bar)))
    return dict(ranked(found | dict.fromkeys(tied, float(bar))))


def _heading(text: str) -> str:
    """A title, or how a text begins, with an ellipsis where it is cut."""
    return text if len(text) <= HEADING else f"{text[: HEADING - 1].rstrip()}…"


class BM25Index:
    """A BM25 index over documents (Lucene's variant, as bm25s computes it).

    Make one with `build` or `load`.
    """

    def __init__(
        self,
        engine: Any,
        ids: list[str],
        vocabulary: dict[str, int],
        language: Language,
        headings: dict[str, str],
        fingerprint: str,
    ) -> None:
        self._engine, self._ids, self.language = engine, ids, language
        self._numbers = term_numbers(language, vocabulary)
        self.headings = headings  # document id -> its title or first words
        self.fingerprint = fingerprint  # of the documents
        self._rows = {document: i for i, document in enumerate(ids)}

    @classmethod
    def build(
        cls,
        documents: Mapping[str, Document],
        language: Language | Literal["auto"] = "auto",
        k1: float = 0.9,
        b: float = 0.4,
    ) -> BM25Index:
        """Index title and text of all documents.

        Args:
            documents: by id.
            language: tokenisation; `auto` looks at the scripts.
            k1, b: BM25's parameters; .9 and .4 are those of the published BEIR baselines (Anserini).

        Raises:
            DataError: no document has a single term.
            MissingExtraError: bm25s or PyStemmer is not installed.
        """
        chosen = detect_language(d.content for d in documents.values()) if language == "auto" else language
        numbers = term_numbers(chosen)
        texts = [document.content for document in documents.values()]
        corpus = numbers.tokenize(texts, update_vocab=True, allow_empty=False, show_progress=False)
        vocabulary = numbers.get_vocab_dict()
        if not vocabulary:
            raise DataError("the documents hold no words to index")
        engine = bm25s_library().BM25(method="lucene", k1=k1, b=b)
        engine.index((corpus, vocabulary), show_progress=False, create_empty_token=False)
        headings = {d.id: _heading(d.title or d.text) for d in documents.values()}
        return cls(engine, list(documents), vocabulary, chosen, headings, documents_fingerprint(documents))

    def search(self, queries: Mapping[str, str], top_k: int = 100, progress: bool = False) -> Run:
        """Best documents of each query, score above 0 only, ties by document id.

        Args:
            queries: id -> text.
            top_k: documents per query.
            progress: show a bar.

        Returns:
            Run in the order of `queries`; a query that shares no term with any document has an empty list.
        """
        from rich.console import Console
        from rich.progress import track

        run: Run = {}
        for query, text in track(
            queries.items(), "first stage", disable=not progress, transient=True, console=Console(stderr=True)
        ):
            run[query] = self._search_one(text, top_k)
        return run

    def _known_terms(self, text: str) -> list[int]:
        """Numbers of those of a text's terms that the index holds."""
        (found,) = self._numbers.tokenize([text], update_vocab=False, allow_empty=False, show_progress=False)
        return list(found)

    def _search_one(self, text: str, top_k: int) -> dict[str, float]:
        terms = self._known_terms(text)
        if not terms:
            return {}
        scores = np.asarray(self._engine.get_scores_from_ids(terms), dtype=np.float32)  # (N,)
        return best_documents(self._ids, scores, top_k, above=0.0)

    def scores(self, query: str, document_ids: Sequence[str]) -> dict[str, float]:
        """BM25 scores of given documents, 0 where no term is shared.

        Raises:
            DataError: a document is not in the index.
        """
        unknown = next((document for document in document_ids if document not in self._rows), None)
        if unknown is not None:
            raise DataError(f"document '{unknown}' is not in the index")
        terms = self._known_terms(query)
        if not terms:
            return dict.fromkeys(document_ids, 0.0)
        scores = self._engine.get_scores_from_ids(terms)
        return {document: float(scores[self._rows[document]]) for document in document_ids}

    def save(self, folder: str | Path, force: bool = False) -> None:
        """Write the index to a folder.

        Raises:
            ProrankError: the folder is taken and `force` is not set.
        """
        refuse_folder_overwrite(folder, force)
        (Path(folder) / _SETTINGS).unlink(missing_ok=True)  # written last: without it a folder is no index
        self._engine.save(str(folder))
        vocabulary = list(self._numbers.get_vocab_dict())
        settings: dict[str, Any] = {"ids": self._ids, "vocabulary": vocabulary, "language": self.language}
        settings |= {"headings": [self.headings[d] for d in self._ids], "fingerprint": self.fingerprint}
        write_json(Path(folder) / _SETTINGS, settings)

    @classmethod
    def load(cls, folder: str | Path) -> BM25Index:
        """Read an index that `save` wrote.

        Raises:
            DataError: the folder holds no such index, or a damaged one. Nothing is ever unpickled.
        """
        if not (Path(folder) / _SETTINGS).is_file():
            raise DataError(f"{folder} holds no index", hint="make one with `prorank index COLLECTION --output DIR`")
        settings = read_json(Path(folder) / _SETTINGS)
        if isinstance(settings, dict) and "fingerprint" not in settings:
            raise DataError(f"{folder}: the index does not say which documents it was made of", hint="make it again")
        try:
            engine = bm25s_library().BM25.load(str(folder), load_corpus=False, allow_pickle=False)
            vocabulary = {term: i for i, term in enumerate(settings["vocabulary"])}
            ids, language = settings["ids"], settings["language"]
            if len(ids) != engine.scores["num_docs"]:
                raise ValueError(f"{len(ids)} ids for {engine.scores['num_docs']} documents")
            headings, fingerprint = dict(zip(ids, settings["headings"])), str(settings["fingerprint"])
        except (OSError, EOFError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{folder}: the index is damaged: {error}", hint="make it again") from error
        return cls(engine, ids, vocabulary, language, headings, fingerprint)

    def check_collection(self, collection: Collection) -> None:
        """Refuse a collection whose documents are not those that were indexed.

        Raises:
            DataError: a text or id differs, or the order.
        """
        if documents_fingerprint(collection.documents) != self.fingerprint:
            raise DataError(
                f"the index was made of {len(self._ids)} other documents than {collection.name} holds now "
                f"({len(collection.documents)})",
                hint="index the collection again: prorank index COLLECTION --output DIR",
            )


def bm25_run(index: BM25Index, collection: Collection, queries: Mapping[str, str], top_k: int) -> Run:
    """BM25's first `top_k` documents of each query, those that the collection excludes for it left out."""
    found = index.search(queries, top_k=top_k + most_excluded(collection, queries), progress=True)
    return without_excluded(found, collection, top_k)


def most_excluded(collection: Collection, queries: Iterable[str]) -> int:
    """The most documents that the collection excludes for one of these queries."""
    return max((len(collection.excluded.get(query, [])) for query in queries), default=0)


def without_excluded(run: Run, collection: Collection, top_k: int | None = None) -> Run:
    """The run without what the collection excludes for a query, at most `top_k` documents each."""
    left: Run = {}
    for query, listed in run.items():
        excluded = set(collection.excluded.get(query, []))
        kept = [document for document in listed if document not in excluded]
        left[query] = {document: listed[document] for document in kept[:top_k]}
    return left


def own_lists(collection: Collection, split: str) -> dict[str, list[str]]:
    """The collection's own candidate lists of a split by query.

    Raises:
        DataError: there are none.
    """
    if split not in collection.candidates:
        raise DataError(
            f"{collection.name} has no candidates for split '{split}'",
            hint="without --candidates BM25 makes the lists; in a recipe: first_stage.method=bm25",
        )
    return collection.candidates[split]


def tell_no_candidates(collection: Collection, split: str, judged: Qrels) -> None:
    """Warn of judged queries that a split's own candidate lists leave out.

    Raises:
        DataError: there are no lists, or none of these queries.
    """
    name, hint = f"candidates/{split}.tsv of {collection.name}", "are its query ids those of the judgments?"
    tell_unlisted(name, own_lists(collection, split), judged, "they score 0", hint)


def candidate_run(collection: Collection, *splits: str) -> Run:
    """The collection's own candidate lists of some splits, scored by BM25 over its corpus (0: no term is shared).

    Raises:
        DataError: the collection has no candidates for a split.
    """
    lists = {query: listed for split in splits for query, listed in own_lists(collection, split).items()}
    index = BM25Index.build(collection.documents)
    run = {query: index.scores(collection.queries[query], documents) for query, documents in lists.items()}
    return without_excluded(run, collection)
