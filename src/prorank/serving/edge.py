"""What every request meets first and every answer last: ids, keys, security headers, log lines, metrics, traces.

Knows HTTP; nothing of what is asked or answered. Texts are in a log line only if that is wanted.
"""

from __future__ import annotations

import hmac
import logging
import re
import time
import uuid
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prorank.serving.errors import Reason, Refusal, Style, refusal_body, refusal_status
from prorank.serving.metrics import Metrics

try:
    from opentelemetry import propagate, trace
except ImportError:  # traces are for those who have the package
    trace = None  # type: ignore[assignment]

logger = logging.getLogger("prorank.serving.access")
SANE_ID = re.compile(r"[A-Za-z0-9._:\-]{1,100}")
STYLES: dict[str, Style] = {
    "/v1/rerank": "union",
    "/v2/rerank": "cohere",
    "/rerank": "tei",
    "/score": "openai",
    "/v1/score": "openai",
    "/v1/models": "openai",
    "/page/rank": "union",
}  # how errors look, by path; these paths ask for the key
OPEN_PATHS = ("/", "/health", "/ready", "/metrics", "/docs", "/openapi.json")
SECURITY = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass
class Record:
    """What is known of a request by its end.

    Attributes:
        id: the client's, if it is a plain one, or ours.
        route: its path if it is one of the server's, else `other`.
        style: how its errors look.
        pairs, tokens, cut: of a request that was understood.
        reason: why it got no scores.
        abandoned: its client went away.
        texts: query and documents, if logs shall hold them.
    """

    id: str
    route: str
    style: Style
    started: float = field(default_factory=time.perf_counter)
    status: int = 0
    pairs: int = 0
    tokens: int = 0
    cut: int = 0
    reason: Reason | None = None
    abandoned: bool = False
    texts: dict[str, Any] | None = None

    def facts(self) -> dict[str, Any]:
        """For a log line."""
        found: dict[str, Any] = {
            "request_id": self.id,
            "route": self.route,
            "status": self.status,
            "milliseconds": round(1e3 * (time.perf_counter() - self.started), 1),
        }
        found |= {name: value for name in ("pairs", "tokens", "cut", "reason") if (value := getattr(self, name))}
        return found | (self.texts or {})


def refused(style: Style, refusal: Refusal) -> JSONResponse:
    """The answer of a request that gets no scores."""
    headers = {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
    if refusal.reason == "unauthorized":
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(refusal_body(style, refusal), refusal_status(style, refusal.reason), headers)


def bears(header: str, key: str) -> bool:
    """Whether an Authorization header bears the key; takes as long for a wrong one as for the right one.

    >>> bears("Bearer secret", "secret"), bears("bearer secrets", "secret"), bears("", "secret")
    (True, False, False)
    """
    scheme, _, given = header.partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), key.encode())


class Edge:
    """ASGI middleware around the whole application.

    Args:
        app: what answers.
        metrics: where requests are counted.
        key: what callers must bear; None lets everyone in.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, key: str | None = None) -> None:
        self.app, self.metrics, self.key = app, metrics, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, path = Headers(scope=scope), scope["path"]
        given = headers.get("x-request-id", "")
        record = Record(
            id=given if SANE_ID.fullmatch(given) else uuid.uuid4().hex,
            route=path if path in STYLES or path in OPEN_PATHS else "other",
            style=STYLES.get(path, "union"),
        )
        scope["prorank"] = record

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                marks = MutableHeaders(scope=message)
                marks["X-Request-ID"] = record.id
                for name, value in SECURITY.items():
                    marks[name] = value
            await send(message)

        app = self.app
        if self.key is not None and path in STYLES and not bears(headers.get("authorization", ""), self.key):
            record.reason = "unauthorized"
            app = refused(record.style, Refusal("unauthorized", "no valid API key: send Authorization: Bearer KEY"))
        with traced(record, scope["method"], headers) as span:
            try:
                await app(scope, receive, send_marked)
            finally:
                self.note(record, scope["method"])
                if span is not None:
                    told_of(span, record)

    def note(self, record: Record, method: str) -> None:
        """Count a request and write its line."""
        if record.abandoned:
            self.metrics.abandoned.labels(record.route).inc()
        else:
            self.metrics.requests.labels(record.route, str(record.status)).inc()
            self.metrics.seconds.labels(record.route).observe(time.perf_counter() - record.started)
        if record.reason:
            self.metrics.refusals.labels(record.route, record.reason).inc()
        if record.pairs:
            self.metrics.pairs.labels(record.route).observe(record.pairs)
        quiet = record.route in ("/health", "/ready", "/metrics") and record.status == 200
        logger.log(
            logging.DEBUG if quiet else logging.INFO,
            "%s %s",
            method,
            " ".join(f"{name}={value}" for name, value in record.facts().items()),
            extra={"facts": {"method": method} | record.facts()},
        )


def traced(record: Record, method: str, headers: Headers) -> AbstractContextManager[Any]:
    """An OpenTelemetry span around a request, if the package is there; it goes on with the caller's trace.

    An exception's message is not recorded, since it may hold a text.
    """
    if trace is None:
        return nullcontext()
    return trace.get_tracer("prorank").start_as_current_span(
        f"{method} {record.route}",
        context=propagate.extract(dict(headers)),
        kind=trace.SpanKind.SERVER,
        attributes={
            "http.request.method": method,
            "http.route": record.route,
            "prorank.request_id": record.id,
        },
        record_exception=False,
        set_status_on_exception=False,
    )


def told_of(span: Any, record: Record) -> None:
    """Tell a request's span how it ended: status, pairs and tokens, and why there are no scores."""
    counts = {name: getattr(record, name) for name in ("pairs", "tokens", "cut", "reason")}
    span.set_attributes({f"prorank.{name}": value for name, value in counts.items() if value})
    if record.status:
        span.set_attribute("http.response.status_code", record.status)
    if not record.abandoned and (record.status >= 500 or not record.status):
        span.set_status(trace.StatusCode.ERROR)
