"""What Prometheus is told about a spoke; every name with its meaning stands in this file."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.exposition import generate_latest

from spoke.queue import Queue

CONTENT_TYPE: Final = "text/plain; version=0.0.4"


class Metrics:
    """The metrics of one spoke."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._registry = CollectorRegistry()
        self._agents = Gauge(
            "hubspoke_spoke_agents",
            "Agents on this spoke that have not ended, by state",
            ["state"],
            registry=self._registry,
        )
        self._refused = Counter(
            "hubspoke_spoke_envelopes_refused",
            "Envelopes that were refused whole, by code",
            ["code"],
            registry=self._registry,
        )

        self._refuses_until = Gauge(
            "hubspoke_spoke_store_lost_refuses_until_seconds",
            "Envelopes signed up to this time are refused, because the store was lost; 0 when it never was",
            registry=self._registry,
        )

    def refused(self, code: str) -> None:
        """Count a refused envelope."""
        self._refused.labels(code).inc()

    async def render(self) -> bytes:
        """Return all metrics in the text format; raises `Unavailable`."""
        for state, number in (await self._queue.load()).items():
            self._agents.labels(state).set(number)
        store = self._queue.store
        self._refuses_until.set(store.mark.refuses_until_s(store.skew_s))
        return generate_latest(self._registry)
