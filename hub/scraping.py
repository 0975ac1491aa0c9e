"""Reads what is a state and no count, for each scrape: a Valkey that is away is a metric and no failed scrape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from redis.asyncio import Redis

from common.clock import SystemClock
from common.errors import Unavailable
from common.inbox import TrustSource
from common.links import Links
from common.peers import ConnectionState, Peer
from common.store_metrics import StoreMetrics
from hub.agents import Agents
from hub.metrics import Metrics

_STATES: Final[tuple[ConnectionState, ...]] = ("pending", "active", "suspended", "revoked")


@dataclass(frozen=True, slots=True)
class Scraping:
    """Sets the gauges of one hub."""

    metrics: Metrics
    store: StoreMetrics
    agents: Agents
    trust: TrustSource
    links: Links

    @classmethod
    def of(cls, metrics: Metrics, client: Redis, agents: Agents, trust: TrustSource, links: Links) -> Scraping:
        """Return it with the metrics of the hub's Valkey."""
        return cls(metrics, StoreMetrics(metrics.table, client, agents.store), agents, trust, links)

    async def render(self) -> bytes:
        """Return the text that Prometheus reads."""
        peers = self.trust.current().peers()
        states = Counter(peer.state for peer in peers)
        for state in _STATES:
            self.metrics.peers.labels(state).set(states[state])
        active = [peer for peer in peers if peer.state == "active"]
        self.metrics.link_up.clear()
        for peer in active:
            self.metrics.link_up.labels(peer.instance).set(self.links.find(peer.tenant) is not None)
        for gauge in (self.metrics.agents, self.metrics.outbox_pending, self.metrics.outbox_head_age):
            gauge.clear()  # nothing is better than what was
        self.metrics.spoke_failures.clear()
        if await self.store.read():
            try:
                await self._read(peers)
            except Unavailable:
                await self.store.read()
        return self.metrics.render()

    async def _read(self, peers: Sequence[Peer]) -> None:
        tenants = [peer.tenant for peer in peers]
        for state, count in (await self.agents.counts()).items():
            self.metrics.agents.labels(state).set(count)
        now_ms = SystemClock().now_ms()
        heads = await self.agents.outbox_heads(tenants)
        for peer, contact, since_ms in zip(peers, await self.agents.contacts(tenants), heads, strict=True):
            self.metrics.outbox_pending.labels(peer.instance).set(contact.pending)
            self.metrics.outbox_head_age.labels(peer.instance).set(since_ms and max(0, now_ms - since_ms) / 1000)
            if peer.state == "active":
                self.metrics.spoke_failures.labels(peer.instance).set(contact.failures)
