"""`GET /api/v1/events`: changes of agents as server-sent events, resumable from the last one that was seen.

A stream ends with the token that opened it, and with the node.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from aiohttp import web

from common import strict_json
from common.route import read_query
from hub.api.models import ChangeView, EventsQuery
from hub.api.route import Route
from hub.api.streaming import HEARTBEAT_S, Still, Stream, last_seen, serve
from hub.feed import Change, Feed, check_event_id

_RETRY_MS: Final = 1000
_LOOK_EVERY_S: Final = 2.0
"""A revoked token closes its streams after so long at the latest; nothing is written to them any more at once."""


class EventsApi:
    """Streams the feed to whoever watches, as long as they are `still` known."""

    def __init__(self, feed: Feed, still: Still) -> None:
        self._feed = feed
        self._still = still

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
        seen = last_seen(request, query.last_event_id)
        position = check_event_id(seen) if seen else await self._feed.last_id()
        has_gap = bool(seen) and await self._feed.has_gap(position)
        # The id first: a watcher that is cut off before the first change resumes from here.
        begin = f"retry: {_RETRY_MS}\nid: {position}\n\n".encode()
        if has_gap:
            begin += b'event: gap\ndata: {"after":"%s"}\n\n' % position.encode()
        return await serve(request, partial(self._follow, request, query, position, begin))

    async def _follow(
        self, request: web.Request, query: EventsQuery, position: str, begin: bytes, stream: Stream
    ) -> None:
        await stream.write(begin)
        while not self._feed.closed:
            changed = self._feed.changed
            changes = await self._feed.read(position)
            # After the reading: what came after the token was revoked must not be told.
            self._still(request)
            if changes:
                position = changes[-1].event_id
                if wanted := [change for change in changes if _wanted(change, query)]:
                    await stream.write(b"".join(map(_encode, wanted)))
                continue
            await stream.keep_open()
            await self._feed.wait(changed, min(_LOOK_EVERY_S, HEARTBEAT_S))


def _wanted(change: Change, query: EventsQuery) -> bool:
    return (
        query.agent_id in {"", change.agent_id}
        and query.spoke in {"", change.spoke}
        and query.task_id in {"", change.task_id}
    )


def _encode(change: Change) -> bytes:
    event_id, encoded = change.event_id.encode(), strict_json.encode(change.to_view())
    return b"id: %s\nevent: agent\ndata: %s\n\n" % (event_id, encoded)
