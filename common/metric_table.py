"""The table of a node's metrics: each is named once, with what it means, and docs/metrics.md is made from it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from common.errors import HubspokeError

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
BATCHES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Buckets for how much goes into one envelope, which holds a thousand at most."""


@dataclass(frozen=True, slots=True)
class Row:
    """One metric under the name that is queried: a counter's ends with `_total`."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...]


@contextmanager
def timed(histogram: Histogram) -> Iterator[None]:
    """Observe how long the block took, by `outcome`: `accepted`, or the code of the error that left it."""
    started, outcome = time.monotonic(), "internal"
    try:
        yield
        outcome = "accepted"
    except HubspokeError as error:
        outcome = error.code
        raise
    finally:
        histogram.labels(outcome).observe(time.monotonic() - started)


class MetricTable:
    """Makes metrics in a registry of their own and remembers what they mean; `prefix` begins every name."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._registry = CollectorRegistry()
        self.rows: list[Row] = []

    def counter(self, name: str, meaning: str, *labels: str) -> Counter:
        """Add what only grows."""
        self.rows.append(Row(f"{self._prefix}{name}_total", "counter", meaning, labels))
        return Counter(f"{self._prefix}{name}", meaning, labels, registry=self._registry)

    def gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        """Add what goes up and down."""
        self.rows.append(Row(f"{self._prefix}{name}", "gauge", meaning, labels))
        return Gauge(f"{self._prefix}{name}", meaning, labels, registry=self._registry)

    def histogram(
        self, name: str, meaning: str, *labels: str, buckets: Sequence[float] = Histogram.DEFAULT_BUCKETS
    ) -> Histogram:
        """Add a distribution."""
        self.rows.append(Row(f"{self._prefix}{name}", "histogram", meaning, labels))
        return Histogram(f"{self._prefix}{name}", meaning, labels, registry=self._registry, buckets=buckets)

    def render(self) -> bytes:
        """Return the text that Prometheus reads."""
        return generate_latest(self._registry)
