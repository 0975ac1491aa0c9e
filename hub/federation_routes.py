"""The federation protocol over HTTP, as a hub serves it (PROTOCOL section 3): envelopes, identity, join.

Thin: bounded bytes in, `intake` or `joining` decides, bytes out; one canonical line per envelope, also for a refusal.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from common.http import ENVELOPE_TYPE, read_body
from hub.audit import audited
from hub.intake import Intake
from hub.joining import Joining
from hub.metrics import Metrics


class FederationRoutes:
    """Handlers of `/federation/v1/`; `url` tells how others reach this hub."""

    def __init__(self, intake: Intake, joining: Joining, metrics: Metrics, url: Callable[[], str | None]) -> None:
        self._intake = intake
        self._joining = joining
        self._metrics = metrics
        self._url = url

    def routes(self) -> list[web.RouteDef]:
        """Return the routes to add to the application."""
        return [
            web.post("/federation/v1/envelopes", self.take_envelope),
            web.get("/federation/v1/identity", self.show_identity),
            web.post("/federation/v1/join", self.take_join),
        ]

    async def take_envelope(self, request: web.Request) -> web.Response:
        """Answer one envelope with its REPLY."""
        return await self._logged(request, "envelope.received", self._take_envelope)

    async def take_join(self, request: web.Request) -> web.Response:
        """Answer a JOIN with its REPLY."""
        return await self._logged(request, "join.received", self._take_join)

    async def show_identity(self, _request: web.Request) -> web.Response:
        """Say who this hub is."""
        return _envelope(self._joining.identity(self._url()))

    async def _take_envelope(self, raw: bytes) -> tuple[bytes, dict[str, Any]]:
        return await self._intake.take(raw)

    async def _take_join(self, raw: bytes) -> tuple[bytes, dict[str, Any]]:
        reply, peer = await self._joining.take(raw)
        return reply, {
            "peer": peer.instance,
            "connection": peer.state,
            "fingerprint": peer.current_key.fingerprint,
        }

    async def _logged(
        self,
        request: web.Request,
        event: str,
        take: Callable[[bytes], Awaitable[tuple[bytes, dict[str, Any]]]],
    ) -> web.Response:
        with audited(self._metrics, self._intake.audit, event, remote=request.remote) as line:
            reply, told = await take(await read_body(request, ENVELOPE_TYPE))
            line.update(told)
            return _envelope(reply)


def _envelope(raw: bytes) -> web.Response:
    return web.Response(body=raw, content_type=ENVELOPE_TYPE)
