"""Training items of ERank's stages: graded lists, pairs with answers, lists with reference grades.

Knows the recipe, the collection and tokenizers; no trainers.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from prorank.collection import Run, read_run, write_run
from prorank.errors import DataError
from prorank.evaluation.stages import sample_queries
from prorank.reranker import Reranker
from prorank.tokenization import PairTokenizer
from prorank.training import processes
from prorank.training.grade_teachers import HIGHEST, load_teacher
from prorank.training.groups import build_groups, forever
from prorank.training.items import training_members
from prorank.training.score_learning import ListItem
from prorank.training.setting import Setting
from prorank.training.sft import SftItem
from prorank.training.synthesis import GradedDocument, GradedLists, read_graded, synthesize


def graded_lists(setting: Setting) -> GradedLists:
    """The recipe's graded lists: from its file, or by its teacher, kept in the run's folder."""
    section, recipe = setting.recipe.grades, setting.recipe
    saved = Path(section.file) if section.file else setting.folder / "grades.jsonl"

    def ask() -> None:
        if section.file or setting.study.has(saved.name):
            return
        groups = []
        for member in training_members(setting):
            qrels = sample_queries(member.collection.judgments(recipe.data.train), section.queries, recipe.seed)
            groups += build_groups(member.collection, qrels, member.run, section.documents, recipe.seed)
        teacher = load_teacher(
            section.teacher, section.generations, section.max_new_tokens, section.temperature, section.base_url
        )
        found = synthesize(setting.collection, groups, teacher, saved, setting.console)
        setting.console.print("  grades: " + "  ".join(f"{key} {value:.4g}" for key, value in found.items()))
        setting.study.keep(saved.name)

    processes.first_only(ask)
    lists = read_graded(saved, setting.collection)
    if not lists:
        raise DataError(f"{saved} holds no graded list")
    return lists


def scaled(grade: float, tokenizer: PairTokenizer) -> float:
    """A grade 0..10 on the scale of the prompt's answers, 0..K-1."""
    return grade * (len(tokenizer.answer_tokens) - 1) / HIGHEST


def completion_of(tokenizer: PairTokenizer, document: GradedDocument) -> list[int]:
    """Tokens of the right answer: the grade, its closing tag and the end of the turn; reasoning first where asked for.

    A masked model's answer is the grade's one token.
    """
    place = round(scaled(document.grade, tokenizer))
    tokens = list(tokenizer.answer_tokens[place])
    if tokenizer.family != "causal":
        return tokens
    words, prompt = tokenizer.tokenizer, tokenizer.prompt
    if prompt.thinks:
        text = document.text or f"<think></think><answer>{tokenizer.prompt.answers[place]}</answer>"
        tokens = list(words(text, add_special_tokens=False)["input_ids"])
    elif prompt.closing:
        tokens += words(prompt.closing, add_special_tokens=False)["input_ids"]
    return [*tokens, words.eos_token_id] if words.eos_token_id is not None else tokens


def encoded_lists(setting: Setting, tokenizer: PairTokenizer, lists: GradedLists) -> dict[str, list[list[int]]]:
    """Query id -> token ids of its documents' pairs."""
    texts = setting.texts()
    pairs = [(setting.collection.queries[q], texts[d.id]) for q, documents in lists.items() for d in documents]
    sequences, truncation = tokenizer.encode(pairs)
    if truncation.pairs:
        setting.console.print(
            f"  {truncation.pairs} of {len(pairs)} training pairs are cut to fit; not read: {truncation.not_read}"
        )
    rows = iter(sequences)
    return {query: [next(rows) for _ in documents] for query, documents in lists.items()}


def sft_items(setting: Setting, tokenizer: PairTokenizer) -> list[SftItem]:
    """Pairs with their answers in training order; each epoch in its own seeded order."""
    section = setting.recipe.sft
    assert section is not None
    lists = graded_lists(setting)
    encoded = encoded_lists(setting, tokenizer, lists)
    items = [
        SftItem(ids, completion_of(tokenizer, document))
        for query, documents in lists.items()
        for ids, document in zip(encoded[query], documents)
    ]
    count = section.steps * section.pairs_per_step
    return [item for _, item in islice(forever(items, setting.recipe.seed), count)]


def listwise_items(setting: Setting, reranker: Reranker) -> list[ListItem]:
    """Candidate lists in training order, with the reference grades of the reward.

    References are the teacher's grades for r_SE, else those of the model that training starts from.
    """
    section = setting.recipe.listwise
    assert section is not None
    lists = {q: documents for q, documents in graded_lists(setting).items() if any(d.relevant for d in documents)}
    if not lists:
        raise DataError("no graded list holds a relevant document")
    count = section.steps * section.queries_per_step
    order = [query for _, query in islice(forever(list(lists), setting.recipe.seed), count)]
    used = {query: lists[query] for query in dict.fromkeys(order)}  # what a short run never reaches is not graded
    tokenizer = reranker.pair_tokenizer
    encoded = encoded_lists(setting, tokenizer, used)
    if section.reward == "se":
        reference: Run = {
            query: {d.id: scaled(d.grade, tokenizer) for d in documents} for query, documents in used.items()
        }
    else:
        reference = reference_grades(setting, reranker, used, encoded)
    items = {
        query: ListItem(
            encoded[query],
            tuple(int(document.relevant) for document in documents),
            tuple(reference[query][document.id] for document in documents),
        )
        for query, documents in used.items()
    }
    return [items[query] for query in order]


def reference_grades(
    setting: Setting, reranker: Reranker, lists: GradedLists, encoded: dict[str, list[list[int]]]
) -> Run:
    """Expected grades of the model that training starts from, kept in the run's folder; malformed answers are 0."""
    product = "listwise/reference.run"
    saved = setting.folder / product

    def grade() -> None:
        if setting.study.has(product):
            return
        sequences = [ids for query in lists for ids in encoded[query]]
        scores, _ = reranker.score_sequences(sequences, kind="expected_grade", progress="reference grades")
        grades = iter(scores.clamp(min=0).tolist())
        run = {query: {document.id: next(grades) for document in documents} for query, documents in lists.items()}
        write_run(run, saved, tag="reference")
        setting.study.keep(product)

    processes.first_only(grade)
    return read_run(saved)
