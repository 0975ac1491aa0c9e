"""Reads what is a state and no count, for each scrape: a Valkey that is away is a metric and no failed scrape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from common.clock import SystemClock
from common.errors import Unavailable
from common.inbox import TrustSource
from common.links import Links
from common.peers import Peer
from common.store_metrics import StoreMetrics
from spoke.metrics import Metrics
from spoke.queue import Queue


@dataclass(frozen=True, slots=True)
class Scraping:
    """Sets the gauges of one spoke."""

    metrics: Metrics
    store: StoreMetrics
    queue: Queue
    trust: TrustSource
    links: Links
    machines: Callable[[], Mapping[str, bool]]
    """Whether each other machine has a link, by id."""

    async def render(self) -> bytes:
        """Return the text that Prometheus reads."""
        metrics = self.metrics
        hubs = [peer for peer in self.trust.current().peers() if peer.kind == "hub" and peer.state == "active"]
        metrics.link_up.clear()
        for hub in hubs:
            metrics.link_up.labels(hub.instance).set(self.links.find(hub.tenant) is not None)
        metrics.machine_up.clear()
        for machine, is_up in self.machines().items():
            metrics.machine_up.labels(machine).set(is_up)
        metrics.agents.clear()  # nothing is better than what was
        metrics.events_pending.clear()
        if await self.store.read():
            try:
                await self._read(hubs)
            except Unavailable:
                await self.store.read()
        return metrics.table.render()

    async def _read(self, hubs: list[Peer]) -> None:
        for state, number in (await self.queue.load()).items():
            self.metrics.agents.labels(state).set(number)
        since_ms = await self.queue.head_since()
        waited_ms = max(0, SystemClock().now_ms() - since_ms) if since_ms else 0
        self.metrics.queue_head_age.set(waited_ms / 1000)
        self.metrics.saw_takeovers(await self.queue.takeovers())
        for hub, count in zip(hubs, await self.queue.count_events([hub.tenant for hub in hubs]), strict=True):
            self.metrics.events_pending.labels(hub.instance).set(count)
