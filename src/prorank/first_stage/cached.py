"""First-stage runs kept by what they were made from: the same texts and settings are searched once.

Runs lie in the user's cache folder: `$PRORANK_CACHE`, else `$XDG_CACHE_HOME/prorank`, else `~/.cache/prorank`. Knows
BM25 and files.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from prorank.data.collection import Collection, documents_fingerprint
from prorank.data.runs import Qrels, Run, lists_of
from prorank.data.trec import read_run, write_run
from prorank.first_stage.bm25 import BM25Index, bm25_run, candidate_run, tell_no_candidates
from prorank.util.provenance import fingerprint
from prorank.util.version import VERSION

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where first-stage runs are kept."""
    own, common = os.environ.get("PRORANK_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else Path(common or Path.home() / ".cache") / "prorank"


def cached_first_stage(collection: Collection, split: str, qrels: Qrels, depth: int, lists: bool) -> Run:
    """BM25's first `depth` documents of the judged queries, or the split's own lists in BM25's order.

    Args:
        collection: documents, queries, what is excluded.
        split: whose lists.
        qrels: judgments of the queries that are searched.
        depth: documents per query.
        lists: take the collection's own candidate lists, whole; judged queries without one are told.

    Raises:
        DataError: there are no such lists, or none of these queries.
    """
    if lists:
        tell_no_candidates(collection, split, qrels)
    queries = {query: collection.queries[query] for query in qrels}
    given = {query: collection.candidates.get(split, {}).get(query, []) for query in qrels} if lists else {}
    excluded = {query: collection.excluded[query] for query in qrels if query in collection.excluded}
    made_from = [VERSION, documents_fingerprint(collection.documents), queries, given, excluded, depth]
    key = fingerprint(json.dumps(made_from, ensure_ascii=False))
    file = cache_folder() / "first-stage" / f"{key}.run"
    if not file.is_file():
        if lists:
            found = candidate_run(collection, split)
        else:
            found = bm25_run(BM25Index.build(collection.documents), collection, queries, depth)
        try:
            write_run(lists_of(found, queries), file, tag="BM25")
        except OSError as error:
            logger.warning("%s: the run is not kept: %s; PRORANK_CACHE names another folder", file.parent, error)
            return lists_of(found, queries)
    return lists_of(read_run(file), queries)
