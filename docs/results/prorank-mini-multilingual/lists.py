"""Training queries of many kinds, their candidates, and what the teachers say of them.

python docs/results/prorank-mini-multilingual/lists.py E5 COLLECTIONS OUT

E5 is the cut bi-encoder as a sentence-transformers folder. Beside the judged queries each document gives up to four of
its own: its title or first sentence, a sentence from its middle, a handful of its rare words, three sentences in a row.
Candidates are BM25's top 30, the bi-encoder's top 20 and six at random; the teacher is the sum of both z-scores, BM25's
share tuned on dev queries. OUT gets one file for each collection.
"""

import pickle
import random
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from sources import collections, held_out

from prorank.data.collection import Collection, Document
from prorank.first_stage.bm25 import BM25Index, bm25_run
from prorank.first_stage.dense import encode_texts
from prorank.first_stage.fusion import z_score
from prorank.score_learning.lists import pseudo_query
from prorank.util.texts import plain

MOST = {"medquad": 5_000, "nl2bash": 4_000, "jaquad": 5_000, "cosqa": 5_000, "scifact": 5_000}  # documents asked
LEXICAL, DENSE, RANDOM, WIDTH = 30, 20, 6, 80
SENTENCE, WORD = re.compile(r"[^.!?。！？\n]+[.!?。！？]?"), re.compile(r"\w+")


def sentences(text: str) -> list[str]:
    """Sentences by their marks."""
    return [part.strip() for part in SENTENCE.findall(text) if part.strip()]


def middle(draw: random.Random, document: Document) -> str | None:
    """A sentence that is not the first."""
    fit = [s for s in sentences(document.text)[1:] if 4 <= len(s.split()) <= 40 or (" " not in s and 8 <= len(s) <= 60)]
    return draw.choice(fit).rstrip(".。") if fit else None


def longer(draw: random.Random, document: Document) -> str | None:
    """Three sentences in a row, of 15 to 70 words."""
    found = sentences(document.text)
    if len(found) < 3:
        return None
    at = draw.randrange(len(found) - 1)
    query = " ".join(found[at : at + 3])
    return query if 15 <= len(query.split()) <= 70 else None


def keywords(draw: random.Random, document: Document, frequency: Counter[str], count: int) -> str | None:
    """Two to five words in their order, rare ones more likely (by the square of their idf)."""
    words = [w for w in dict.fromkeys(WORD.findall(document.content.lower())) if len(w) > 2 and not w.isdigit()]
    weights = np.array([max(0.0, np.log(count / (1 + frequency[w]))) ** 2 for w in words])
    if len(words) < 8 or weights.sum() == 0:
        return None
    size, generator = draw.randrange(2, 6), np.random.default_rng(draw.randrange(1 << 30))
    chosen = generator.choice(len(words), size=min(size, len(words)), replace=False, p=weights / weights.sum())
    return " ".join(words[i] for i in sorted(chosen))


def own_queries(found: Collection, barred: set[str], queries: set[str]) -> dict[str, tuple[str, str]]:
    """Query id -> (text, document), cut from documents that are not barred."""
    frequency = Counter(w for d in found.documents.values() for w in set(WORD.findall(d.content.lower())))
    titles, draw = Counter(d.title for d in found.documents.values()), random.Random(13)
    free = [d for d in found.documents.values() if d.id not in barred]
    draw.shuffle(free)
    made: dict[str, tuple[str, str]] = {}
    english = found.name not in ("cmrc2018", "jaquad")
    for document in free[: MOST.get(found.name)]:
        kinds = {"title": pseudo_query(document.title if titles[document.title] == 1 else "", document.text)}
        if found.name != "nl2bash":
            kinds["middle"] = middle(draw, document)
            if english:
                kinds["keywords"] = keywords(draw, document, frequency, len(found.documents))
            if english and found.name != "cosqa":
                kinds["longer"] = longer(draw, document)
        for kind, query in kinds.items():
            if query and plain(query) not in queries:
                made[f"{kind}:{document.id}"] = (query, document.id)
    return made


def gain(scores: np.ndarray, relevant: np.ndarray) -> float:
    """NDCG@10 of one list with grades 0 and 1."""
    discount = 1 / np.log2(np.arange(2, 12))
    best = discount[: int(relevant.sum())].sum()
    return float((relevant[np.argsort(-scores, kind="stable")][:10] * discount[: len(relevant[:10])]).sum() / best)


def all_queries(found: Collection, barred: set[str], queries: set[str]) -> dict[str, tuple[str, str, list[str]]]:
    """Query id -> kind (judged, own, dev), text and relevant documents."""
    asked: dict[str, tuple[str, str, list[str]]] = {}
    for query, judged in found.judgments("train").items():
        relevant = [d for d, grade in judged.items() if grade > 0 and d not in barred]
        if relevant and plain(found.queries[query]) not in queries:
            asked[query] = ("judged", found.queries[query], relevant)
    for query, (text, document) in own_queries(found, barred, queries).items():
        asked[query] = ("own", text, [document])
    for query, judged in found.judgments("dev").items():
        asked[query] = ("dev", found.queries[query], [d for d, grade in judged.items() if grade > 0])
    return asked


def held_documents(found: Collection, held: set[str]) -> set[str]:
    """Ids of documents that are never trained on."""
    return {d for d, one in found.documents.items() if {plain(one.content), plain(one.text)} & held}


def prepare(found: Collection, encoder: str, held: set[str], queries: set[str]) -> dict[str, object]:
    """What `train` reads of a collection."""
    ids = list(found.documents)
    number = {document: i for i, document in enumerate(ids)}
    barred = held_documents(found, held)
    free = np.array([number[d] for d in ids if d not in barred])
    asked = all_queries(found, barred, queries)
    run = bm25_run(BM25Index.build(found.documents), found, {q: text for q, (_, text, _) in asked.items()}, 60)
    documents = encode_texts(encoder, [d.content for d in found.documents.values()], "document")
    vectors = encode_texts(encoder, [text for _, text, _ in asked.values()], "query")
    draw, rows = np.random.default_rng(13), []
    for (query, (kind, text, relevant)), vector in zip(asked.items(), vectors):
        listed = {d: s for d, s in run.get(query, {}).items() if kind == "dev" or d not in barred}
        lexical = dict(list(listed.items())[:LEXICAL])
        similar = documents @ vector
        near = similar.copy()
        if kind != "dev":
            near[[number[d] for d in barred]] = -9
        chosen = dict.fromkeys([*relevant[:8], *lexical, *(ids[i] for i in np.argsort(-near)[:DENSE])])
        chosen |= dict.fromkeys(ids[i] for i in draw.choice(free, RANDOM))
        names = list(chosen)[:WIDTH]
        least = min(lexical.values(), default=0.0)
        scores = [z_score([lexical.get(d, least) for d in names])]
        scores.append(z_score(similar[[number[d] for d in names]]))
        rows.append((kind, text, [number[d] for d in relevant], np.array([number[d] for d in names]), np.stack(scores)))
    dev = [row for row in rows if row[0] == "dev"][:300]
    relevant = [np.isin(row[3], row[2]).astype(float) for row in dev]
    shares = np.arange(7) / 10
    means = [np.mean([gain(w * r[4][0] + (1 - w) * r[4][1], g) for r, g in zip(dev, relevant)]) for w in shares]
    share = float(shares[int(np.argmax(means))])
    print(f"{found.name}: BM25's share {share}, dev NDCG@10 {max(means):.3f}")
    lists = [(*row[:4], np.array(z_score(share * row[4][0] + (1 - share) * row[4][1]))) for row in rows]
    return {"documents": [d.content for d in found.documents.values()], "lists": lists}


def main(encoder: str, folder: str, output: str) -> None:
    """Write one file for each training collection."""
    trained, others = collections(Path(folder))
    documents, queries = held_out(trained, others)
    Path(output).mkdir(parents=True)
    for name, found in trained.items():
        with (Path(output) / f"{name}.pkl").open("wb") as file:
            pickle.dump(prepare(found, encoder, documents, queries), file)


if __name__ == "__main__":
    main(*sys.argv[1:])
