"""Tokenised training items of both stages, drawn ahead from the recipe's seed.

Knows the recipe, the collection and the first stage, and the models that teach; not the one that learns, no trainers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from prorank.collection import Collection, Qrels, Run, read_run, write_run
from prorank.errors import DataError
from prorank.evaluation.evaluate import scored_lists
from prorank.evaluation.hybrid import choose_weight
from prorank.evaluation.stages import lists_of
from prorank.overlap import no_negatives
from prorank.reranker import Reranker
from prorank.retrieval import BM25Index, biencoder_scores
from prorank.texts import plain
from prorank.tokenization import PairTokenizer
from prorank.training import groups as grouping
from prorank.training import processes
from prorank.training.groups import LabelledPair
from prorank.training.mined import read_mined
from prorank.training.recipe import Negatives, Quotas, Recipe
from prorank.training.score_learning import ListItem
from prorank.training.setting import DEV_QUERIES, Setting, sampled
from prorank.training.teacher import hybrid_scores, with_reranker
from prorank.training.union import Member, restricted, turns
from prorank.training.warmup import PairItem

RANDOM = Quotas(hard=0, medium=0, easy=0, random=1)
# Negatives from easy to hard, one kind in each third of the run: random, ranks 101 to 1000, top 100.
CURRICULUM: tuple[Negatives, ...] = (
    "exchanged",
    Quotas(hard=0, medium=0, easy=1, random=0),
    Quotas(hard=1, medium=1, easy=0, random=0),
)


def training_pairs(setting: Setting, tokenizer: PairTokenizer) -> list[PairItem]:
    """Warmup's pairs in training order; with a curriculum the negatives get harder by thirds of the batches."""
    section = setting.recipe.warmup
    assert section is not None
    split, size = setting.recipe.data.train, section.pairs_per_step
    if not section.curriculum:
        return encoded(setting, tokenizer, labelled_pairs(setting, split, section.batches * size, section.negatives))
    marks = [section.batches * part // len(CURRICULUM) * size for part in range(len(CURRICULUM) + 1)]
    pairs: list[LabelledPair] = []
    for negatives, start, stop in zip(CURRICULUM, marks, marks[1:]):  # queries go on in one order
        pairs += labelled_pairs(setting, split, stop, negatives)[start:]
    return encoded(setting, tokenizer, pairs)


def held_out_pairs(setting: Setting, tokenizer: PairTokenizer, split: str, count: int) -> list[PairItem]:
    """Pairs of another split; negatives are random ones of the whole collection, or those of the recipe's quotas."""
    section = setting.recipe.warmup
    assert section is not None
    fixed = isinstance(section.negatives, Quotas) and not section.curriculum
    return encoded(setting, tokenizer, labelled_pairs(setting, split, count, section.negatives if fixed else RANDOM))


def labelled_pairs(setting: Setting, split: str, count: int, negatives: Negatives) -> list[LabelledPair]:
    """`count` balanced pairs of a split, of a union's members in turn."""
    order = turns(setting.weights(), -(-count // 2), setting.recipe.seed)
    members = training_members(setting) if split == setting.recipe.data.train else setting.members
    streams = [
        iter(member_pairs(member, split, 2 * order.count(number), negatives, setting.recipe.seed))
        for number, member in enumerate(members)
    ]
    return [next(streams[number]) for number in order for _ in range(2)][:count]


def training_members(setting: Setting) -> tuple[Member, ...]:
    """What is trained on: everything, or everything but dev's and test's queries and the documents they look for.

    Held out are texts, not ids: a copy of a held document or query, in whichever collection, is gone too.
    """
    data = setting.recipe.data
    if not data.hold_out_documents:
        return setting.members
    documents, queries = set(), set()
    for member in setting.members:
        for split in (data.dev, data.test):
            for query, judged in member.collection.judgments(split).items():
                queries.add(plain(member.collection.queries[query]))
                documents |= {plain(member.collection.documents[d].content) for d, grade in judged.items() if grade > 0}
    return tuple(
        restricted(
            member,
            {d for d, document in member.collection.documents.items() if plain(document.content) in documents},
            {query for query, text in member.collection.queries.items() if plain(text) in queries},
            data.train,
        )
        for member in setting.members
    )


def member_pairs(member: Member, split: str, count: int, negatives: Negatives, seed: int) -> list[LabelledPair]:
    """`count` balanced pairs of one collection."""
    if count == 0:
        return []
    qrels = member.collection.judgments(split)
    if negatives == "exchanged":
        return grouping.exchanged_pairs(qrels, count, seed, no_negatives(member.collection, qrels))
    lists = grouping.build_groups(member.collection, qrels, member.run, negatives, seed)
    return grouping.balanced_pairs(lists, count, seed)


def encoded(setting: Setting, tokenizer: PairTokenizer, pairs: Sequence[LabelledPair]) -> list[PairItem]:
    """Token ids of labelled pairs."""
    texts = setting.texts()
    sequences, _ = tokenizer.encode([(setting.collection.queries[p.query_id], texts[p.document_id]) for p in pairs])
    best = len(tokenizer.answer_ids) - 1
    return [PairItem(ids, best if pair.relevant else 0) for ids, pair in zip(sequences, pairs)]


def list_items(setting: Setting, tokenizer: PairTokenizer) -> list[ListItem]:
    """Tokenised candidate lists in training order, with teacher scores when the recipe has a teacher."""
    section, recipe = setting.recipe.score_learning, setting.recipe
    assert section is not None
    sources = labelled_sources(setting)
    texts = setting.texts()
    teacher: Run | None = None
    margin = section.teacher.margin if section.teacher else None
    if margin is not None:  # the false-negative filter looks at whole lists before any document is drawn
        queries = {query: text for source in sources for query, text in source.collection.queries.items()}
        whole = {q: [*j, *source.run.get(q, {})] for source in sources for q, j in source.qrels.items()}
        teacher = teacher_scores(setting, queries, whole, {})
    endless = [
        grouping.forever(
            grouping.build_groups(
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
        for number in turns(setting.weights(), section.steps * section.queries_per_step, recipe.seed)
    ]
    used = list(dict.fromkeys(order))  # what a short run never reaches is neither embedded nor tokenised
    if section.teacher is not None:
        drawn: dict[str, list[str]] = {}
        for group in used:
            drawn.setdefault(group.query_id, []).extend(group.documents)
        teacher = taught(setting, sources, drawn, teacher or {})
    pairs = [(group.query, texts[document]) for group in used for document in group.documents]
    sequences, truncation = tokenizer.encode(pairs)
    if truncation.pairs:
        setting.console.print(
            f"  {truncation.pairs} of {len(pairs)} training pairs are cut to fit; not read: {truncation.not_read}"
        )
    size = section.negatives.total + 1
    items = {}
    for i, group in enumerate(used):
        scores = None if teacher is None else tuple(teacher[group.query_id][d] for d in group.documents)
        items[group] = ListItem(sequences[i * size : (i + 1) * size], group.labels, scores)
    return [items[group] for group in order]


def teacher_scores(
    setting: Setting, queries: Mapping[str, str], wanted: Mapping[str, Sequence[str]], known: Run
) -> Run:
    """The recipe's teacher over the wanted pairs, those already known left out of the work."""
    section = setting.recipe.score_learning
    assert section is not None and section.teacher is not None
    new = {query: [d for d in dict.fromkeys(ids) if d not in known.get(query, {})] for query, ids in wanted.items()}
    new = {query: ids for query, ids in new.items() if ids}
    setting.console.print(f"  teacher: scoring {sum(map(len, new.values()))} pairs")
    scores = biencoder_scores(section.teacher.model, queries, setting.texts(), new, section.teacher.batch_size)
    return {query: known.get(query, {}) | scores.get(query, {}) for query in wanted}


def taught(setting: Setting, sources: Sequence[Source], drawn: Mapping[str, Sequence[str]], known: Run) -> Run:
    """Teacher scores of the drawn documents, kept in the run's folder: a resumed run does not ask again."""
    product = "score-learning/teacher.run"
    saved = setting.folder / product

    def ask() -> None:
        if not setting.study.has(product):
            write_run(ask_teacher(setting, sources, drawn, known), saved, tag="teacher")
            setting.study.keep(product)

    processes.first_only(ask)
    return read_run(saved)


def ask_teacher(setting: Setting, sources: Sequence[Source], drawn: Mapping[str, Sequence[str]], known: Run) -> Run:
    """Similarities of the drawn documents, or their join with the first stage and a reranker."""
    section = setting.recipe.score_learning
    assert section is not None and section.teacher is not None
    queries = {query: text for source in sources for query, text in source.collection.queries.items()}
    run = {query: listed for source in sources for query, listed in source.run.items()}
    share, reranker = section.teacher.first_stage, section.teacher.reranker
    if share == 0 and reranker is None:
        return teacher_scores(setting, queries, drawn, known)
    dev = sampled(setting, setting.recipe.data.dev, DEV_QUERIES) if share == "dev" else {}
    wanted = {query: [*documents, *run.get(query, {})] for query, documents in drawn.items()}
    wanted |= {query: list(setting.first_stage.get(query, {})) for query in dev}
    dense = teacher_scores(setting, queries, wanted, known)
    joined: Run = {}
    for source, member in zip(sources, setting.members):
        weight = dev_share(setting, member, dev, dense) if share == "dev" else share
        setting.console.print(f"  teacher of {member.collection.name}: the first stage's share is {weight}")
        own = {query: documents for query, documents in drawn.items() if query in source.collection.queries}
        joined |= hybrid_scores(run, dense, own, weight)
    if reranker is None:
        return joined
    pairs = [(query, document) for query, documents in joined.items() for document in documents]
    texts = setting.texts()
    teacher = Reranker(reranker)
    scored = teacher.score_detailed([(queries[q], texts[d]) for q, d in pairs], "the teaching reranker")
    teacher.warn(scored)
    return with_reranker(joined, scored_lists(joined, zip(pairs, scored.scores)), section.teacher.reranker_share)


def dev_share(setting: Setting, member: Member, dev: Qrels, dense: Run) -> float:
    """The first stage's share with the best NDCG@10 of the joined lists of the member's dev queries."""
    own = {query: judged for query, judged in dev.items() if query in member.collection.queries}
    lists = lists_of(member.run, own)
    return choose_weight(lists, dense, own, setting.recipe.first_stage.depth)


class Source(NamedTuple):
    """What one member's candidate lists are built from."""

    collection: Collection
    run: Run
    qrels: Qrels
    negatives: Mapping[str, Sequence[str]] = {}  # of the recipe's mined file


def labelled_sources(setting: Setting) -> list[Source]:
    """Each member's training split, with its share of the recipe's pseudo-queries."""
    recipe, section = setting.recipe, setting.recipe.score_learning
    assert section is not None
    sources = []
    for member in training_members(setting):
        source = Source(member.collection, member.run, member.collection.judgments(recipe.data.train))
        if section.mined is not None:
            source = from_mined(setting, source, Path(section.mined))
        count = round(section.pseudo_queries * member.weight / sum(setting.weights()))
        sources.append(with_pseudo_queries(source, count, recipe) if count else source)
    return sources


def from_mined(setting: Setting, source: Source, file: Path) -> Source:
    """The source with the queries and negatives of a mined file; what is no training query is left out, and said."""
    mined = read_mined(file, setting.collection)
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
        raise DataError(f"{file}: none of its {len(mined)} queries is in split '{setting.recipe.data.train}'")
    if len(qrels) < len(mined):
        more = len(mined) - len(qrels)
        setting.console.print(f"  [yellow]{more} of {len(mined)} mined queries are no training queries[/yellow]")
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
    found = grouping.pseudo_queries(collection, count, recipe.seed, dict.fromkeys(held))
    found = {document: query for document, query in found.items() if plain(query) not in asked}
    queries = {f"pseudo:{document}": query for document, query in found.items()}
    index = BM25Index.build(collection.documents, language=recipe.first_stage.language)
    run = source.run | index.search(queries, top_k=recipe.first_stage.depth, progress=True)
    qrels = source.qrels | {f"pseudo:{d}": {d: 1} for d in found}
    return Source(replace(collection, queries=collection.queries | queries), run, qrels, source.negatives)
