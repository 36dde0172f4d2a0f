"""What prorank-mini-multilingual was trained on, and what had to stay out of it."""

from pathlib import Path

from prorank.data.collection import Collection
from prorank.data.splits import load_with_splits
from prorank.util.texts import plain

TRAIN = {  # collection -> how often its judged queries come, and those cut from its documents
    "squad11-dev": (1.0, 1.0),
    "medquad": (0.8, 1.5),
    "covidqa-200423": (1.0, 1.0),
    "nl2bash": (1.0, 0.1),
    "cosqa": (0.6, 1.2),
    "scifact": (1.0, 1.8),
    "selqa-sections": (0.5, 0.5),
    "pubmedqa": (0.4, 0.5),
    "cmrc2018": (1.2, 0.4),
    "jaquad": (2.0, 0.8),
}
NEVER = ("mlquestions", "wikiqa", "cranfield", "cisi", "adi")  # and all of xquad


def collections(folder: Path) -> tuple[dict[str, Collection], dict[str, Collection]]:
    """The training collections, and those that are measured on alone."""
    others = [*NEVER, *(f"xquad/{path.name}" for path in sorted((folder / "xquad").iterdir()) if path.is_dir())]
    return tuple({name: load_with_splits(str(folder / name), seed=13) for name in names} for names in (TRAIN, others))


def held_out(trained: dict[str, Collection], others: dict[str, Collection]) -> tuple[set[str], set[str]]:
    """Texts that are never trained on: dev's and test's queries, the documents that they look for, all of xquad.

    XQuAD's passages are translations of SQuAD's, so the English ones are held out for the sake of the others.
    """
    documents: set[str] = set()
    queries: set[str] = set()
    for name, found in (trained | others).items():
        for split in ("dev", "test") if name in trained else found.qrels:
            for query, judged in found.judgments(split).items():
                queries.add(plain(found.queries[query]))
                documents |= {plain(found.documents[d].content) for d, grade in judged.items() if grade > 0}
        if name.startswith("xquad"):
            documents |= {plain(document.text) for document in found.documents.values()}
    return documents, queries
