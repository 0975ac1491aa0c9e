"""`/live/…`: the moving parts of pages as server-sent events, for htmx to put in place of what was there.

A part is rendered at most once a second for each watcher and sent when it differs, so a storm of changes costs a
watcher no more than a trickle. It ends with the session's token, and with the node.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final

from aiohttp import web

from common.errors import Unavailable
from common.route import read_query
from hub.agents import Agents, NoSuchAgent
from hub.api.agents import agent_id_of
from hub.api.models import AgentsQuery
from hub.api.streaming import Still, Stream, serve
from hub.dashboard.agents import AgentPages, agent_state
from hub.dashboard.pages import Pages
from hub.dashboard.route import Deed, Page
from hub.dashboard.spokes import SpokePages
from hub.feed import Feed

_LOOK_EVERY_S: Final = 5.0
"""What changes without an event (a link, a peer) is seen after so long."""
_PAUSE_S: Final = 1.0

Render = Callable[[], Awaitable[str]]


class LivePages:
    """Handlers that stream parts of pages; `still` raises `Unauthorized` once a session or its token has ended."""

    def __init__(
        self,
        pages: Pages,
        feed: Feed,
        agents: Agents,
        lists: AgentPages,
        spokes: SpokePages,
        still: Still,
    ) -> None:
        self._pages = pages
        self._feed = feed
        self._agents = agents
        self._lists = lists
        self._spokes = spokes
        self._still = still

    def pages(self) -> list[Page | Deed]:
        """Return the routes."""
        return [
            Page("/live/overview", self.overview),
            Page("/live/agents", self.list),
            Page("/live/agents/{id}", self.show),
        ]

    async def overview(self, request: web.Request) -> web.StreamResponse:
        """Stream what the overview shows."""

        async def render() -> str:
            return self._pages.part(request, "_overview.html", **await self._spokes.overview_state())

        return await self._stream(request, render)

    async def list(self, request: web.Request) -> web.StreamResponse:
        """Stream the newest agents that pass the filters."""
        query = read_query(request, AgentsQuery)

        async def render() -> str:
            return self._pages.part(request, "_agents.html", **await self._lists.list_state(query))

        return await self._stream(request, render)

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Stream what is known of one agent."""
        agent_id = agent_id_of(request)

        async def render() -> str:
            with suppress(NoSuchAgent):  # forgotten since
                return self._pages.part(request, "_agent.html", **agent_state(await self._agents.find(agent_id)))
            return ""

        return await self._stream(request, render)

    async def _stream(self, request: web.Request, render: Render) -> web.StreamResponse:
        return await serve(request, partial(self._follow, request, render))

    async def _follow(self, request: web.Request, render: Render, stream: Stream) -> None:
        shown = ""
        while not self._feed.closed:
            self._still(request)
            changed = self._feed.changed
            with suppress(Unavailable):  # what is there stays there; it goes on when the store answers
                text = await render()
                if text != shown:
                    shown = text
                    await stream.write(encode(text))
            await stream.keep_open()
            await self._feed.wait(changed, _LOOK_EVERY_S)
            if not self._feed.closed:
                await asyncio.sleep(_PAUSE_S)


def encode(text: str) -> bytes:
    """Return markup as one message; every line end that a browser knows begins a new line of it."""
    return b"".join(b"data: %s\n" % line.encode() for line in re.split(r"\r\n|\r|\n", text)) + b"\n"
