"""What the streams of server-sent events have in common: how one begins, and that it ends with its watcher's token."""

from __future__ import annotations

from aiohttp import web

from common.http import bearer_of
from hub.auth import Identities


class Streams:
    """Opens streams for whoever the doorkeeper let in."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities

    @staticmethod
    async def open(request: web.Request) -> web.StreamResponse:
        """Return the answer with its head sent; raises ConnectionError when nobody is there any more."""
        response = web.StreamResponse(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        response.content_type = "text/event-stream"
        response.charset = "utf-8"
        await response.prepare(request)
        return response

    def check(self, request: web.Request) -> None:
        """Raise `Unauthorized` once the token that opened a stream was revoked or has expired."""
        self._identities.identify(bearer_of(request))
