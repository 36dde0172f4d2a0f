"""ProRank's preliminary analysis on any model: does it understand the prompt, are its states and scores narrow?

For each query one relevant document, hard negatives from the top of BM25 and one random document; for each prompt one
forward pass, and for causal models the greedy answer. The formulas are in `prorank.evaluation.analysis` and
`prorank.warmup.metrics`; this module brings them models, prompts and a collection.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress

from prorank.data.collection import Collection
from prorank.data.overlap import joined, no_negatives
from prorank.data.runs import Run
from prorank.data.splits import load_with_split, require_relevant
from prorank.engine.generate import draw
from prorank.engine.scorer import answer_logits, length_batches, slot_states, token_budget
from prorank.engine.scores import SCORES
from prorank.evaluation import analysis
from prorank.evaluation.rerank import sample_queries
from prorank.evaluation.ties import distinct_scores
from prorank.first_stage.bm25 import BM25Index, bm25_run
from prorank.first_stage.mining import TIERS, mine_negatives
from prorank.model.backbone import Backbone
from prorank.model.checkpoint import CheckpointSettings
from prorank.model.classifier import ClassifierBackbone
from prorank.model.loading import resolve_source
from prorank.prompts.builtin import QWEN_SYSTEM, load_prompt
from prorank.prompts.chat import chat_frame
from prorank.prompts.prompt import Prompt
from prorank.prompts.tokenization import PairTokenizer
from prorank.reranker import Reranker
from prorank.types import Precision
from prorank.util.errors import CheckpointError, DataError, PromptError
from prorank.util.files import distinct_names
from prorank.util.provenance import hardware, versions
from prorank.util.study import model_fingerprint
from prorank.warmup.metrics import PairOutcome, pair_outcomes, verdict_metrics

logger = logging.getLogger(__name__)
PROMPTS = ("prorank", "prorank-short", "instruction-first", "yesno")  # shipped, with a verdict of two answers
KINDS = ("relevant", "hard", "random")
ANSWER_TOKENS = 8  # of a greedy answer
PROJECTED = 64  # states whose logits over the whole vocabulary exist at a time


class Pair(NamedTuple):
    """A query and a document: relevant, or a `hard` or `random` negative of it."""

    query: str
    document: str
    kind: str


def analyze_models(
    models: Sequence[str],
    collection: str,
    *,
    split: str = "test",
    prompts: Sequence[str] = (),
    queries: int = 50,
    hard: int = 2,
    max_length: int | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    seed: int = 13,
) -> dict[str, Any]:
    """Analyse models on the same pairs of a collection.

    Args:
        models: checkpoint or model folders, GGUF files, hub names.
        collection: folder, bundled name or hub data set.
        split: whose queries; made reproducibly from `seed` where the collection lacks it.
        prompts: names or YAML files; empty: each model's own, then the shipped ones of two answers.
        queries: a seeded sample of the split's.
        hard: negatives per query from the first ten ranks of BM25, 1 to 10.
        max_length: tokens of a pair; None takes the model's own.
        device, precision: as for `Reranker`.
        seed: of made splits, of the sample and of the documents drawn.

    Returns:
        `rows`, one per model and prompt, and how they were made.

    Raises:
        CheckpointError: a model cannot be found or read, or has no prompt.
        InputError: a model is given twice.
        PromptError: a prompt that was asked for does not suit a model.
        DataError: unknown split, nothing relevant in it, or no negatives.
    """
    names = distinct_names(models)
    sources = {model: resolve_source(model) for model in models}  # a mistyped name is told before anything runs
    chosen = [load_prompt(name) for name in prompts]
    loaded = load_with_split(collection, split, seed=seed)
    pairs = drawn_pairs(loaded, split, queries, hard, seed)
    rows: list[dict[str, Any]] = []
    left_out: list[dict[str, str]] = []
    for model, name in zip(models, names):
        reranker = Reranker.from_pretrained(model, max_length=max_length, device=device, precision=precision)
        for prompt in chosen or default_prompts(reranker):
            try:
                tokenizer = asking(reranker, prompt)
            except PromptError as error:
                if chosen:
                    raise
                logger.warning("%s: prompt '%s' is left out: %s", model, prompt.name, error.message)
                left_out.append({"model": name, "prompt": prompt.name, "why": error.message})
                continue
            own = prompt == reranker.settings.prompt
            found = analyzed(reranker, tokenizer, loaded, pairs)
            rows.append({"model": name, "prompt": prompt.name, "own_prompt": own, **found})
    return {
        "collection": loaded.name,
        "split": split,
        "queries": len({pair.query for pair in pairs}),
        "pairs": {kind: sum(pair.kind == kind for pair in pairs) for kind in KINDS},
        "rows": rows,
        "left_out": left_out,
        "models": {
            name: {"source": model, "fingerprint": model_fingerprint(source)}
            for name, (model, source) in zip(names, sources.items())
        },
        "data_fingerprint": loaded.fingerprint,
        "carved_splits": loaded.carved,
        "seed": seed,
        "versions": versions(),
        "hardware": hardware(),
    }


def drawn_pairs(collection: Collection, split: str, queries: int, hard: int, seed: int) -> list[Pair]:
    """For each query the relevant document that comes first by id, its hard negatives and a random one."""
    qrels = sample_queries(collection.judgments(split), queries, seed)
    require_relevant(qrels, f"split '{split}' of {collection.name}")
    texts = {query: collection.queries[query] for query in qrels}
    run = bm25_run(BM25Index.build(collection.documents), collection, texts, TIERS["hard"][1])
    barred, documents = no_negatives(collection, qrels), list(collection.documents)
    hardest = mine_negatives(run, qrels, {"hard": hard}, excluded=barred, seed=seed).negatives
    others = joined(barred, hardest)
    drawn = mine_negatives(run, qrels, {}, random_documents=documents, random=1, excluded=others, seed=seed).negatives
    pairs = []
    for query, judged in qrels.items():
        best = max(judged.values())
        pairs.append(Pair(query, min(d for d, grade in judged.items() if grade == best), "relevant"))
        pairs += [Pair(query, document, "hard") for document in hardest[query]]
        pairs += [Pair(query, document, "random") for document in drawn[query]]
    if all(pair.kind == "relevant" for pair in pairs):
        raise DataError(f"split '{split}' of {collection.name}: no query has a document that is not relevant")
    return pairs


def default_prompts(reranker: Reranker) -> list[Prompt]:
    """The model's own prompt, then the shipped ones of two answers."""
    own = reranker.settings.prompt
    shipped = [load_prompt(name) for name in PROMPTS]
    return [*([own] if own is not None else []), *(prompt for prompt in shipped if prompt != own)]


def asking(reranker: Reranker, prompt: Prompt) -> PairTokenizer:
    """A pair tokenizer of any prompt for a model that is loaded already.

    Raises:
        CheckpointError: the model is a classifier or an export.
        PromptError: the prompt asks for reasoning, or does not suit the tokenizer.
    """
    backbone, settings = reranker.backend, reranker.settings
    if not isinstance(backbone, Backbone) or isinstance(backbone, ClassifierBackbone):
        raise CheckpointError(
            f"'{settings.base_model}' is a classifier or an export: it reads no prompt of one's choice",
            hint="analyse a language model, or the checkpoint that was exported",
        )
    if prompt.thinks:
        raise PromptError(f"the prompt '{prompt.name}' asks for reasoning; its answer has no one slot to look at")
    if prompt == settings.prompt:
        return reranker.pair_tokenizer
    frame = checkpoint_frame(settings, prompt) or chat_frame(backbone.tokenizer, prompt, backbone.config.model_type)
    return PairTokenizer(backbone.tokenizer, prompt, backbone.family, frame, settings.max_length, settings.instruction)


def checkpoint_frame(settings: CheckpointSettings, prompt: Prompt) -> tuple[str, str] | None:
    """The chat turn of a checkpoint's own prompt, where another prompt is asked in the same one.

    A saved checkpoint's chat template takes a query and a document in place of the user's text, for other libraries, so
    the turn cannot be asked of it any more.

    Returns:
        Text before and after the prompt; None where the two prompts differ in what their turns are made from.
    """

    def turn(asked: Prompt) -> tuple[Any, ...]:
        return asked.frame, asked.system or QWEN_SYSTEM, asked.thinks  # a template's own system text or Qwen's

    own = settings.prompt
    return settings.frame if own is not None and turn(own) == turn(prompt) else None


@torch.inference_mode()
def analyzed(
    reranker: Reranker, tokenizer: PairTokenizer, collection: Collection, pairs: Sequence[Pair]
) -> dict[str, Any]:
    """All measures of one model with one prompt."""
    backbone = reranker.backbone
    texts = [(collection.queries[p.query], collection.documents[p.document].content) for p in pairs]
    sequences, _ = tokenizer.encode(texts)
    numbers = {query: place for place, query in enumerate(dict.fromkeys(pair.query for pair in pairs))}
    groups = [numbers[pair.query] for pair in pairs]
    title = f"{tokenizer.prompt.name}: {{}} {len(pairs)} pairs"
    states = slot_states(backbone, tokenizer, sequences, groups=groups, progress=title.format("read"))
    first, outcomes = first_words(backbone, tokenizer, states, pairs)
    if tokenizer.stem is None:
        logits = backbone.project(states.to(backbone.device), tokenizer.answer_ids).cpu()
    else:
        logits = answer_logits(backbone, tokenizer, sequences, groups=groups, progress=title.format("score"))
    forced = logits.argmax(-1).tolist()
    spoken, answers = [outcome.verdict for outcome in outcomes], []
    if backbone.family == "causal":
        answers = greedy(backbone, tokenizer, sequences, title.format("answer"))
        spoken = [verdict_of(tokens, tokenizer) for tokens in answers]
    return {
        "answers": list(tokenizer.prompt.answers),
        **understanding(tokenizer.prompt, pairs, outcomes, spoken, forced),
        "first_tokens": analysis.most_frequent(first),
        "first_answers": [backbone.tokenizer.decode(tokens) for tokens in answers[:3]],
        **narrowness(states, logits, groups, pairs, forced),
    }


def first_words(
    backbone: Backbone, tokenizer: PairTokenizer, states: torch.Tensor, pairs: Sequence[Pair]
) -> tuple[list[str], list[PairOutcome]]:
    """The likeliest token after each prompt, and its outcome as warmup measures it."""
    ids = torch.tensor(list(dict.fromkeys(tokens[0] for tokens in tokenizer.answer_tokens)))
    words: list[str] = []
    outcomes: list[PairOutcome] = []
    for chunk, own in zip(states.split(PROJECTED), torch.arange(len(pairs)).split(PROJECTED)):
        logits = backbone.project(chunk.to(backbone.device)).float().cpu()
        labels = [len(ids) - 1 if pairs[place].kind == "relevant" else 0 for place in own.tolist()]
        outcomes += pair_outcomes(logits, ids, labels)
        words += [backbone.tokenizer.decode([token]) for token in logits.argmax(-1).tolist()]
    return words, outcomes


def greedy(
    backbone: Backbone, tokenizer: PairTokenizer, sequences: Sequence[list[int]], progress: str | None = None
) -> list[list[int]]:
    """The likeliest answer to each prompt, at most `ANSWER_TOKENS` tokens, the end of the turn included.

    Raises:
        CheckpointError: the tokenizer names no end of turn.
    """
    end = tokenizer.tokenizer.eos_token_id
    if end is None:
        raise CheckpointError("the tokenizer names no end of turn (eos_token)")
    found: dict[int, list[int]] = {}
    lengths = [len(ids) + ANSWER_TOKENS for ids in sequences]
    with Progress(disable=progress is None, transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task(progress or "", total=len(sequences))
        for batch in length_batches(lengths, token_budget(backbone)):
            drawn = draw(backbone, [sequences[i] for i in batch], 1, ANSWER_TOKENS, [end], temperature=0.0)
            found.update(zip(batch, (answer for (answer,) in drawn)))
            bar.advance(task, len(batch))
    return [found[place] for place in range(len(sequences))]


def verdict_of(tokens: Sequence[int], tokenizer: PairTokenizer) -> int:
    """Which answer a generated turn is: exactly that, what closes it, and the end of the turn; -1 for anything else."""
    if not tokens or tokens[-1] != tokenizer.tokenizer.eos_token_id:
        return -1
    said, prompt = tokenizer.tokenizer.decode(tokens[:-1]), tokenizer.prompt
    closed = [answer + prompt.closing for answer in prompt.answers]
    return closed.index(said) if said in closed else -1


def understanding(
    prompt: Prompt, pairs: Sequence[Pair], outcomes: Sequence[PairOutcome], spoken: Sequence[int], forced: Sequence[int]
) -> dict[str, Any]:
    """Whether the prompt is understood: format, answers and verdicts.

    Args:
        prompt: with its answers, worst to best; those of the better half mean "relevant".
        pairs: what was asked.
        outcomes: of the likeliest first token.
        spoken: the answer that was given, -1 for none.
        forced: the likeliest of the answers.
    """
    middle = (len(prompt.answers) - 1) / 2
    found: dict[str, Any] = {
        "format_rate": sum(verdict >= 0 for verdict in spoken) / len(pairs),
        "answer_mass": sum(outcome.answer_mass for outcome in outcomes) / len(pairs),
    }
    for name, verdicts in (("spoken", spoken), ("preferred", forced)):
        judged = [
            PairOutcome(-1 if v < 0 else int(v > middle), int(p.kind == "relevant"), o.entropy, o.answer_mass)
            for p, v, o in zip(pairs, verdicts, outcomes)
        ]
        given = [prompt.answers[verdict] for verdict in verdicts if verdict >= 0]
        found[f"{name}_answers"] = dict(analysis.most_frequent(given, len(prompt.answers)))
        for kind in ("random", "hard"):
            chosen = [outcome for pair, outcome in zip(pairs, judged) if pair.kind in ("relevant", kind)]
            negatives = any(pair.kind == kind for pair in pairs)
            found[f"{name}_balanced_{kind}"] = verdict_metrics(chosen).balanced_accuracy if negatives else None
    return found


def narrowness(
    states: torch.Tensor, logits: torch.Tensor, groups: Sequence[int], pairs: Sequence[Pair], forced: Sequence[int]
) -> dict[str, Any]:
    """How many directions the states use, and how finely the scores tell documents apart.

    Args:
        states: (N, H) at the answer slots.
        logits: (N, K) of the answers.
        groups: N numbers of queries.
        pairs: what was asked.
        forced: the likeliest of the answers.
    """
    hidden = states.numpy()
    scores = SCORES["logit_difference" if logits.shape[1] == 2 else "graded_confidence"](logits).tolist()
    within, between = analysis.mean_cosines(hidden, groups)
    spread, of_queries = analysis.spreads(scores, groups)
    run: Run = {}
    by_kind: dict[str, list[list[float]]] = {kind: [[] for _ in range(max(groups) + 1)] for kind in KINDS}
    for pair, group, score in zip(pairs, groups, scores):
        run.setdefault(pair.query, {})[pair.document] = score
        by_kind[pair.kind][group].append(score)
    return {
        "order_random": analysis.pairwise_order(by_kind["relevant"], by_kind["random"]),
        "order_hard": analysis.pairwise_order(by_kind["relevant"], by_kind["hard"]),
        "effective_rank": analysis.effective_rank(hidden),
        "effective_rank_limit": min(len(pairs) - 1, hidden.shape[1]),
        "isotropy": analysis.isotropy(hidden),
        "cosine_within": within,
        "cosine_between": between,
        "distinct_scores": distinct_scores(run),
        "documents": len(pairs) / len(run),
        "tied_scores": analysis.tied_pairs(scores, groups),
        "tied_verdicts": analysis.tied_pairs([float(verdict) for verdict in forced], groups),
        "spread_within": spread,
        "spread_between": of_queries,
        "saturation": analysis.saturation(logits.softmax(-1)[:, -1].tolist()),
    }
