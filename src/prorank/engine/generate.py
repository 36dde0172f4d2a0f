"""Completions of several tokens: drawn from a prompt's cache, then scored with the prompt computed once.

A prompt is read once for its G completions. Drawing decodes all of them from copies of the prompt's cache. The loss
runs over one packed row: the prompt, then every completion as a span that continues it (a tree of attention), and
token log-probabilities are taken in chunks, so that no tensor of completions x tokens x vocabulary ever exists.

This module knows backbones, packs and tokens; nothing of rewards or losses.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from prorank.model.backbone import Backbone, unwrapped
from prorank.model.packing import Pack, Span

CHUNK = 256  # positions whose vocabulary logits exist at a time


@dataclass
class Tree:
    """A packed row of prompts and their completions, and where each completion token is predicted.

    Attributes:
        pack: the row; its slots are the predicting positions, completion after completion.
        targets: (M,) the tokens predicted there.
        lengths: tokens of each completion.
    """

    pack: Pack
    targets: torch.Tensor
    lengths: list[int]

    def rows(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Values at the predicting positions (M,) -> (N, L) padded with 0, and its mask (N, L)."""
        padded = pad_sequence(list(torch.split(values, self.lengths)), batch_first=True)
        mask = (
            torch.arange(padded.shape[1], device=values.device)[None]
            < torch.tensor(self.lengths, device=values.device)[:, None]
        )
        return padded, mask.to(values.dtype)


def build_tree(prompts: Sequence[list[int]], completions: Sequence[Sequence[list[int]]], device: torch.device) -> Tree:
    """One row of prompts with their completions branching off.

    Args:
        prompts: token ids.
        completions: for each prompt its completions, each at least one token.

    >>> tree = build_tree([[1, 2]], [[[7, 8], [9]]], torch.device("cpu"))
    >>> tree.pack.input_ids.tolist(), tree.pack.position_ids.tolist()
    ([[1, 2, 7]], [[0, 1, 2]])
    >>> tree.pack.slots.tolist(), tree.targets.tolist()  # 7 and 9 are predicted after the prompt, 8 after 7
    ([1, 2, 1], [7, 8, 9])
    """
    ids: list[int] = []
    positions: list[int] = []
    spans: list[Span] = []
    slots: list[int] = []
    targets: list[int] = []
    lengths: list[int] = []
    for prompt, branches in zip(prompts, completions):
        start, stop = len(ids), len(ids) + len(prompt)
        ids += prompt
        positions += range(len(prompt))
        spans.append(Span(start, stop))
        for branch in branches:
            at = len(ids)
            slots += [stop - 1, *range(at, at + len(branch) - 1)]
            targets += branch
            lengths.append(len(branch))
            if len(branch) > 1:  # the last token predicts nothing that counts
                ids += branch[:-1]
                positions += range(len(prompt), len(prompt) + len(branch) - 1)
                spans.append(Span(at, len(ids), start, stop))
    pack = Pack(
        torch.tensor([ids], device=device),
        torch.tensor([positions], device=device),
        spans,
        torch.tensor(slots, device=device),
        list(range(len(slots))),
        causal=True,
    )
    return Tree(pack, torch.tensor(targets, device=device), lengths)


def token_log_probs(backbone: Backbone, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log p(target) at each position, in chunks that are computed again in the backward pass.

    Args:
        hidden: (M, H) from `Backbone.packed_hidden`.
        targets: (M,) token ids.

    Returns:
        (M,) float32.
    """

    def chunk(states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return -F.cross_entropy(backbone.project(states), wanted, reduction="none")

    pieces = [
        checkpoint(chunk, h, t, use_reentrant=False) if torch.is_grad_enabled() else chunk(h, t)
        for h, t in zip(torch.split(hidden, CHUNK), torch.split(targets, CHUNK))
    ]
    return torch.cat(pieces)


def completion_log_probs(
    model: Any, prompts: Sequence[list[int]], completions: Sequence[Sequence[list[int]]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token log-probabilities of completions, each prompt computed once.

    Args:
        model: a causal backbone, or a wrapper of it for several processes.
        prompts: token ids.
        completions: for each prompt its completions, each at least one token.

    Returns:
        (N, L) log-probabilities padded with 0, and their mask; completions in the order given.
    """
    backbone = unwrapped(model)
    tree = build_tree(prompts, completions, backbone.device)
    return tree.rows(token_log_probs(backbone, model(pack=tree.pack), tree.targets))


def cache_name(layers: Any) -> str:
    """What a model calls its cache of keys and values; newer versions of transformers renamed it."""
    return "cache" if "cache" in inspect.signature(layers.forward).parameters else "past_key_values"


@torch.no_grad()
def draw(
    backbone: Backbone,
    prompts: Sequence[list[int]],
    count: int,
    max_tokens: int,
    end_ids: Sequence[int],
    temperature: float = 1.0,
) -> list[list[list[int]]]:
    """Sample `count` completions of each prompt from copies of the prompt's cache, by torch's random numbers.

    Args:
        backbone: a causal model.
        prompts: token ids.
        count: completions per prompt (G).
        max_tokens: a completion ends here at the latest.
        end_ids: tokens that end a completion; they are its last token.
        temperature: 0 takes the likeliest token.

    Returns:
        Completions by prompt, without padding.
    """
    device, core = backbone.device, backbone.core
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long, device=device)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):  # padded on the left: the next token follows every row's end
        ids[row, longest - len(prompt) :] = torch.tensor(prompt, device=device)
        mask[row, longest - len(prompt) :] = 1
    with backbone.inference(), backbone.autocast():
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        first = core.base_model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True)
        name = cache_name(core.base_model)
        cache = first[name]
        cache.batch_repeat_interleave(count)
        hidden = first.last_hidden_state[:, -1].repeat_interleave(count, 0)  # (B * G, H)
        mask = mask.repeat_interleave(count, 0)
        position = positions[:, -1:].repeat_interleave(count, 0)
        ends = torch.tensor(list(end_ids), device=device)
        done = torch.zeros(len(hidden), dtype=torch.bool, device=device)
        drawn = []
        for step in range(max_tokens):
            logits = backbone.project(hidden.float())
            if temperature == 0:
                token = logits.argmax(-1, keepdim=True)
            else:
                token = torch.multinomial((logits / temperature).softmax(-1), 1)  # (B * G, 1)
            drawn.append(torch.where(done[:, None], -1, token))
            done |= torch.isin(token[:, 0], ends)
            if done.all() or step == max_tokens - 1:
                break
            mask = torch.cat([mask, torch.ones_like(token)], 1)
            position = position + 1
            hidden = core.base_model(
                input_ids=token, attention_mask=mask, position_ids=position, use_cache=True, **{name: cache}
            ).last_hidden_state[:, -1]
    rows = [[token for token in row if token >= 0] for row in torch.cat(drawn, 1).tolist()]
    return [rows[i : i + count] for i in range(0, len(rows), count)]
