"""What the streams of server-sent events have in common: how one begins, is kept open, is resumed, and ends.

It ends with its watcher, with the token or session that opened it, and with the node; none of these is an error.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from aiohttp import web

from common.http import Unauthorized, bearer_of
from hub.auth import Identities

HEARTBEAT_S: Final = 15.0
"""After so long a silence a comment is written, before the watcher or something between gives up."""

Still = Callable[[web.Request], object]
"""Raises `Unauthorized` once what opened a stream was revoked or has expired."""


class Stream:
    """What is written to one watcher; raises ConnectionError when nobody is there any more."""

    def __init__(self, response: web.StreamResponse) -> None:
        self._response = response
        self._written_at = time.monotonic()

    async def write(self, events: bytes) -> None:
        """Write events; returns when the watcher has taken enough of what went before."""
        self._written_at = time.monotonic()
        await self._response.write(events)

    async def keep_open(self) -> None:
        """Write a comment where the last word is too long ago."""
        if time.monotonic() - self._written_at >= HEARTBEAT_S:
            await self.write(b": still here\n\n")


async def serve(request: web.Request, follow: Callable[[Stream], Awaitable[None]]) -> web.StreamResponse:
    """Answer with what `follow` writes; raises ConnectionError when nobody is there at the beginning."""
    response = web.StreamResponse(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
    response.content_type = "text/event-stream"
    response.charset = "utf-8"
    await response.prepare(request)
    with suppress(ConnectionError, asyncio.CancelledError, Unauthorized):
        await follow(Stream(response))
    return response


def last_seen(request: web.Request, in_query: str) -> str:
    """Return the id of the last event that the watcher has seen, empty for none: a browser sends it as a header."""
    return request.headers.get("Last-Event-ID", in_query)


def still_known(identities: Identities) -> Still:
    """Return what looks whether the token of a request is still good."""
    return lambda request: identities.identify(bearer_of(request))
