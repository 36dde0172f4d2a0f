"""A reranker behind an address: asks a server that speaks Cohere's `POST /v2/rerank`, as `prorank serve` does.

Knows HTTP and that route; nothing of models or frameworks. It holds no connection between calls, so that one object may
be shared by threads, event loops and processes.
"""

from __future__ import annotations

import json
import logging
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, NamedTuple

from pydantic import BaseModel, FiniteFloat, ValidationError

from prorank.integrations.source import TIMEOUT, Ranked
from prorank.shipped import MINI
from prorank.util.addresses import is_loopback
from prorank.util.errors import InputError, ProrankError, needs
from prorank.util.inputs import document_texts, query_text, whole_numbers
from prorank.util.terminal import one_line

with needs("remote"):
    import httpx
    from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_exception_type
    from tenacity.stop import stop_after_attempt, stop_before_delay

logger = logging.getLogger(__name__)
MAX_DOCUMENTS = 1_000  # of a request: what Cohere and `prorank serve` take
BUSY = (429, 503)
TRIES = 6
FIRST_WAIT = 0.5  # seconds, doubled at each try; or as long as the server names, if that is longer
SHOWN = 200  # characters of a server's reason
MAX_ANSWER = 2**24  # bytes; a thousand results take about a hundred thousand


class RemoteError(ProrankError, RuntimeError):
    """A server gave no ranking.

    Attributes:
        url: which was called.
    """

    def __init__(self, url: str, message: str, hint: str = "") -> None:
        self.url = url
        super().__init__(f"{url}: {message}", hint)


class RemoteUnreachable(RemoteError):
    """No connection, or no answer in time."""


class RemoteAnswerError(RemoteError):
    """The answer is no ranking of the documents that were sent."""


class RemoteRefused(RemoteError):
    """The server refused or failed.

    Attributes:
        status: of its answer.
    """

    def __init__(self, url: str, status: int, message: str, hint: str = "") -> None:
        self.status = status
        super().__init__(url, f"status {status}: {message}", hint)


class RemoteBusy(RemoteRefused):
    """The server was busy at every try, or for longer than the caller would wait.

    Attributes:
        retry_after: seconds that the server asks to wait, None if it does not say.
    """

    def __init__(self, url: str, status: int, message: str, retry_after: float | None) -> None:
        self.retry_after = retry_after
        told = "" if retry_after is None else f"; it asks to wait {retry_after:g} s"
        super().__init__(url, status, message + told, "call less at once, or wait longer by timeout=")


class _Received(NamedTuple):
    """An answer that was read to its end."""

    status: int
    headers: httpx.Headers
    content: bytes


class _Result(BaseModel):
    index: int
    relevance_score: FiniteFloat


class _Answer(BaseModel):
    results: list[_Result]


@dataclass(frozen=True)
class Remote:
    """A server's ranking.

    Args:
        base_url: the server's address without the route, such as `http://127.0.0.1:8000`.
        model: name that is sent along; `prorank serve` passes it over, others may want it.
        api_key: sent as `Authorization: Bearer`; over https and to this machine only.
        timeout: seconds that a try may take, and that the waits for a busy server may take together.

    Raises:
        InputError: no such address, a key that others could read on the way or that no HTTP header can hold, or a
            timeout that is not above 0.

    >>> Remote("http://127.0.0.1:8000/").url
    'http://127.0.0.1:8000/v2/rerank'
    """

    base_url: str
    model: str = MINI
    api_key: str | None = field(default=None, repr=False)
    timeout: float = TIMEOUT

    def __post_init__(self) -> None:
        loopback = is_loopback(self.base_url)
        try:
            url = httpx.URL(self.base_url)
        except httpx.InvalidURL as error:
            raise InputError(f"base_url is no address: {error}") from None
        if url.userinfo or url.query or url.fragment or url.path.rstrip("/").endswith("/rerank"):
            raise InputError(
                f"'{url.host}' is given with more than an address and a path",
                hint="write base_url as http://127.0.0.1:8000, and the key as api_key",
            )
        if self.api_key and url.scheme != "https" and not loopback:
            raise InputError(f"{self.base_url}: others could read the key on the way", hint="use https")
        if self.api_key and not (self.api_key.isascii() and self.api_key.isprintable() and " " not in self.api_key):
            raise InputError("the api_key holds a blank, a line's end or a letter that is not ASCII", hint="strip it")
        if not 0 < self.timeout < float("inf"):
            raise InputError(f"timeout must be a number of seconds above 0, got {self.timeout}")

    @property
    def url(self) -> str:
        """What is called."""
        return f"{self.base_url.rstrip('/')}/v2/rerank"

    def rank(self, query: str, texts: Sequence[str], top_n: int | None = None, *, raw: bool = False) -> list[Ranked]:
        """The best documents first.

        Args:
            query: a non-empty string.
            texts: the documents; beyond 1,000 they go in several requests.
            top_n: how many to return; None for all.
            raw: scores as the model gives them, where the server is prorank's; by default probabilities.

        Raises:
            InputTypeError, InputError: as `Reranker.rank`.
            RemoteUnreachable, RemoteRefused, RemoteBusy, RemoteAnswerError: no ranking; each names the address.
        """
        found: list[Ranked] = []
        with httpx.Client(**self._options()) as client:
            for start, body in self._requests(query, texts, top_n, raw):
                answer = Retrying(**self._patience())(self._ask, client, body)
                found += self._ranked(answer, body, start)
        return _best(found, top_n)

    async def arank(
        self, query: str, texts: Sequence[str], top_n: int | None = None, *, raw: bool = False
    ) -> list[Ranked]:
        """As `rank`, without holding up the event loop."""
        found: list[Ranked] = []
        async with httpx.AsyncClient(**self._options()) as client:
            for start, body in self._requests(query, texts, top_n, raw):
                answer: _Received = await AsyncRetrying(**self._patience())(self._aask, client, body)
                found += self._ranked(answer, body, start)
        return _best(found, top_n)

    def _requests(
        self, query: str, texts: Sequence[str], top_n: int | None, raw: bool
    ) -> list[tuple[int, dict[str, Any]]]:
        """Bodies, each with the place of its first document."""
        whole_numbers(top_n=top_n)
        query_text(query)
        document_texts(texts)
        requests = []
        for start in range(0, len(texts), MAX_DOCUMENTS):
            part = list(texts[start : start + MAX_DOCUMENTS])
            body: dict[str, Any] = {"model": self.model, "query": query, "documents": part}
            body["top_n"] = len(part) if top_n is None else min(top_n, len(part))
            requests.append((start, body | ({"raw_scores": True} if raw else {})))
        return requests

    def _options(self) -> dict[str, Any]:
        """Of a client: what stays on this machine goes through no proxy."""
        key = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return {
            "timeout": self.timeout,
            "headers": key,
            "trust_env": not is_loopback(self.base_url),
            "verify": _certificates(),
        }

    def _patience(self) -> dict[str, Any]:
        """Of a request: which failures are tried again, when, and for how long."""
        return {
            "retry": retry_if_exception_type(RemoteBusy),
            "wait": _wait,
            "stop": stop_after_attempt(TRIES) | stop_before_delay(self.timeout),
            "reraise": True,
        }

    def _ask(self, client: httpx.Client, body: dict[str, Any]) -> _Received:
        content, end = bytearray(), time.monotonic() + self.timeout
        try:
            with client.stream("POST", self.url, json=body) as response:
                for part in response.iter_bytes():
                    self._take(content, part, end)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        return self._accepted(_Received(response.status_code, response.headers, bytes(content)))

    async def _aask(self, client: httpx.AsyncClient, body: dict[str, Any]) -> _Received:
        content, end = bytearray(), time.monotonic() + self.timeout
        try:
            async with client.stream("POST", self.url, json=body) as response:
                async for part in response.aiter_bytes():
                    self._take(content, part, end)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        return self._accepted(_Received(response.status_code, response.headers, bytes(content)))

    def _take(self, content: bytearray, part: bytes, end: float) -> None:
        """Add a part of an answer, within bounds of size and time: the client's own timeout is of one part alone.

        Raises:
            RemoteAnswerError, RemoteUnreachable: beyond them.
        """
        content += part
        if len(content) > MAX_ANSWER:
            raise RemoteAnswerError(self.url, f"the answer has more than {MAX_ANSWER} bytes")
        if time.monotonic() > end:
            raise self._late()

    def _late(self) -> RemoteUnreachable:
        return RemoteUnreachable(self.url, f"no answer within {self.timeout:g} s", "raise timeout=")

    def _unreachable(self, error: httpx.HTTPError) -> RemoteUnreachable:
        if isinstance(error, httpx.TimeoutException):
            return self._late()
        return RemoteUnreachable(self.url, f"{type(error).__name__}: {error}", "is the server running?")

    def _accepted(self, answer: _Received) -> _Received:
        """The answer if it is a success.

        Raises:
            RemoteBusy, RemoteRefused: with the server's reason.
        """
        if 200 <= answer.status < 300:
            return answer
        reason = _reason(answer)
        if answer.status in BUSY:
            raise RemoteBusy(self.url, answer.status, reason, _retry_after(answer.headers))
        raise RemoteRefused(self.url, answer.status, reason)

    def _ranked(self, answer: _Received, body: dict[str, Any], start: int) -> list[Ranked]:
        """What a successful answer says of a request's documents, the first of which is number `start`.

        Raises:
            RemoteAnswerError: something else.
        """
        try:
            results = _Answer.model_validate_json(answer.content).results
        except ValidationError as error:
            flaw = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in flaw["loc"])
            raise RemoteAnswerError(self.url, f"the answer is no ranking: {place}: {flaw['msg']}") from None
        places = {result.index for result in results}
        if len(places) != len(results) or not places <= set(range(len(body["documents"]))):
            raise RemoteAnswerError(self.url, "the answer names documents twice, or such as were not sent")
        if len(results) < body["top_n"]:
            raise RemoteAnswerError(self.url, f"the answer ranks {len(results)} documents, {body['top_n']} were wanted")
        cut = answer.headers.get("X-Truncated-Pairs", "")
        if cut.isdecimal() and cut.strip("0"):
            logger.warning("%s: %s of %d pairs were cut to fit the model", self.url, cut, len(body["documents"]))
        return [Ranked(start + result.index, result.relevance_score) for result in results]


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    """Whom https trusts: read once, since a client per call would read them each time (28 ms)."""
    return httpx.create_ssl_context()


def _best(found: list[Ranked], top_n: int | None) -> list[Ranked]:
    return sorted(found, key=lambda ranked: -ranked.score)[:top_n]  # ties stay in the server's order


def _reason(answer: _Received) -> str:
    """A refusal's `message`, or the beginning of whatever it says, on one line without control characters."""
    text = answer.content.decode("utf-8", "replace")
    with suppress(ValueError, TypeError, KeyError, RecursionError):
        text = str(json.loads(text)["message"])
    return one_line(text[: 4 * SHOWN], SHOWN) or httpx.codes.get_reason_phrase(answer.status)


def _retry_after(headers: httpx.Headers) -> float | None:
    """Seconds of a `Retry-After` header, which holds seconds or a date."""
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(timezone.utc)).total_seconds())
    except (TypeError, ValueError):  # none, or neither
        return None


def _wait(state: RetryCallState) -> float:
    """Seconds before the next try: what the server names, and never less than our own patience."""
    error = state.outcome.exception() if state.outcome else None
    named = error.retry_after if isinstance(error, RemoteBusy) else None
    return max(named or 0.0, FIRST_WAIT * 2 ** (state.attempt_number - 1))
