"""`/healthz`, `/readyz`, `/metrics`: for whoever runs the node. Without a token on loopback only."""

from __future__ import annotations

from collections import Counter

from aiohttp import web

from common.audit_file import Audit
from common.clock import SystemClock
from common.errors import HubspokeError
from common.http import json_response
from common.inbox import TrustSource
from common.node_views import HealthView, NotReadyView, ReadyView
from hub.agents import Agents
from hub.api.route import Route
from hub.metrics import CONTENT_TYPE, Metrics

UNAVAILABLE = 503


class Operations:
    """Handlers that say how the node is."""

    def __init__(self, agents: Agents, trust: TrustSource, metrics: Metrics, audit: Audit) -> None:
        self._agents = agents
        self._trust = trust
        self._metrics = metrics
        self._audit = audit

    def routes(self) -> list[Route]:
        """Return the three routes."""
        return [
            Route("GET", "/healthz", self.health, "Whether the node answers", response=HealthView, open_here=True),
            Route(
                "GET",
                "/readyz",
                self.ready,
                "Whether the node takes work",
                response=ReadyView,
                others={UNAVAILABLE: NotReadyView},
                open_here=True,
            ),
            Route(
                "GET",
                "/metrics",
                self.show_metrics,
                "What Prometheus reads",
                media_type="text/plain",
                open_here=True,
            ),
        ]

    async def health(self, _request: web.Request) -> web.Response:
        """Say that the process answers."""
        return json_response({"status": "ok"})

    async def ready(self, _request: web.Request) -> web.Response:
        """Say whether the node takes work: store, trust and audit answer, and the store was not just lost."""
        try:
            await self.check()
        except HubspokeError as error:
            return json_response({"status": "unavailable", "code": error.code, "detail": error.message}, UNAVAILABLE)
        return json_response({"status": "ready"})

    async def check(self) -> None:
        """Raise `HubspokeError` unless the node takes work."""
        await self._agents.check()
        self._trust.current()
        self._agents.store.check_signed(SystemClock().now_ms() // 1000)
        self._audit.check()

    async def show_metrics(self, _request: web.Request) -> web.Response:
        """Render the counters; what is a state and no count is read now."""
        peers = self._trust.current().peers()
        states = Counter(peer.state for peer in peers)
        for state in ("pending", "active", "suspended", "revoked"):
            self._metrics.peers.labels(state).set(states[state])
        store = self._agents.store
        self._metrics.store_refuses_until.set(store.mark.refuses_until_s(store.skew_s))
        contacts = await self._agents.contacts([peer.tenant for peer in peers])
        for peer, contact in zip(peers, contacts, strict=True):
            self._metrics.outbox_pending.labels(peer.instance).set(contact.pending)
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})
