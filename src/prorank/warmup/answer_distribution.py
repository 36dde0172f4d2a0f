"""One forward for one-token answers: what a model says after a prompt, and whether its turn ends there.

The prompt is computed once; what follows each answer is read in the same pass, from a tree that branches after the
prompt. Knows models and batches; nothing of rewards or losses.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from prorank.engine.generate import build_tree, token_log_probs
from prorank.model.backbone import Backbone
from prorank.model.packing import unpadded
from prorank.prompts.tokenization import PairTokenizer
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


def unwrapped(model: Any) -> Backbone:
    """The backbone inside a wrapper for several processes (DDP); FSDP2 wraps in place."""
    return getattr(model, "module", model)


def completion_log_probs(
    model: Any, inputs: dict[str, Any], completions: list[list[list[int]]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """How likely completions are, each prompt read once.

    Args:
        model: the backbone, or a wrapper of it.
        inputs: `input_ids`, `attention_mask` (B, T) and `slot` (B,).
        completions: G for each of B prompts, each a list of token ids.

    Returns:
        Log-probabilities and mask, both (B * G, L): zeros behind a completion's end.
    """
    tree = build_tree(unpadded(inputs["input_ids"], inputs["attention_mask"]), completions, inputs["input_ids"].device)
    hidden = model(inputs["input_ids"], inputs["attention_mask"], inputs["slot"], pack=tree.pack)
    return tree.rows(token_log_probs(unwrapped(model), hidden, tree.targets))


def answer_distribution(
    model: Any, inputs: dict[str, Any], answer_ids: torch.Tensor, end_id: int | None
) -> AnswerDistribution:
    """First-token logits, and whether the turn ends after each answer; one forward pass.

    Args:
        model: the backbone, or a wrapper of it.
        inputs: `input_ids`, `attention_mask` (B, T) and `slot` (B,).
        answer_ids: (K,).
        end_id: token that ends the turn; None where there is no turn.
    """
    arguments = (inputs["input_ids"], inputs["attention_mask"], inputs["slot"])
    if end_id is None:
        return AnswerDistribution(model(*arguments), None)
    prompts, count = unpadded(inputs["input_ids"], inputs["attention_mask"]), len(answer_ids)
    branches = [[answer, end_id] for answer in answer_ids.tolist()]
    tree = build_tree(prompts, [branches] * len(prompts), inputs["input_ids"].device)
    hidden = model(*arguments, pack=tree.pack)
    hidden = hidden.view(len(prompts), count, 2, -1)  # after the prompt, after the answer
    ends = torch.full((len(prompts) * count,), end_id, device=hidden.device)
    backbone = unwrapped(model)
    ending = grpo.either_way(token_log_probs(backbone, hidden[:, :, 1].flatten(0, 1), ends))  # (B * K, 2)
    return AnswerDistribution(backbone.project(hidden[:, 0, 0]), ending.view(len(prompts), count, 2))


def verdict_log_probs(
    model: Any, inputs: dict[str, Any], count: int, end_id: int | None, tokens: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """G verdicts a prompt and how likely they are.

    For causal models a verdict is two tokens, the second of which should end the turn. First tokens are drawn in
    a pass without gradient; then one pass reads the prompt and, once each, what follows the distinct ones.

    Args:
        model, inputs, end_id: as for `answer_distribution`.
        count: G.
        tokens: (B, G, L) verdicts drawn before; None draws anew.

    Returns:
        Logits (B, V) after the prompt, tokens (B, G, L) and their log-probabilities (B, G, L); L is 1 or 2.
    """
    arguments = (inputs["input_ids"], inputs["attention_mask"], inputs["slot"])
    if end_id is None:
        logits = model(*arguments)
        if tokens is None:
            tokens = torch.multinomial(logits.detach().softmax(-1), count, replacement=True)[..., None]
        return logits, tokens, logits.log_softmax(-1).gather(-1, tokens[..., 0])[..., None]
    backbone = unwrapped(model)
    if tokens is None:
        with torch.no_grad():
            first = torch.multinomial(backbone(*arguments).softmax(-1), count, replacement=True)  # (B, G)
    else:
        first = tokens[..., 0]
    distinct = [list(dict.fromkeys(row)) for row in first.tolist()]
    # the second token of a branch only marks the place whose logits are wanted
    tree = build_tree(
        unpadded(inputs["input_ids"], inputs["attention_mask"]),
        [[[token, 0] for token in row] for row in distinct],
        first.device,
    )
    hidden = model(*arguments, pack=tree.pack)
    hidden = hidden.view(-1, 2, hidden.shape[-1])  # (D, 2, H): after the prompt, after the verdict
    starts = torch.tensor([0, *(len(row) for row in distinct[:-1])], device=first.device).cumsum(0)  # (B,)
    logits = backbone.project(hidden[starts, 0])
    places = [[row.index(token) for token in drawn] for row, drawn in zip(distinct, first.tolist())]
    index = starts[:, None] + torch.tensor(places, device=first.device)  # (B, G)
    after = backbone.project(hidden[:, 1]).log_softmax(-1)[index]  # (B, G, V)
    if tokens is None:
        second = torch.multinomial(after.detach().exp().flatten(0, 1), 1).view_as(first)
        tokens = torch.stack([first, second], -1)
    log_prob = [logits.log_softmax(-1).gather(-1, first), after.gather(-1, tokens[..., 1:])[..., 0]]
    return logits, tokens, torch.stack(log_prob, -1)
