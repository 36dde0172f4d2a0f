"""From a call to its scores: limits, tokens, the queue, probabilities.

Knows a reranker and the queue; nothing of HTTP. Tokenising runs in the caller's thread, the model in the batcher's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from pydantic_core import from_json

from prorank.engine.cascade import Passes, cascade_passes, lengths_of
from prorank.engine.excerpts import excerpts
from prorank.engine.scorer import query_numbers, token_budget
from prorank.model.cascade import Cascade
from prorank.prompts.tokenization import PairTokenizer
from prorank.prompts.truncation import Truncation
from prorank.reranker import Reranker
from prorank.serving.batching import Batcher
from prorank.serving.errors import Refusal
from prorank.serving.limits import Limits
from prorank.serving.metrics import Metrics
from prorank.serving.schemas import Call, ModelCard, Request
from prorank.util.errors import CheckpointError, PromptError

logger = logging.getLogger(__name__)
SHOWN = 3  # mistakes of a request that its refusal names


class Prepared(NamedTuple):
    """A call's pairs as the model reads them."""

    pairs: list[tuple[str, str]]
    sequences: list[list[int]]
    groups: list[int]
    truncation: Truncation


def parsed(body: bytes) -> dict[str, Any]:
    """A request's body as an object.

    Raises:
        Refusal: not JSON (NaN, half of a surrogate pair and bytes that are not UTF-8 among it), or no object.
    """
    try:
        found = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Refusal("malformed", f"the body is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise Refusal("malformed", "the body must be a JSON object")
    return found


def validated(kind: type[Request], found: dict[str, Any], limits: Limits) -> Call:
    """The call that an object of an API asks for.

    Raises:
        Refusal: a list that is longer than a request's may be, or fields that are missing or of another type, with
            their names.
    """
    for name in kind.model_fields:  # before anything looks at each text
        value = found.get(name)
        if isinstance(value, list) and len(value) > limits.max_documents:
            raise Refusal(
                "invalid", f"{len(value)} {name} are more than {limits.max_documents}", hint="split the request"
            )
    try:
        return kind.model_validate(found).call()
    except ValidationError as error:
        flaws = error.errors(include_url=False, include_context=False, include_input=False)
        told = [f"{'.'.join(str(part) for part in flaw['loc'])}: {flaw['msg']}" for flaw in flaws[:SHOWN]]
        more = f"; and {len(flaws) - SHOWN} more" if len(flaws) > SHOWN else ""
        raise Refusal("invalid", "; ".join(told) + more) from None


def check_texts(call: Call, limits: Limits) -> None:
    """Refuse a call without texts, and texts that are too long.

    Raises:
        Refusal: says which.
    """
    if not call.pairs:
        raise Refusal("empty", "`texts` cannot be empty" if call.style == "tei" else "documents must not be empty")
    if len(call.pairs) > limits.max_documents:
        raise Refusal(
            "invalid", f"{len(call.pairs)} pairs are more than {limits.max_documents}", hint="split the request"
        )
    for place, (query, document) in enumerate(call.pairs):
        if not query.strip():
            raise Refusal("empty", "the query must not be empty")
        for name, text in (("the query", query), (f"document {place}", document)):
            if len(text) > limits.max_text:
                raise Refusal("invalid", f"{name} has {len(text)} characters, {limits.max_text} are allowed")
    if call.instruction is not None and len(call.instruction) > limits.max_text:
        raise Refusal(
            "invalid", f"the instruction has {len(call.instruction)} characters, {limits.max_text} are allowed"
        )


def hand_over_threads() -> Callable[[], None]:
    """Compute in one thread here from now on; what is returned gives the others to the thread that calls it.

    Every thread that has once computed in parallel keeps its helpers, and with more helpers than cores OpenMP lets
    them sleep between any two operations instead of waiting: the server must have one such thread only. Call this
    before the model is loaded.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    return lambda: torch.set_num_threads(threads)


class Service:
    """A reranker behind a queue.

    Args:
        reranker: the model; only the batcher's thread runs it.
        name: how answers call the model.
        limits: of requests.
        max_batch_tokens: tokens of a batch; None takes what the engine holds best on this device.
        take_threads: what the thread that runs the model does first, see `hand_over_threads`.

    Attributes:
        batcher: the queue.
        metrics: what happened.
    """

    def __init__(
        self,
        reranker: Reranker,
        name: str,
        limits: Limits | None = None,
        max_batch_tokens: int | None = None,
        take_threads: Callable[[], None] = lambda: None,
    ) -> None:
        self.reranker, self.name, self.limits = reranker, name, limits or Limits()
        self.take_threads, self.metrics = take_threads, Metrics()
        self.created = int(time.time())
        budget = max_batch_tokens or token_budget(reranker.backend)
        self.batcher = Batcher(self._score, budget, self.limits.max_queue, self.metrics.ran, self._begin)
        self.metrics.watch(self.batcher)
        try:
            reranker.probability([0.0])
            self.calibrated = True
        except CheckpointError as error:
            logger.warning("relevance scores are the model's own and no probabilities: %s", error)
            self.calibrated = False

    def _begin(self) -> None:
        self.take_threads()
        self.reranker.score([("warm", "up")])  # what is made on first use is made now

    def _score(self, sequences: list[list[int]], groups: list[int]) -> Sequence[float]:
        scores, gradeless = self.reranker.score_sequences(sequences, groups=groups)
        if gradeless:
            self.metrics.gradeless.inc(gradeless)
        found: list[float] = scores.tolist()
        return found

    @property
    def card(self) -> ModelCard:
        """What /v1/models tells."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "prorank",
            "max_model_len": self.reranker.settings.max_length,
            "max_documents": self.limits.max_documents,
            "max_text_characters": self.limits.max_text,
            "max_body_bytes": self.limits.max_body,
            "scores": "probability" if self.calibrated else self.reranker.settings.score,
            "takes_instruction": self.takes_instruction,
        }

    @property
    def takes_instruction(self) -> bool:
        """Whether the model's prompt has a place for an instruction."""
        tokenizer = self.reranker.tokenizer
        return isinstance(tokenizer, PairTokenizer) and any(
            "{instruction}" in part for part in tokenizer.prompt.segments
        )

    def prepare(self, call: Call) -> Prepared:
        """Tokenise a call's pairs.

        Raises:
            Refusal: an instruction that the model has no place for, too few tokens, or a cut that is not wanted.
        """
        tokenizer = self.tokenizer(call)
        pairs = call.pairs
        if call.max_document_tokens is not None:
            cut = {text: tokenizer.plain.first_tokens(text, call.max_document_tokens) for _, text in pairs}
            pairs = [(query, cut[text]) for query, text in pairs]
        sequences, truncation = tokenizer.encode(pairs)
        if call.refuse_cut and truncation.pairs:
            raise Refusal(
                "invalid",
                f"{truncation.pairs} of {len(pairs)} texts do not fit {self.reranker.settings.max_length} tokens "
                f"(longest: {truncation.longest})",
                hint="leave out truncate, or set it to true",
            )
        self.metrics.cut(truncation)
        return Prepared(pairs, sequences, query_numbers(pairs), truncation)

    def shortened(self, call: Call, prepared: Prepared, places: Sequence[int], tokens: int) -> list[list[int]]:
        """Token ids of some of a call's pairs, with so many tokens of each document."""
        tokenizer = self.tokenizer(call)
        pairs = excerpts(tokenizer.plain, [prepared.pairs[place] for place in places], tokens)
        found: list[list[int]] = tokenizer.encode(pairs)[0]
        return found

    def passes(self, cascade: Cascade, prepared: Prepared) -> Passes:
        """A call's way through a cascade."""
        return cascade_passes(cascade, prepared.groups, lengths_of(self.reranker.tokenizer.plain, prepared.pairs))

    def tokenizer(self, call: Call) -> Any:
        """The reranker's tokenizer, with the call's instruction and length."""
        tokenizer = self.reranker.tokenizer
        if call.instruction is None and call.max_tokens is None:
            return tokenizer
        if not isinstance(tokenizer, PairTokenizer):
            raise Refusal("invalid", "the model is a classifier: it takes no instruction and no other length")
        if call.instruction is not None and not self.takes_instruction:
            raise Refusal("invalid", f"the prompt '{tokenizer.prompt.name}' has no place for an instruction")
        length = tokenizer.max_length if call.max_tokens is None else min(call.max_tokens, tokenizer.max_length)
        try:
            return tokenizer.varied(instruction=call.instruction, max_length=length)
        except PromptError as error:
            raise Refusal("invalid", f"the instruction or the length does not suit: {error.message}") from None

    def told(self, call: Call, scores: Sequence[float]) -> list[float]:
        """Scores as a call wants them: probabilities, or as they are."""
        return list(scores) if call.raw_scores or not self.calibrated else self.reranker.probability(scores)


def model_name(model: str) -> str:
    """How answers call a model: a name as it is, of a folder its last part alone.

    >>> model_name("prorank-mini"), model_name("/srv/models/ours/"), model_name("Qwen/Qwen3-Reranker-0.6B")
    ('prorank-mini', 'ours', 'Qwen/Qwen3-Reranker-0.6B')
    """
    path = Path(model)
    return path.resolve().name if path.is_dir() or path.is_absolute() else model
