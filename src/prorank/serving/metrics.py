"""What /metrics tells: prometheus_client's counters in a registry of the application's own. Knows numbers and names."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from prorank.prompts.truncation import Truncation
from prorank.serving.batching import Batcher, Ran

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
TOKENS = (64, 256, 1_024, 2_048, 4_096, 16_384, 65_536)
PAIRS = (1, 5, 10, 20, 50, 100, 200, 500, 1_000)


class Metrics:
    """Counters and histograms of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: Any = {"registry": self.registry, "namespace": "prorank"}
        self.requests = Counter("requests", "Answers by route and HTTP status.", ["route", "status"], **own)
        self.refusals = Counter("refusals", "Requests without scores, by route and reason.", ["route", "reason"], **own)
        self.abandoned = Counter("abandoned", "Requests whose client went away before the answer.", ["route"], **own)
        self.seconds = Histogram(
            "request_seconds", "From a request's first byte to its answer.", ["route"], buckets=SECONDS, **own
        )
        self.pairs = Histogram("request_pairs", "Pairs of a request.", ["route"], buckets=PAIRS, **own)
        self.truncated = Counter("truncated_pairs", "Pairs of which something was cut to fit.", **own)
        self.unread = Counter("unread_documents", "Pairs of whose document nothing was read.", **own)
        self.gradeless = Counter("answers_without_grade", "Generated answers that held no grade.", **own)
        self.batch_tokens = Histogram("batch_tokens", "Tokens of a batch.", buckets=TOKENS, **own)
        self.batch_requests = Histogram("batch_requests", "Requests that share a batch.", buckets=PAIRS, **own)
        self.batch_seconds = Histogram("batch_seconds", "Time of a batch in the model.", buckets=SECONDS, **own)
        self.scored = Counter("scored_pairs", "Pairs that were scored.", **own)
        self.waiting = Gauge("queue_pairs", "Pairs that no batch has taken yet.", **own)
        self.admitted = Gauge("admitted_pairs", "Pairs that are accepted and not answered yet.", **own)

    def watch(self, batcher: Batcher) -> None:
        """Take the queue's lengths from here on."""
        self.waiting.set_function(lambda: batcher.waiting_pairs)
        self.admitted.set_function(lambda: batcher.admitted_pairs)

    def ran(self, batch: Ran) -> None:
        """Note a batch."""
        self.batch_tokens.observe(batch.tokens)
        self.batch_requests.observe(batch.requests)
        self.batch_seconds.observe(batch.seconds)
        self.scored.inc(batch.pairs)

    def cut(self, truncation: Truncation) -> None:
        """Note what was cut."""
        self.truncated.inc(truncation.pairs)
        self.unread.inc(truncation.unread)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self.registry)
