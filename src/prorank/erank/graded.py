"""Training items of ERank's stages: graded lists, pairs with answers, lists with reference grades.

Knows the recipe, the collection and tokenizers; no trainers.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from prorank.data.runs import Run
from prorank.data.trec import read_run, write_run
from prorank.erank.graders import HIGHEST, load_teacher
from prorank.erank.sft import SftItem
from prorank.erank.synthesis import GradedDocument, GradedLists, read_graded, synthesize
from prorank.evaluation.rerank import sample_queries
from prorank.prompts.tokenization import PairTokenizer
from prorank.reranker import Reranker
from prorank.training import distributed
from prorank.training.context import RunContext, training_subsets
from prorank.training.lists import ListItem, build_candidate_lists, forever
from prorank.util.errors import DataError


def graded_lists(context: RunContext) -> GradedLists:
    """The recipe's graded lists: from its file, or by its teacher, kept in the run's folder."""
    section, recipe = context.recipe.grades, context.recipe
    saved = Path(section.file) if section.file else context.folder / "grades.jsonl"

    def ask() -> None:
        if section.file or context.study.has(saved.name):
            return
        candidates = []
        for subset in training_subsets(context):
            qrels = sample_queries(subset.collection.judgments(recipe.data.train), section.queries, recipe.seed)
            candidates += build_candidate_lists(subset.collection, qrels, subset.run, section.documents, recipe.seed)
        teacher = load_teacher(
            section.teacher, section.generations, section.max_new_tokens, section.temperature, section.base_url
        )
        found = synthesize(context.collection, candidates, teacher, saved, context.console)
        context.console.print("  grades: " + "  ".join(f"{key} {value:.4g}" for key, value in found.items()))
        context.study.keep(saved.name)

    distributed.run_on_main(ask)
    return for_training(context, read_graded(saved, context.collection), saved)


def for_training(context: RunContext, lists: GradedLists, file: Path) -> GradedLists:
    """The lists of training queries, of documents that may be trained on; prints how many are left out.

    Raises:
        DataError: no list is left.
    """
    subsets, split = training_subsets(context), context.recipe.data.train
    queries = {query for subset in subsets for query in subset.collection.judgments(split)}
    documents = {document for subset in subsets for document in subset.collection.documents}
    kept = {q: [d for d in own if d.id in documents] for q, own in lists.items() if q in queries}
    kept = {query: own for query, own in kept.items() if own}
    if not kept:
        raise DataError(f"{file}: none of its {len(lists)} graded queries may be trained on (split '{split}')")
    if len(kept) < len(lists):
        context.console.print(
            f"  [yellow]{len(lists) - len(kept)} graded queries are not in '{split}', or dev or test hold them: "
            "left out[/yellow]"
        )
    return kept


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


def encoded_lists(context: RunContext, tokenizer: PairTokenizer, lists: GradedLists) -> dict[str, list[list[int]]]:
    """Query id -> token ids of its documents' pairs."""
    texts = context.texts()
    pairs = [(context.collection.queries[q], texts[d.id]) for q, documents in lists.items() for d in documents]
    sequences, truncation = tokenizer.encode(pairs)
    if truncation.pairs:
        context.console.print(
            f"  {truncation.pairs} of {len(pairs)} training pairs are cut to fit; not read: {truncation.not_read}"
        )
    rows = iter(sequences)
    return {query: [next(rows) for _ in documents] for query, documents in lists.items()}


def sft_items(context: RunContext, tokenizer: PairTokenizer) -> list[SftItem]:
    """Pairs with their answers in training order; each epoch in its own seeded order."""
    section = context.recipe.sft
    assert section is not None
    lists = graded_lists(context)
    encoded = encoded_lists(context, tokenizer, lists)
    items = [
        SftItem(ids, completion_of(tokenizer, document))
        for query, documents in lists.items()
        for ids, document in zip(encoded[query], documents)
    ]
    count = section.steps * section.pairs_per_step
    return [item for _, item in islice(forever(items, context.recipe.seed), count)]


def listwise_items(context: RunContext, reranker: Reranker) -> list[ListItem]:
    """Candidate lists in training order, with the reference grades of the reward.

    References are the teacher's grades for r_SE, else those of the model that training starts from.
    """
    section = context.recipe.listwise
    assert section is not None
    lists = {q: documents for q, documents in graded_lists(context).items() if any(d.relevant for d in documents)}
    if not lists:
        raise DataError("no graded list holds a relevant document")
    count = section.steps * section.queries_per_step
    order = [query for _, query in islice(forever(list(lists), context.recipe.seed), count)]
    used = {query: lists[query] for query in dict.fromkeys(order)}  # what a short run never reaches is not graded
    tokenizer = reranker.pair_tokenizer
    encoded = encoded_lists(context, tokenizer, used)
    if section.reward == "se":
        reference: Run = {
            query: {d.id: scaled(d.grade, tokenizer) for d in documents} for query, documents in used.items()
        }
    else:
        reference = reference_grades(context, reranker, used, encoded)
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
    context: RunContext, reranker: Reranker, lists: GradedLists, encoded: dict[str, list[list[int]]]
) -> Run:
    """Expected grades of the model that training starts from, kept in the run's folder; malformed answers are 0."""
    product = "listwise/reference.run"
    saved = context.folder / product

    def grade() -> None:
        if context.study.has(product):
            return
        sequences = [ids for query in lists for ids in encoded[query]]
        scores, _ = reranker.score_sequences(sequences, kind="expected_grade", progress="reference grades")
        grades = iter(scores.clamp(min=0).tolist())
        run = {query: {document.id: next(grades) for document in documents} for query, documents in lists.items()}
        write_run(run, saved, tag="reference")
        context.study.keep(product)

    distributed.run_on_main(grade)
    return read_run(saved)
