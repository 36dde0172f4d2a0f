"""First stage: BM25 (bm25s) for English, Chinese, Japanese, Thai and the rest, and dense retrieval.

Knows documents and queries; knows nothing of rerankers or training.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from prorank.collection import Collection, Document, Run, ranked
from prorank.errors import CheckpointError, DataError, require
from prorank.files import read_json, refuse_overwrite, write_json

Language = Literal["en", "zh", "ja", "th", "other"]
_SETTINGS = "prorank_index.json"
HEADING = 100  # characters of a document that an index keeps to show what was found

_HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_KANA = "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_THAI = "\u0e00-\u0e7f"
# Runs of scripts written without spaces, or words; marks (vowel signs of Hindi, say) belong to their word.
_LETTER = rf"[^\W_{_HAN}{_KANA}{_THAI}]"
# Joiners, and all combining marks of the basic plane but those of Thai and kana, which have runs of their own.
_MARKS = "\u200c\u200d" + "".join(
    chr(code)
    for code in range(0x300, 0x10000)
    if unicodedata.category(chr(code)).startswith("M") and not re.match(f"[{_KANA}{_THAI}]", chr(code))
)
_TOKEN = re.compile(rf"[{_HAN}{_KANA}]+|[{_THAI}]+|{_LETTER}(?:{_LETTER}|[{_MARKS}])*")
_POSSESSIVE = re.compile(r"['\u2019]s\b")
_UNSPACED = re.compile(rf"[{_HAN}{_KANA}{_THAI}]")
_SCRIPTS: dict[Language, re.Pattern[str]] = {
    "ja": re.compile(f"[{_KANA}]"),
    "zh": re.compile(f"[{_HAN}]"),
    "th": re.compile(f"[{_THAI}]"),
    "en": re.compile("[A-Za-z]"),
}
# Lucene's classic English stop list.
STOPWORDS = frozenset(
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these "
    "they this to was will with".split()
)


def detect_language(texts: Iterable[str]) -> Language:
    """Language for tokenisation by the scripts of the first 200 texts.

    Any kana above 5 % of the letters means Japanese, else the script with the largest share decides: Han is
    Chinese, Thai is Thai, Latin is taken for English (its stemmer does little harm to others; say
    `language="other"` to switch it off), anything else is `other`.

    >>> detect_language(["これは日本語です"]), detect_language(["a cat"]), detect_language(["кошка"])
    ('ja', 'en', 'other')
    """
    sample = "".join(text[:2000] for text in itertools.islice(texts, 200))
    letters = sum(character.isalpha() for character in sample) or 1
    shares = {language: len(pattern.findall(sample)) / letters for language, pattern in _SCRIPTS.items()}
    if shares["ja"] > 0.05:
        return "ja"
    language = max(shares, key=lambda key: shares[key])
    return language if shares[language] > 0.3 else "other"


def check_language(name: str) -> Language | Literal["auto"]:
    """The name itself, if it is a language that the tokeniser knows, or `auto`.

    Raises:
        DataError: another name.
    """
    known: tuple[Language | Literal["auto"], ...] = ("auto", "en", "zh", "ja", "th", "other")
    for language in known:
        if language == name:
            return language
    raise DataError(f"unknown language '{name}'", hint=f"use one of {', '.join(known)}")


def tokenize(text: str, language: Language) -> list[str]:
    """Index terms of a text.

    Scripts without spaces give character bigrams (a lone character stays); every other word is lower-cased,
    and in English freed of stopwords and possessive endings and stemmed (Porter, as in Anserini's baselines).

    >>> tokenize("The cats are running", "en")
    ['cat', 'run']
    >>> tokenize("机器学习 GPU", "zh")
    ['机器', '器学', '学习', 'gpu']
    """
    stem = _stemmer() if language == "en" else None
    text = _POSSESSIVE.sub("", text.lower()) if language == "en" else text.lower()
    terms: list[str] = []
    for token in _TOKEN.findall(text):
        if _UNSPACED.match(token):
            terms += [token[i : i + 2] for i in range(len(token) - 1)] or [token]
        elif stem is None:
            terms.append(token)
        elif token not in STOPWORDS:
            terms.append(stem.stemWord(token) or token)  # Porter leaves nothing of "s"
    return terms


def _bm25s() -> Any:
    library = require("bm25s", "eval")
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it switches its own debugging lines on
    return library


_STEMMER: Any = None


def _stemmer() -> Any:
    global _STEMMER
    if _STEMMER is None:
        _STEMMER = require("Stemmer", "eval").Stemmer("porter")
    return _STEMMER


def _best(ids: list[str], scores: np.ndarray, top_k: int, above: float = -np.inf) -> dict[str, float]:
    """The `top_k` highest of scores (N,), best first, ties by id also where the cut falls.

    The work beyond one look at every score grows with `top_k` and with the documents that tie where the cut falls.

    Args:
        ids: (N,) document ids.
        scores: (N,).
        top_k: documents wanted.
        above: scores that are not higher than this are no hits.

    >>> _best(["c", "b", "a"], np.array([1.0, 2.0, 1.0]), 2)
    {'b': 2.0, 'a': 1.0}
    >>> _best(["b", "a"], np.array([0.0, 1.0]), 2, above=0.0)
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
        headings: dict[str, str] | None = None,
    ) -> None:
        self._engine, self._ids, self._vocabulary, self.language = engine, ids, vocabulary, language
        self.headings = headings or {}  # document id -> its title or first words; indexes of old have none
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
        bm25s = _bm25s()
        chosen = detect_language(d.content for d in documents.values()) if language == "auto" else language
        vocabulary: dict[str, int] = {}
        corpus = [
            [vocabulary.setdefault(term, len(vocabulary)) for term in tokenize(document.content, chosen)]
            for document in documents.values()
        ]
        if not vocabulary:
            raise DataError("the documents hold no words to index")
        engine = bm25s.BM25(method="lucene", k1=k1, b=b)
        engine.index((corpus, vocabulary), show_progress=False, create_empty_token=False)
        headings = {d.id: _heading(d.title or d.text) for d in documents.values()}
        return cls(engine, list(documents), vocabulary, chosen, headings)

    def search(self, queries: Mapping[str, str], top_k: int = 100, progress: bool = False) -> Run:
        """Best documents of each query, score above 0 only, ties by document id.

        Args:
            queries: id -> text.
            top_k: documents a query.
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

    def _search_one(self, text: str, top_k: int) -> dict[str, float]:
        terms = [self._vocabulary[t] for t in tokenize(text, self.language) if t in self._vocabulary]
        if not terms:
            return {}
        scores = np.asarray(self._engine.get_scores_from_ids(terms), dtype=np.float32)  # (N,)
        return _best(self._ids, scores, top_k, above=0.0)

    def scores(self, query: str, document_ids: Sequence[str]) -> dict[str, float]:
        """BM25 scores of given documents, 0 where no term is shared.

        Raises:
            DataError: a document is not in the index.
        """
        unknown = next((document for document in document_ids if document not in self._rows), None)
        if unknown is not None:
            raise DataError(f"document '{unknown}' is not in the index")
        terms = [self._vocabulary[t] for t in tokenize(query, self.language) if t in self._vocabulary]
        if not terms:
            return dict.fromkeys(document_ids, 0.0)
        scores = self._engine.get_scores_from_ids(terms)
        return {document: float(scores[self._rows[document]]) for document in document_ids}

    def save(self, folder: str | Path, force: bool = False) -> None:
        """Write the index to a folder.

        Raises:
            ProrankError: the folder is taken and `force` is not set.
        """
        refuse_overwrite(folder, force)
        (Path(folder) / _SETTINGS).unlink(missing_ok=True)  # written last: without it a folder is no index
        self._engine.save(str(folder))
        settings = {"ids": self._ids, "vocabulary": list(self._vocabulary), "language": self.language}
        settings["headings"] = [self.headings.get(document, "") for document in self._ids]
        write_json(Path(folder) / _SETTINGS, settings)

    @classmethod
    def load(cls, folder: str | Path) -> BM25Index:
        """Read an index that `save` wrote.

        Raises:
            DataError: the folder holds no such index, or a damaged one. Nothing is ever unpickled.
        """
        bm25s = _bm25s()
        if not (Path(folder) / _SETTINGS).is_file():
            raise DataError(f"{folder} holds no index", hint="make one with `prorank index COLLECTION --output DIR`")
        settings = read_json(Path(folder) / _SETTINGS)
        try:
            engine = bm25s.BM25.load(str(folder), load_corpus=False, allow_pickle=False)
            vocabulary = {term: i for i, term in enumerate(settings["vocabulary"])}
            ids, language = settings["ids"], settings["language"]
            if len(ids) != engine.scores["num_docs"]:
                raise ValueError(f"{len(ids)} ids for {engine.scores['num_docs']} documents")
            headings = dict(zip(ids, settings.get("headings", [])))
        except (OSError, EOFError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{folder}: the index is damaged: {error}", hint="make it again") from error
        return cls(engine, ids, vocabulary, language, headings)


def biencoder_source(name: str) -> str:
    """A bi-encoder's folder or hub name; sentence-transformers' own go by their bare names too.

    Raises:
        CheckpointError: no such model.
    """
    from prorank.backbone import resolve_source

    try:
        return resolve_source(name)
    except CheckpointError as error:
        if "/" in name:
            raise
        try:
            return resolve_source(f"sentence-transformers/{name}")
        except CheckpointError:
            raise error from None


def encode_texts(
    model: str, texts: Sequence[str], batch_size: int = 64, progress: bool = True, device: str = "auto"
) -> np.ndarray:
    """Unit-length embeddings of texts, float32 (N, D).

    Args:
        model: sentence-transformers name or folder, or `embedded`.
        texts: what to embed.
        batch_size: texts a batch.
        progress: show a bar.
        device: `auto`, `cpu`, `cuda`, ...

    Raises:
        CheckpointError: no such model.
        MissingExtraError: sentence-transformers is not installed.
    """
    import torch
    from rich.console import Console
    from rich.progress import track

    from prorank.backbone import fast_bf16, resolve_device

    library = require("sentence_transformers", "train")
    where = resolve_device(device)
    encoder = library.SentenceTransformer(biencoder_source(model), device=str(where))
    # Longest first: texts of similar length share a batch. One call a batch, so that the bar is ours.
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    pieces: list[np.ndarray] = []
    starts = range(0, len(order), batch_size)
    with torch.autocast(where.type, dtype=torch.bfloat16, enabled=fast_bf16(where)):
        for start in track(
            starts, f"embed {len(texts)} texts", disable=not progress, transient=True, console=Console(stderr=True)
        ):
            rows = order[start : start + batch_size]
            pieces.append(encoder.encode([texts[i] for i in rows], batch_size=batch_size, show_progress_bar=False))
    vectors = np.empty((len(texts), pieces[0].shape[1]), dtype=np.float32)
    vectors[order] = np.concatenate(pieces)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)


def biencoder_scores(
    model: str,
    queries: Mapping[str, str],
    documents: Mapping[str, str],
    wanted: Mapping[str, Sequence[str]],
    batch_size: int = 64,
    progress: bool = True,
    device: str = "auto",
) -> Run:
    """Cosine similarity of each query with the documents wanted for it; every text is embedded once.

    Args:
        model: sentence-transformers name or folder, or `embedded`.
        queries: query id -> text.
        documents: document id -> text.
        wanted: query id -> document ids.

    Returns:
        Run with scores in [-1, 1].
    """
    query_ids = list(wanted)
    document_ids = list(dict.fromkeys(document for ids in wanted.values() for document in ids))
    query_vectors = encode_texts(model, [queries[q] for q in query_ids], batch_size, progress, device)
    document_vectors = encode_texts(model, [documents[d] for d in document_ids], batch_size, progress, device)
    row = {document: i for i, document in enumerate(document_ids)}
    return {
        query: {d: float(query_vectors[i] @ document_vectors[row[d]]) for d in wanted[query]}
        for i, query in enumerate(query_ids)
    }


def dense_run(
    model: str, collection: Collection, queries: Mapping[str, str], top_k: int = 100, batch_size: int = 64
) -> Run:
    """Exact nearest documents by cosine similarity of a sentence-transformers model, ties by document id.

    Documents that the collection excludes for a query are left out.

    Args:
        model: name, folder, or `embedded`.
        collection: its documents are searched.
        queries: id -> text.
        top_k: documents a query.
        batch_size: texts a batch.

    Raises:
        MissingExtraError: sentence-transformers is not installed.
    """
    if not queries:
        return {}
    ids = list(collection.documents)
    documents = encode_texts(model, [d.content for d in collection.documents.values()], batch_size)
    vectors = encode_texts(model, list(queries.values()), batch_size)
    depth = top_k + _most_excluded(collection, queries)
    found = {query: _best(ids, documents @ vector, depth) for query, vector in zip(queries, vectors)}
    return without_excluded(found, collection, top_k)


def bm25_run(index: BM25Index, collection: Collection, queries: Mapping[str, str], top_k: int) -> Run:
    """BM25's first `top_k` documents of each query, those that the collection excludes for it left out."""
    found = index.search(queries, top_k=top_k + _most_excluded(collection, queries), progress=True)
    return without_excluded(found, collection, top_k)


def _most_excluded(collection: Collection, queries: Iterable[str]) -> int:
    return max((len(collection.excluded.get(query, [])) for query in queries), default=0)


def without_excluded(run: Run, collection: Collection, top_k: int | None = None) -> Run:
    """The run without what the collection excludes for a query, at most `top_k` documents each."""
    left: Run = {}
    for query, listed in run.items():
        excluded = set(collection.excluded.get(query, []))
        kept = [document for document in listed if document not in excluded]
        left[query] = {document: listed[document] for document in kept[:top_k]}
    return left


def candidate_run(collection: Collection, *splits: str) -> Run:
    """The collection's own candidate lists of some splits, scored by BM25 over its corpus (0: no term is shared).

    Raises:
        DataError: the collection has no candidates for a split.
    """
    missing = next((split for split in splits if split not in collection.candidates), None)
    if missing is not None:
        raise DataError(f"{collection.name} has no candidates for split '{missing}'", hint="use first_stage bm25")
    index = BM25Index.build(collection.documents)
    run = {
        query: index.scores(collection.queries[query], documents)
        for split in splits
        for query, documents in collection.candidates[split].items()
    }
    return without_excluded(run, collection)
