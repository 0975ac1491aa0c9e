"""`/healthz`, `/readyz`, `/metrics`: for whoever runs the node. Without a token on loopback only."""

from __future__ import annotations

from aiohttp import web

from common.audit_file import Audit
from common.clock import SystemClock
from common.errors import HubspokeError
from common.http import json_response
from common.inbox import TrustSource
from common.metric_table import CONTENT_TYPE
from common.node_views import HealthView, NotReadyView, ReadyView
from hub.agents import Agents
from hub.api.route import Route
from hub.scraping import Scraping

UNAVAILABLE = 503


class Operations:
    """Handlers that say how the node is."""

    def __init__(self, agents: Agents, trust: TrustSource, scraping: Scraping, audit: Audit) -> None:
        self._agents = agents
        self._trust = trust
        self._scraping = scraping
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
        """Render what Prometheus reads."""
        return web.Response(body=await self._scraping.render(), headers={"Content-Type": CONTENT_TYPE})
