"""`/federation/v1` on a spoke: bytes in, REPLY or problem out. Everything that is decided is decided elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from common.envelope import ANYONE, EnvelopeType, seal
from common.exchange import Exchange
from common.http import ENVELOPE_TYPE, read_body
from common.keyring import NodeKeys
from spoke.intake import Intake


class FederationRoutes:
    """The routes that peers may reach."""

    def __init__(
        self, identity: Callable[[], dict[str, Any]], keys: NodeKeys, intake: Intake, exchange: Exchange
    ) -> None:
        self._identity = identity
        self._keys = keys
        self._intake = intake
        self._exchange = exchange

    def routes(self) -> list[web.RouteDef]:
        """Return the route table."""
        return [
            web.post("/federation/v1/envelopes", self._take_envelope),
            web.get("/federation/v1/identity", self._show_identity),
        ]

    async def _take_envelope(self, request: web.Request) -> web.Response:
        with self._intake.audited(request.remote):
            reply = await self._intake.take(await read_body(request, ENVELOPE_TYPE))
        return web.Response(body=reply, content_type=ENVELOPE_TYPE)

    async def _show_identity(self, _request: web.Request) -> web.Response:
        claims = self._exchange.claims(ANYONE)
        raw = seal(self._keys.current, EnvelopeType.IDENTITY, claims, {"identity": self._identity()})
        return web.Response(body=raw, content_type=ENVELOPE_TYPE)
