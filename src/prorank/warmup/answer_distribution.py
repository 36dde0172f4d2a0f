"""One forward for one-token answers: what a model says after a prompt, and whether its turn ends there.

The prompt is computed once; what follows each answer is read in the same pass, from a tree that branches after the
prompt. Knows models and token ids; nothing of rewards or losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from prorank.engine.generate import build_tree, token_log_probs
from prorank.model.backbone import Backbone, unwrapped
from prorank.prompts.tokenization import PairTokenizer
from prorank.training.reading import read_slots
from prorank.util.errors import TrainingError
from prorank.warmup import grpo


class AnswerDistribution(NamedTuple):
    """What a model may say after a prompt.

    Attributes:
        logits: (B, V) of the first token.
        ending: (B, K, 2) log-probabilities that the turn ends, or goes on, after each answer; None without turns.
    """

    logits: torch.Tensor
    ending: torch.Tensor | None


def end_of_turn(backbone: Backbone, tokenizer: PairTokenizer) -> int | None:
    """The token that ends a causal model's turn; None for masked models, whose answer has no next token.

    Raises:
        TrainingError: the tokenizer names none, or the model cannot branch after a prompt.
    """
    if backbone.family != "causal":
        return None
    if not backbone.supports_packing:
        raise TrainingError(
            f"{type(backbone.core).__name__} runs in padded batches only, which cannot look behind each answer",
            hint="set warmup.end_of_turn=false",
        )
    if tokenizer.tokenizer.eos_token_id is None:
        raise TrainingError("the tokenizer names no end of turn (eos_token)", hint="set warmup.end_of_turn=false")
    return int(tokenizer.tokenizer.eos_token_id)


def answer_distribution(
    model: Any, tokenizer: PairTokenizer, sequences: Sequence[list[int]], end_id: int | None
) -> AnswerDistribution:
    """First-token logits, and whether the turn ends after each answer; one forward pass.

    Args:
        model: the backbone, or a wrapper of it.
        tokenizer: knows the answers and the slot.
        sequences: token ids of B pairs.
        end_id: token that ends the turn; None where there is no turn.
    """
    if end_id is None:
        return AnswerDistribution(read_slots(model, tokenizer, sequences), None)
    backbone, count = unwrapped(model), len(tokenizer.answer_ids)
    branches = [[answer, end_id] for answer in tokenizer.answer_ids]
    tree = build_tree(sequences, [branches] * len(sequences), backbone.device)
    hidden = model(pack=tree.pack)
    hidden = hidden.view(len(sequences), count, 2, -1)  # after the prompt, after the answer
    ends = torch.full((len(sequences) * count,), end_id, device=hidden.device)
    ending = grpo.either_way(token_log_probs(backbone, hidden[:, :, 1].flatten(0, 1), ends))  # (B * K, 2)
    return AnswerDistribution(backbone.project(hidden[:, 0, 0]), ending.view(len(sequences), count, 2))


def after_verdicts(
    model: Any, sequences: Sequence[list[int]], verdicts: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a causal model says after each prompt, and after each distinct verdict on it; one forward pass.

    Args:
        model: the backbone, or a wrapper of it.
        sequences: token ids of B prompts.
        verdicts: distinct first tokens of each prompt.

    Returns:
        Logits (B, V) after the prompts, and log-probabilities (D, V) after their verdicts, prompt after prompt.
    """
    backbone = unwrapped(model)
    # the second token of a branch only marks the place whose logits are wanted
    tree = build_tree(sequences, [[[token, 0] for token in row] for row in verdicts], backbone.device)
    hidden = model(pack=tree.pack)
    hidden = hidden.view(-1, 2, hidden.shape[-1])  # (D, 2, H): after the prompt, after the verdict
    starts = first_places(verdicts, hidden.device)
    return backbone.project(hidden[starts, 0]), backbone.project(hidden[:, 1]).log_softmax(-1)


def distinct(tokens: torch.Tensor) -> list[list[int]]:
    """Each row's different tokens, in the order of their first coming.

    >>> distinct(torch.tensor([[7, 5, 7], [3, 3, 3]]))
    [[7, 5], [3]]
    """
    return [list(dict.fromkeys(row)) for row in tokens.tolist()]


def first_places(verdicts: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    """(B,) where each prompt's verdicts begin among all of them."""
    return torch.tensor([0, *(len(row) for row in verdicts[:-1])], device=device).cumsum(0)


def drawn_log_probs(
    logits: torch.Tensor, after: torch.Tensor | None, first: torch.Tensor, tokens: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """G drawn verdicts per prompt and how likely they are; their second tokens are drawn here where they are not known.

    Args:
        logits: (B, V) after the prompts.
        after: (D, V) from `after_verdicts`; None where a verdict is one token.
        first: (B, G) first tokens.
        tokens: (B, G, L) whole verdicts drawn before, or None.

    Returns:
        Tokens (B, G, L) and their log-probabilities (B, G, L); L is 1 or 2.
    """
    log_prob = logits.log_softmax(-1).gather(-1, first)
    if after is None:
        return first[..., None], log_prob[..., None]
    branches = distinct(first)
    places = [[row.index(token) for token in drawn] for row, drawn in zip(branches, first.tolist())]
    index = first_places(branches, first.device)[:, None] + torch.tensor(places, device=first.device)  # (B, G)
    if tokens is None:
        second = torch.multinomial(after.detach()[index].exp().flatten(0, 1), 1).view_as(first)
        tokens = torch.stack([first, second], -1)
    return tokens, torch.stack([log_prob, after[index, tokens[..., 1]]], -1)
