"""A reranker behind an address: asks a server that speaks Cohere's `POST /v2/rerank`, as `prorank serve` does.

Knows HTTP and that route; nothing of models or frameworks. It holds no connection between calls, so that one object may
be shared by threads, event loops and processes.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, FiniteFloat, ValidationError

from prorank.integrations.source import TIMEOUT, Ranked
from prorank.shipped import MINI
from prorank.util.addresses import is_loopback
from prorank.util.errors import InputError, ProrankError, needs
from prorank.util.inputs import pair_texts, whole_numbers

with needs("remote"):
    import httpx
    from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_exception_type
    from tenacity.stop import stop_after_attempt, stop_before_delay

logger = logging.getLogger(__name__)
MAX_DOCUMENTS = 1_000  # of a request: what Cohere and `prorank serve` take
BUSY = (429, 503)
TRIES = 6
FIRST_WAIT = 0.5  # seconds, doubled at each try, where the server names none
SHOWN = 200  # characters of a server's reason


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
        InputError: no such address, a key that others could read on the way, or a timeout that is not above 0.

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
                answer: httpx.Response = await AsyncRetrying(**self._patience())(self._aask, client, body)
                found += self._ranked(answer, body, start)
        return _best(found, top_n)

    def _requests(
        self, query: str, texts: Sequence[str], top_n: int | None, raw: bool
    ) -> list[tuple[int, dict[str, Any]]]:
        """Bodies, each with the place of its first document."""
        whole_numbers(top_n=top_n)
        pair_texts([(query, text) for text in texts])
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

    def _ask(self, client: httpx.Client, body: dict[str, Any]) -> httpx.Response:
        try:
            return self._accepted(client.post(self.url, json=body))
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    async def _aask(self, client: httpx.AsyncClient, body: dict[str, Any]) -> httpx.Response:
        try:
            return self._accepted(await client.post(self.url, json=body))
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: httpx.HTTPError) -> RemoteUnreachable:
        if isinstance(error, httpx.TimeoutException):
            return RemoteUnreachable(self.url, f"no answer within {self.timeout:g} s", "raise timeout=")
        return RemoteUnreachable(self.url, f"{type(error).__name__}: {error}", "is the server running?")

    def _accepted(self, response: httpx.Response) -> httpx.Response:
        """The response if it is a success.

        Raises:
            RemoteBusy, RemoteRefused: with the server's reason.
        """
        if response.is_success:
            return response
        reason = _reason(response)
        if response.status_code in BUSY:
            raise RemoteBusy(self.url, response.status_code, reason, _retry_after(response))
        raise RemoteRefused(self.url, response.status_code, reason)

    def _ranked(self, response: httpx.Response, body: dict[str, Any], start: int) -> list[Ranked]:
        """What a successful response says of a request's documents, the first of which is number `start`.

        Raises:
            RemoteAnswerError: something else.
        """
        try:
            results = _Answer.model_validate_json(response.content).results
        except ValidationError as error:
            flaw = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in flaw["loc"])
            raise RemoteAnswerError(self.url, f"the answer is no ranking: {place}: {flaw['msg']}") from None
        places = {result.index for result in results}
        if len(places) != len(results) or not places <= set(range(len(body["documents"]))):
            raise RemoteAnswerError(self.url, "the answer names documents twice, or such as were not sent")
        if len(results) < body["top_n"]:
            raise RemoteAnswerError(self.url, f"the answer ranks {len(results)} documents, {body['top_n']} were wanted")
        cut = response.headers.get("X-Truncated-Pairs", "0")
        if cut not in ("", "0"):
            logger.warning("%s: %s of %d pairs were cut to fit the model", self.url, cut, len(body["documents"]))
        return [Ranked(start + result.index, result.relevance_score) for result in results]


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    """Whom https trusts: read once, since a client a call would read them each time (28 ms)."""
    return httpx.create_ssl_context()


def _best(found: list[Ranked], top_n: int | None) -> list[Ranked]:
    return sorted(found, key=lambda ranked: -ranked.score)[:top_n]  # ties stay in the server's order


def _reason(response: httpx.Response) -> str:
    """A refusal's `message`, or the beginning of whatever it says."""
    try:
        message = response.json()["message"]
    except (ValueError, TypeError, KeyError, RecursionError):
        message = response.text or response.reason_phrase
    return " ".join(str(message).split())[:SHOWN]


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds of a `Retry-After` header, which holds seconds or a date."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(timezone.utc)).total_seconds())
    except (TypeError, ValueError):  # none, or neither
        return None


def _wait(state: RetryCallState) -> float:
    """Seconds before the next try."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, RemoteBusy) and error.retry_after is not None:
        return error.retry_after
    return float(FIRST_WAIT * 2 ** (state.attempt_number - 1))
