"""`GET /api/v1/events`: changes of agents as server-sent events, resumable from the last one that was seen.

A stream ends with the token that opened it, and with the node.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Final

from aiohttp import web

from common import strict_json
from common.http import Unauthorized
from common.route import read_query
from hub.api.models import ChangeView, EventsQuery
from hub.api.route import Route
from hub.api.streaming import Streams
from hub.feed import Change, Feed, check_event_id

HEARTBEAT_S: Final = 15.0
_RETRY_MS: Final = 1000
_LOOK_EVERY_S: Final = 2.0
"""A revoked token closes its streams after so long at the latest; nothing is written to them any more at once."""


class EventsApi:
    """Streams the feed to whoever watches."""

    def __init__(self, feed: Feed, streams: Streams, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._feed = feed
        self._streams = streams
        self._heartbeat_s = heartbeat_s

    def routes(self) -> list[Route]:
        """Return the one route."""
        return [
            Route(
                "GET",
                "/api/v1/events",
                self.stream,
                "Watch agents; event `agent` for each change, `gap` when changes were dropped before they were seen",
                query=EventsQuery,
                response=ChangeView,
                media_type="text/event-stream",
            )
        ]

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Stream changes until the watcher or the node goes."""
        query = read_query(request, EventsQuery)
        seen = request.headers.get("Last-Event-ID", query.last_event_id)
        position = check_event_id(seen) if seen else await self._feed.last_id()
        has_gap = bool(seen) and await self._feed.has_gap(position)
        response = await self._streams.open(request)
        # The id first: a watcher that is cut off before the first change resumes from here.
        await response.write(f"retry: {_RETRY_MS}\nid: {position}\n\n".encode())
        if has_gap:
            await response.write(b'event: gap\ndata: {"after":"%s"}\n\n' % position.encode())
        with suppress(ConnectionError, asyncio.CancelledError, Unauthorized):
            await self._follow(request, response, query, position)
        return response

    async def _follow(
        self, request: web.Request, response: web.StreamResponse, query: EventsQuery, position: str
    ) -> None:
        written_at = time.monotonic()
        while not self._feed.closed:
            changed = self._feed.changed
            changes = await self._feed.read(position)
            # After the reading: what came after the token was revoked must not be told.
            self._streams.check(request)
            if changes:
                position = changes[-1].event_id
                wanted = [change for change in changes if _wanted(change, query)]
                await response.write(b"".join(map(_encode, wanted)))
                continue
            if time.monotonic() - written_at >= self._heartbeat_s:
                written_at = time.monotonic()
                await response.write(b": still here\n\n")
            await self._feed.wait(changed, min(_LOOK_EVERY_S, self._heartbeat_s))


def _wanted(change: Change, query: EventsQuery) -> bool:
    return (
        query.agent_id in {"", change.agent_id}
        and query.spoke in {"", change.spoke}
        and query.task_id in {"", change.task_id}
    )


def _encode(change: Change) -> bytes:
    event_id, encoded = change.event_id.encode(), strict_json.encode(change.to_view())
    return b"id: %s\nevent: agent\ndata: %s\n\n" % (event_id, encoded)
