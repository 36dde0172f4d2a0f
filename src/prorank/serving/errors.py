"""Why a request gets no scores, told in the words of the API that was called.

`Refusal` says it once; `refusal_body` writes it as Cohere (`message`), text-embeddings-inference (`error`,
`error_type`), vLLM and OpenAI (`error.message`, `error.type`, `error.code`) or Jina (`detail`) would. Knows nothing of
what was asked.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from prorank.util.errors import ProrankError

Style = Literal["cohere", "tei", "openai", "union"]
Reason = Literal[
    "malformed",
    "invalid",
    "empty",
    "too_large",
    "unauthorized",
    "not_found",
    "wrong_method",
    "overloaded",
    "unavailable",
    "timeout",
    "backend",
]


class Kind(NamedTuple):
    """How a reason is called: HTTP status, and type in TEI's and OpenAI's answers; TEI may have a status of its own."""

    status: int
    tei: str
    openai: str
    tei_status: int | None = None


KINDS: dict[Reason, Kind] = {
    "malformed": Kind(400, "Validation", "BadRequestError", 422),
    "invalid": Kind(400, "Validation", "BadRequestError", 422),
    "empty": Kind(400, "Empty", "BadRequestError"),
    "too_large": Kind(413, "Validation", "RequestEntityTooLargeError"),
    "unauthorized": Kind(401, "Unauthorized", "AuthenticationError"),
    "not_found": Kind(404, "Validation", "NotFoundError"),
    "wrong_method": Kind(405, "Validation", "MethodNotAllowedError"),
    "overloaded": Kind(429, "Overloaded", "RateLimitError"),
    "unavailable": Kind(503, "Unhealthy", "ServiceUnavailableError"),
    "timeout": Kind(504, "Overloaded", "TimeoutError"),
    "backend": Kind(500, "Backend", "InternalServerError", 424),
}


class Refusal(ProrankError):
    """A request that is not answered with scores.

    Args:
        reason: which kind.
        message: what is wrong, without any text of the request.
        hint: how to mend it.
        retry_after: seconds after which another try is worth it.
    """

    def __init__(self, reason: Reason, message: str, hint: str = "", retry_after: int | None = None) -> None:
        super().__init__(message, hint)
        self.reason, self.retry_after = reason, retry_after


def refusal_status(style: Style, reason: Reason) -> int:
    """HTTP status of a reason.

    >>> refusal_status("cohere", "invalid"), refusal_status("tei", "invalid")
    (400, 422)
    """
    kind = KINDS[reason]
    return kind.tei_status or kind.status if style == "tei" else kind.status


def refusal_body(style: Style, refusal: Refusal) -> dict[str, Any]:
    """The JSON object that says why.

    >>> refusal_body("tei", Refusal("empty", "`texts` cannot be empty"))
    {'error': '`texts` cannot be empty', 'error_type': 'Empty'}
    >>> refusal_body("cohere", Refusal("overloaded", "the queue is full"))
    {'message': 'the queue is full'}
    """
    message, kind = str(refusal), KINDS[refusal.reason]
    if style == "tei":
        return {"error": message, "error_type": kind.tei}
    if style == "cohere":
        return {"message": message}
    openai = {"error": {"message": message, "type": kind.openai, "param": None, "code": kind.status}}
    return openai if style == "openai" else {"message": message, "detail": message, **openai}
