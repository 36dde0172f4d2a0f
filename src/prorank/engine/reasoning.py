"""Grades after reasoning: generate, find the answer's tag, read the grade's probability behind it.

Knows prompts, models and tokens; nothing of collections or training.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress

from prorank.engine.generate import draw
from prorank.engine.scorer import answer_logits, length_batches, token_budget
from prorank.engine.scores import SCORES
from prorank.model.backbone import Backbone
from prorank.prompts.prompt import ANSWER_TAG
from prorank.prompts.tokenization import PairTokenizer
from prorank.types import ScoreKind

MAX_NEW_TOKENS = 2_048  # ERank's training data hold no longer reasoning (arXiv 2509.00520, section 3.2)
MALFORMED_SCORE = -1.0  # below every grade
_ANSWER = re.compile(r"<answer>\s*(\d+)\s*</answer>")


def parse_grade(text: str, highest: int = 10) -> int | None:
    """The last whole number inside answer tags, 0..highest; None if there is none.

    >>> parse_grade("<think>It is close.</think><answer>7</answer>"), parse_grade("<answer>11</answer>")
    (7, None)
    >>> parse_grade("<answer>seven</answer>") is None
    True
    """
    found = _ANSWER.findall(text)
    grade = int(found[-1]) if found and len(found[-1]) <= len(str(highest)) else None
    return grade if grade is not None and grade <= highest else None


class Reasoned(NamedTuple):
    """What a model said about each pair.

    Attributes:
        scores: (N,); `MALFORMED_SCORE` where no grade was found.
        grades: the generated grade, or None.
        texts: what was generated.
    """

    scores: torch.Tensor
    grades: list[int | None]
    texts: list[str]


def reason(
    backbone: Backbone,
    tokenizer: PairTokenizer,
    sequences: Sequence[list[int]],
    kind: ScoreKind = "graded_confidence",
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    temperature: float = 0.0,
    progress: str | None = None,
) -> Reasoned:
    """Let the model think about tokenised pairs and grade them.

    Args:
        backbone: a causal model.
        tokenizer: of a prompt that thinks.
        sequences: token ids from `tokenizer.encode`.
        kind: score formula over the grades' probabilities behind the generated answer tag.
        max_new_tokens: generation ends here at the latest; what has no answer then is malformed.
        temperature: 0 takes the likeliest token.
        progress: text of a progress bar, or None.
    """
    words, highest = tokenizer.tokenizer, len(tokenizer.answer_tokens) - 1
    texts = [""] * len(sequences)
    grades: list[int | None] = [None] * len(sequences)
    answered: dict[int, list[int]] = {}
    with Progress(disable=progress is None, transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task(progress or "", total=len(sequences))
        lengths = [len(ids) + max_new_tokens for ids in sequences]
        for batch in length_batches(lengths, max(token_budget(backbone), max(lengths, default=0))):
            drawn = draw(
                backbone,
                [sequences[i] for i in batch],
                1,
                max_new_tokens,
                [words.eos_token_id],
                temperature=temperature,
            )
            for i, (completion,) in zip(batch, drawn):
                texts[i] = words.decode(completion, skip_special_tokens=True)
                stop, grade = _behind_tag(words, completion), parse_grade(texts[i], highest)
                if stop is not None and grade is not None:
                    grades[i], answered[i] = grade, [*sequences[i], *completion[:stop]]
            bar.advance(task, len(batch))
    scores = torch.full((len(sequences),), MALFORMED_SCORE)
    if answered:
        logits = answer_logits(backbone, tokenizer, list(answered.values()))
        scores[list(answered)] = SCORES[kind](logits)
    return Reasoned(scores, grades, texts)


def _behind_tag(words: Any, completion: Sequence[int]) -> int | None:
    """How many tokens of a completion end with the last answer tag."""
    count = words.decode(completion).count(ANSWER_TAG)
    if not count:
        return None
    low, high = 1, len(completion)  # the shortest beginning that holds all tags
    while low < high:
        middle = (low + high) // 2
        if words.decode(completion[:middle]).count(ANSWER_TAG) == count:
            high = middle
        else:
            low = middle + 1
    return low
