"""How much the server takes on: numbers only."""

from __future__ import annotations

from dataclasses import dataclass, fields

from prorank.util.errors import InputError
from prorank.util.inputs import whole_numbers


@dataclass(frozen=True)
class Limits:
    """What a request may be, and how many wait.

    Args:
        max_body: bytes of a request's body.
        max_documents: documents, or pairs, of a request.
        max_text: characters of one text, query or document.
        max_queue: pairs that are accepted and not answered yet; more are refused with 429.
        timeout: seconds for a request's headers, and from there to its answer.

    Raises:
        InputTypeError, InputError: not a number, below 1, or a queue that the largest request does not fit.

    >>> Limits(max_documents=100).max_queue
    10000
    """

    max_body: int = 8 * 2**20
    max_documents: int = 1_000
    max_text: int = 100_000
    max_queue: int = 10_000
    timeout: float = 60.0

    def __post_init__(self) -> None:
        whole_numbers(**{field.name: getattr(self, field.name) for field in fields(self) if field.name != "timeout"})
        if not 0 < self.timeout < float("inf"):
            raise InputError(f"timeout must be a number of seconds above 0, got {self.timeout}")
        if self.max_queue < self.max_documents:
            raise InputError(
                f"a request of {self.max_documents} documents would never fit a queue of {self.max_queue}",
                hint="raise max_queue or lower max_documents",
            )

    @property
    def max_bodies(self) -> int:
        """Bytes of all bodies that are held at once."""
        return 16 * self.max_body
