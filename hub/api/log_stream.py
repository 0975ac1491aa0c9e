"""`GET /api/v1/agents/{id}/logs/stream`: a log as server-sent events while it grows, resumable by what was seen.

The spoke is asked for one piece after the other, at its pace; while it cannot answer the stream waits. A new attempt
begins a new log. It ends with the agent, with the token that opened it, and with the node.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from functools import partial
from typing import Final

from aiohttp import web

from common import strict_json
from common.commands import MAX_LOG_BYTES
from common.envelope import Slice
from common.errors import HubspokeError
from common.http import InvalidRequest
from common.route import read_query
from common.strict_json import MAX_INTEGER
from hub.agents import Agents
from hub.api.agents import AgentsApi, agent_id_of, view_error
from hub.api.models import LogStreamQuery, LogView
from hub.api.route import Route
from hub.api.streaming import Still, Stream, last_seen, serve
from hub.feed import Feed

_POLL_S: Final = 0.5
_WAITED_OUT: Final = frozenset({"unreachable", "rate_limited", "unavailable"})
_POSITION: Final = re.compile(r"(\d{1,9})-(\d{1,16})\Z")


@dataclass(frozen=True, slots=True)
class Position:
    """What was seen: the log of an attempt up to a byte; its text is an event's id."""

    attempt: int
    offset: int

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read an event's id; raises `InvalidRequest`."""
        match = _POSITION.match(text) if text.isascii() else None
        if match is None or int(match[2]) > MAX_INTEGER:
            raise InvalidRequest("Last-Event-ID is ATTEMPT-BYTES, the id of an event of this stream")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.attempt}-{self.offset}"


class LogStreamApi:
    """Streams logs to whoever watches, as long as they are `still` known."""

    def __init__(self, api: AgentsApi, agents: Agents, feed: Feed, still: Still) -> None:
        self._api = api
        self._agents = agents
        self._feed = feed
        self._still = still

    def routes(self) -> list[Route]:
        """Return the one route."""
        return [
            Route(
                "GET",
                "/api/v1/agents/{id}/logs/stream",
                self.stream,
                "Watch a log; event `log` for each piece, `end` after the last one, `refused` when it cannot be read",
                query=LogStreamQuery,
                response=LogView,
                media_type="text/event-stream",
                scope="operate",  # a log may hold anything
            )
        ]

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Stream a log until the agent, the watcher, the token or the node goes."""
        agent_id, query = agent_id_of(request), read_query(request, LogStreamQuery)
        seen = last_seen(request, query.last_event_id)
        position = Position.parse(seen) if seen else Position(0, 0)
        await self._agents.find(agent_id)
        return await serve(request, partial(self._follow, request, agent_id, position))

    async def _follow(self, request: web.Request, agent_id: str, position: Position, stream: Stream) -> None:
        while not self._feed.closed:
            self._still(request)
            try:
                position, piece = await self._next(agent_id, position)
            except HubspokeError as error:
                if error.code not in _WAITED_OUT:
                    await stream.write(_encode("refused", position, strict_json.encode(view_error(error))))
                    return
                piece = None
            if piece is not None and piece.data:
                await stream.write(_encode("log", position, strict_json.encode(piece.model_dump(by_alias=True))))
            if piece is not None and piece.eof:
                await stream.write(_encode("end", position, b"{}"))
                return
            await stream.keep_open()
            if piece is None or not piece.data:
                await asyncio.sleep(_POLL_S)

    async def _next(self, agent_id: str, position: Position) -> tuple[Position, Slice]:
        record = await self._agents.find(agent_id)
        attempt = int((record.agent or {}).get("attempt", 0))
        # An agent that is started again writes a new log.
        offset = position.offset if position.attempt == attempt else 0
        piece = await self._api.read_log(record, offset, MAX_LOG_BYTES)
        return Position(attempt, piece.next_offset), piece


def _encode(event: str, position: Position, data: bytes) -> bytes:
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (str(position).encode(), event.encode(), data)
