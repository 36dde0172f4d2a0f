"""Score learning's items: tokenised candidate lists in training order, pseudo-queries among them.

Knows the recipe, the collection and the first stage; no trainers.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from prorank.data.collection import Collection
from prorank.data.runs import Qrels, Run
from prorank.data.union import turns
from prorank.first_stage.bm25 import BM25Index, bm25_run
from prorank.prompts.tokenization import PairTokenizer
from prorank.recipe.sections import Recipe
from prorank.score_learning.distillation import Source, taught, teacher_scores
from prorank.training.context import RunContext, training_subsets
from prorank.training.lists import CandidateList, ListItem, build_candidate_lists, forever
from prorank.training.mined import read_mined
from prorank.util.errors import DataError
from prorank.util.texts import plain

_DOCSTRING = re.compile(r'"""\s*(.+?)(?:\n\s*\n|"""|\.\s)|\'\'\'\s*(.+?)(?:\n\s*\n|\'\'\'|\.\s)', re.DOTALL)
_SENTENCE = re.compile(r"(.+?[.!?。！？])(?:\s|$)", re.DOTALL)


def pseudo_query(title: str, text: str) -> str | None:
    """A query that the document itself suggests: its title, else a docstring's or the text's first sentence.

    Returns:
        The query, or None when nothing of 3 to 40 words (or 6 to 60 characters without spaces) is found.

    >>> pseudo_query("", 'def f():\\n    \\"\\"\\"Open a file. Then more.\\"\\"\\"')
    'Open a file'
    >>> pseudo_query("Flow over a wedge", "The text.")
    'Flow over a wedge'
    """
    found = _DOCSTRING.search(text)
    sentence = _SENTENCE.match(text.strip())
    candidates = [title, next((g for g in found.groups() if g), "") if found else ""]
    candidates.append(sentence.group(1) if sentence else "")
    for candidate in candidates:
        words = " ".join(candidate.split()).rstrip(".")
        if 3 <= words.count(" ") + 1 <= 40 or (" " not in words and 6 <= len(words) <= 60):
            return words
    return None


def pseudo_queries(collection: Collection, count: int, seed: int, exclude: Mapping[str, object]) -> dict[str, str]:
    """Up to `count` queries cut from a seeded sample of documents: {document id: query}.

    A title that several documents share (pieces of one article, say) names none of them and is not used.

    Args:
        exclude: document ids never used (relevant documents of dev and test queries).
    """
    titles = Counter(document.title for document in collection.documents.values())
    ids = [document_id for document_id in collection.documents if document_id not in exclude]
    random.Random(f"{seed}:pseudo").shuffle(ids)
    found: dict[str, str] = {}
    for document_id in ids:
        if len(found) >= count:
            break
        document = collection.documents[document_id]
        query = pseudo_query(document.title if titles[document.title] == 1 else "", document.text)
        if query:
            found[document_id] = query
    return found


def drawn_lists(context: RunContext) -> tuple[list[CandidateList], Run | None]:
    """Candidate lists in training order, and the teacher's scores of their documents when the recipe has a teacher."""
    section, recipe = context.recipe.score_learning, context.recipe
    assert section is not None
    sources = labelled_sources(context)
    teacher: Run | None = None
    margin = section.teacher.margin if section.teacher else None
    if margin is not None:  # the false-negative filter looks at whole lists before any document is drawn
        queries = {query: text for source in sources for query, text in source.collection.queries.items()}
        whole = {q: [*j, *source.run.get(q, {})] for source in sources for q, j in source.qrels.items()}
        teacher = teacher_scores(context, queries, whole, {})
    endless = [
        forever(
            build_candidate_lists(
                source.collection,
                source.qrels,
                source.run,
                section.negatives,
                recipe.seed,
                teacher,
                margin,
                source.negatives,
            ),
            recipe.seed,
        )
        for source in sources
    ]
    order = [
        next(endless[number])[1]
        for number in turns(context.weights(), section.steps * section.queries_per_step, recipe.seed)
    ]
    if section.teacher is not None:  # what a short run never reaches is not asked for
        drawn: dict[str, list[str]] = {}
        for group in dict.fromkeys(order):
            drawn.setdefault(group.query_id, []).extend(group.documents)
        teacher = taught(context, sources, drawn, teacher or {})
    return order, teacher


def list_items(context: RunContext, tokenizer: PairTokenizer) -> list[ListItem]:
    """Tokenised candidate lists in training order, with teacher scores when the recipe has a teacher."""
    order, teacher = drawn_lists(context)
    used, texts = list(dict.fromkeys(order)), context.texts()
    pairs = [(group.query, texts[document]) for group in used for document in group.documents]
    sequences, truncation = tokenizer.encode(pairs)
    if truncation.pairs:
        context.console.print(
            f"  {truncation.pairs} of {len(pairs)} training pairs are cut to fit; not read: {truncation.not_read}"
        )
    size = len(used[0].documents)
    items = {}
    for i, group in enumerate(used):
        scores = None if teacher is None else tuple(teacher[group.query_id][d] for d in group.documents)
        items[group] = ListItem(sequences[i * size : (i + 1) * size], group.labels, scores)
    return [items[group] for group in order]


def labelled_sources(context: RunContext) -> list[Source]:
    """Each subset's training split, with its share of the recipe's pseudo-queries."""
    recipe, section = context.recipe, context.recipe.score_learning
    assert section is not None
    sources = []
    for subset in training_subsets(context):
        source = Source(subset.collection, subset.run, subset.collection.judgments(recipe.data.train))
        if section.mined is not None:
            source = from_mined(context, source, Path(section.mined))
        if section.unlabelled:
            source = with_unlabelled(source, section.unlabelled, recipe)
        count = round(section.pseudo_queries * subset.weight / sum(context.weights()))
        sources.append(with_pseudo_queries(source, count, recipe) if count else source)
    return sources


def with_unlabelled(source: Source, count: int, recipe: Recipe) -> Source:
    """The source plus up to `count` queries without judgments; the first document found stands in for a relevant one.

    Its label is never trained on. Queries that a judged one asks too, in the same words, are left out.
    """
    collection = source.collection
    judged = {query for qrels in collection.qrels.values() for query in qrels}
    asked = {plain(collection.queries[query]) for query in judged}
    free = [q for q, text in collection.queries.items() if q not in judged and plain(text) not in asked]
    random.Random(f"{recipe.seed}:unlabelled").shuffle(free)
    chosen = {query: collection.queries[query] for query in free[:count]}
    index = BM25Index.build(collection.documents, language=recipe.first_stage.language)
    found = bm25_run(index, collection, chosen, recipe.first_stage.depth)
    found = {query: listed for query, listed in found.items() if listed}
    if not found:
        raise DataError(f"{collection.name}: no query without judgments finds a document", hint="unlabelled: 0")
    qrels = {query: {next(iter(listed)): 1} for query, listed in found.items()}
    return source._replace(run=source.run | found, qrels=source.qrels | qrels)


def from_mined(context: RunContext, source: Source, file: Path) -> Source:
    """The source with the queries and negatives of a mined file; prints how many are no training queries."""
    mined = read_mined(file, context.collection)
    documents = source.collection.documents
    qrels: Qrels = {}
    for query in mined.keys() & source.qrels.keys():
        kept = {document: grade for document, grade in mined[query].items() if document in documents}
        judged = source.qrels[query]
        wrong = next((d for d, grade in kept.items() if grade == 0 and judged.get(d, 0) > 0), None)
        if wrong is not None:
            raise DataError(f"{file}: negative '{wrong}' of query '{query}' is judged relevant", hint="mine again")
        qrels[query] = judged | {document: judged.get(document, 1) for document, grade in kept.items() if grade}
    if not qrels:
        raise DataError(f"{file}: none of its {len(mined)} queries is in split '{context.recipe.data.train}'")
    if len(qrels) < len(mined):
        more = len(mined) - len(qrels)
        context.console.print(f"  [yellow]{more} of {len(mined)} mined queries are no training queries[/yellow]")
    negatives = {q: [d for d, grade in mined[q].items() if not grade and d in documents] for q in qrels}
    return source._replace(qrels={q: qrels[q] for q in source.qrels if q in qrels}, negatives=negatives)


def with_pseudo_queries(source: Source, count: int, recipe: Recipe) -> Source:
    """The source plus queries cut from documents, each with its own document as the relevant one."""
    collection = source.collection
    held = {d for split in (recipe.data.dev, recipe.data.test) for j in collection.judgments(split).values() for d in j}
    asked = {
        plain(collection.queries[q])
        for split in (recipe.data.dev, recipe.data.test)
        for q in collection.judgments(split)
    }
    found = pseudo_queries(collection, count, recipe.seed, dict.fromkeys(held))
    found = {document: query for document, query in found.items() if plain(query) not in asked}
    queries = {f"pseudo:{document}": query for document, query in found.items()}
    index = BM25Index.build(collection.documents, language=recipe.first_stage.language)
    run = source.run | index.search(queries, top_k=recipe.first_stage.depth, progress=True)
    qrels = source.qrels | {f"pseudo:{d}": {d: 1} for d in found}
    return Source(replace(collection, queries=collection.queries | queries), run, qrels, source.negatives)
