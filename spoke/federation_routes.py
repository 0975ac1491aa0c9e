"""`/federation/v1` on a spoke: bytes in, REPLY or problem out. Everything that is decided is decided elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import structlog
from aiohttp import web

from common.clock import Clock
from common.envelope import ANYONE, EnvelopeType, seal
from common.errors import BadSignature, HubspokeError
from common.exchange import Exchange
from common.http import ENVELOPE_TYPE, read_body
from common.inbox import Inbox
from common.keyring import SigningKey
from spoke.router import Router

_log: Final = structlog.get_logger("envelope")


class FederationRoutes:
    """The routes that peers may reach."""

    def __init__(
        self,
        identity: dict[str, Any],
        key: SigningKey,
        inbox: Inbox,
        router: Router,
        exchange: Exchange,
        clock: Clock,
        refused: Callable[[str], None],
    ) -> None:
        self._identity = identity
        self._key = key
        self._inbox = inbox
        self._router = router
        self._exchange = exchange
        self._clock = clock
        self._refused = refused

    def routes(self) -> list[web.RouteDef]:
        """Return the route table."""
        return [
            web.post("/federation/v1/envelopes", self._take_envelope),
            web.get("/federation/v1/identity", self._show_identity),
        ]

    async def _take_envelope(self, request: web.Request) -> web.Response:
        try:
            raw = await read_body(request, ENVELOPE_TYPE)
            admitted = self._inbox.admit(raw, self._clock.now_ms() / 1000)
            reply = await self._router.answer(admitted)
        except HubspokeError as error:
            reason = error.reason if isinstance(error, BadSignature) else error.message
            _log.warning("envelope.refused", code=error.code, reason=reason, remote=request.remote)
            self._refused(error.code)
            raise
        return web.Response(body=reply, content_type=ENVELOPE_TYPE)

    async def _show_identity(self, _request: web.Request) -> web.Response:
        claims = self._exchange.claims(ANYONE)
        raw = seal(self._key, EnvelopeType.IDENTITY, claims, {"identity": self._identity})
        return web.Response(body=raw, content_type=ENVELOPE_TYPE)
