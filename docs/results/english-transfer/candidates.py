"""Candidates of training queries, and what BM25 and two bi-encoders say of them.

export PYTHONPATH=docs/results/prorank-mini-multilingual
python docs/results/english-transfer/candidates.py E5 COLLECTIONS SHARE OUT

E5 is multilingual-e5-small, COLLECTIONS the folders in BEIR layout, SHARE where the packages of `texts.py` lie
unpacked (`usr/share`). Candidates are BM25's top 30, the top 15 of each bi-encoder and six at random. The teacher is
a sum of z-scores: BM25's share and that of e5 in the rest are tuned on dev queries and then moved half of the way to
.2 and .5; without dev queries they are .2 and .5, for code .1 and .5. OUT gets one file for each source.
"""

import pickle
import random
import sys
from pathlib import Path

import numpy as np
from lists import all_queries, gain, held_documents
from sources import collections, held_out
from texts import Asked, computing_terms, definitions, functions, manuals

from prorank.data.collection import Collection
from prorank.first_stage.bm25 import BM25Index, bm25_run
from prorank.first_stage.dense import encode_texts
from prorank.first_stage.fusion import z_score
from prorank.util.texts import plain

MOST = {  # collection -> judged queries, and queries cut from its documents
    "squad11-dev": (3_500, 3_000),
    "medquad": (4_000, 4_000),
    "covidqa-200423": (884, 4_000),
    "nl2bash": (5_000, 144),
    "cosqa": (380, 6_000),
    "scifact": (443, 7_000),
    "selqa-sections": (1_040, 2_000),
    "pubmedqa": (439, 1_000),
}
LEXICAL, DENSE, RANDOM, DEV = 30, 15, 6, 150
Row = tuple[str, str, list[str]]  # kind, text, relevant documents


def chosen(asked: dict[str, Row], name: str, draw: random.Random) -> dict[str, Row]:
    """A sample of the queries of each kind."""
    most = dict(zip(("judged", "own", "dev"), (*MOST[name], DEV)))
    ids = list(asked)
    draw.shuffle(ids)
    taken = {kind: [q for q in ids if asked[q][0] == kind][:count] for kind, count in most.items()}
    return {q: asked[q] for own in taken.values() for q in own}


def as_collection(name: str, found: Asked) -> tuple[Collection, dict[str, Row]]:
    """Texts without judgments, as a collection and its queries."""
    asked = {f"q{i}": ("own", text, [found.documents[at].id]) for i, (text, at) in enumerate(found.queries)}
    documents = {one.id: one for one in found.documents}
    texts = {q: row[1] for q, row in asked.items()}
    return Collection(name, documents, texts, qrels={}, candidates={}, problems=(), fingerprint=name), asked


def tuned(rows: list[tuple[Row, np.ndarray, np.ndarray]], name: str) -> tuple[float, float]:
    """BM25's share, and e5's of the rest."""
    dev = [(scores, np.isin(names, row[2]).astype(float)) for row, names, scores in rows if row[0] == "dev"]
    if not dev:
        return (0.1, 0.5) if name == "python" else (0.2, 0.5)
    means = {
        (w, e): np.mean([gain(mixed(scores, w, e), relevant) for scores, relevant in dev])
        for w in np.arange(7) / 10
        for e in (0, 0.25, 0.5, 0.75, 1)
    }
    lexical, second = max(means, key=means.__getitem__)
    return (lexical + 0.2) / 2, (second + 0.5) / 2


def mixed(scores: np.ndarray, lexical: float, second: float) -> np.ndarray:
    """The teacher's scores (N,) of z-scores (3, N)."""
    return lexical * scores[0] + (1 - lexical) * ((1 - second) * scores[1] + second * scores[2])


def prepare(found: Collection, asked: dict[str, Row], barred: set[str], encoders: tuple[str, str]) -> dict[str, object]:
    """What `train` reads of a source."""
    ids = np.array(list(found.documents))
    shut = np.isin(ids, list(barred))
    run = bm25_run(BM25Index.build(found.documents), found, {q: row[1] for q, row in asked.items()}, 2 * LEXICAL)
    similar = []
    for encoder in encoders:
        documents = encode_texts(encoder, [d.content for d in found.documents.values()], "document")
        similar.append((encode_texts(encoder, [row[1] for row in asked.values()], "query"), documents))
    draw, rows = np.random.default_rng(13), []
    place = {document: i for i, document in enumerate(ids)}
    for number, (query, row) in enumerate(asked.items()):
        dev = row[0] == "dev"
        listed = {d: s for d, s in run.get(query, {}).items() if dev or d not in barred}
        lexical = dict(list(listed.items())[:LEXICAL])
        names = dict.fromkeys([*row[2][:8], *lexical])
        near = [documents @ vectors[number] for vectors, documents in similar]
        if not dev:
            for one in near:
                names |= dict.fromkeys(ids[np.argsort(-np.where(shut, -9, one))[:DENSE]])
            names |= dict.fromkeys(draw.choice(ids[~shut], RANDOM))
        at = [place[name] for name in names]
        least = min(lexical.values(), default=0.0)
        scores = [z_score([lexical.get(d, least) for d in names]), *(z_score(one[at]) for one in near)]
        rows.append((row, np.array(list(names)), np.stack(scores)))
    shares = tuned(rows, found.name)
    print(f"{found.name}: {len(rows)} queries, BM25's share {shares[0]:.2f}, e5's of the rest {shares[1]:.2f}")
    lists = []
    for (kind, text, relevant), names, scores in rows:
        teacher = np.array(z_score(mixed(scores, *shares)))
        at = np.array([place[d] for d in names], np.int32)
        lists.append((kind, text, [place[d] for d in relevant[:8]], at, teacher.astype(np.float32)))
    return {"documents": [d.content for d in found.documents.values()], "lists": lists}


def main(e5: str, folder: str, share: str, output: str) -> None:
    """Write one file for each source."""
    trained, others = collections(Path(folder))
    held, queries = held_out(trained, others)
    draw = random.Random(13)
    sources: dict[str, tuple[Collection, dict[str, Row], set[str]]] = {}
    for name in MOST:
        barred = held_documents(trained[name], held)
        sources[name] = trained[name], chosen(all_queries(trained[name], barred, queries), name, draw), barred
    code = {plain(text) for text in trained["cosqa"].queries.values()}
    code |= {plain(document.text) for document in trained["cosqa"].documents.values()}
    for name, found in (
        ("wordnet", definitions(Path(share) / "wordnet", draw)),
        ("foldoc", computing_terms(Path(share) / "dictd" / "foldoc.dict.dz", draw)),
        ("python", functions(code, draw)),
        ("manuals", manuals(Path(share), draw)),
    ):
        collection, asked = as_collection(name, found)
        asked = {q: row for q, row in asked.items() if plain(row[1]) not in queries}
        sources[name] = collection, asked, held_documents(collection, held)
    Path(output).mkdir(parents=True)
    for name, (collection, asked, barred) in sources.items():
        with (Path(output) / f"{name}.pkl").open("wb") as file:
            pickle.dump(prepare(collection, asked, barred, ("embedded", e5)), file)


if __name__ == "__main__":
    main(*sys.argv[1:])
