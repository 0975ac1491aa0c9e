"""`/agents/{id}/log`: the end of a log, and then what is added, piece by piece, as long as the agent runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aiohttp import web

from common.commands import MAX_LOG_BYTES
from common.errors import HubspokeError, LocalError
from common.strict_json import MAX_INTEGER
from hub.agents import Agents
from hub.api.agents import AgentsApi, agent_id_of
from hub.dashboard.pages import Pages
from hub.dashboard.route import Deed, Page
from hub.records import ENDED, AgentRecord

_TAIL_BYTES: Final = 65_536
_MAX_STEPS: Final = 64
"""A log that is longer than that many pieces is shown from where they end, and followed to its end."""


@dataclass(frozen=True, slots=True)
class Tail:
    """Text from a log; `skipped` bytes stand before it, `following` is where to go on."""

    skipped: int
    text: str
    following: int
    is_whole: bool


class LogPages:
    """Handlers of logs."""

    def __init__(self, pages: Pages, api: AgentsApi, agents: Agents) -> None:
        self._pages = pages
        self._api = api
        self._agents = agents

    def pages(self) -> list[Page | Deed]:
        """Return the routes."""
        return [
            # A log may hold anything, as with the API.
            Page("/agents/{id}/log", self.show, scope="operate"),
            Page("/agents/{id}/log/more", self.more, scope="operate"),
        ]

    async def show(self, request: web.Request) -> web.Response:
        """Show the end of a log as a page of its own, for browsers without scripts."""
        record = await self._agents.find(agent_id_of(request))
        tail = await self._tail(record)
        return self._pages.show(request, "log.html", record=record, tail=tail)

    async def more(self, request: web.Request) -> web.Response:
        """Answer with a piece of the log, and with what asks for the next one."""
        record = await self._agents.find(agent_id_of(request))
        asked = request.query.get("offset", "")
        offset = min(int(asked), MAX_INTEGER) if asked.isascii() and asked.isdecimal() else None
        try:
            tail = await self._tail(record) if offset is None else await self._piece(record, offset)
        except LocalError:
            raise
        except HubspokeError as error:
            return self._part(request, record, error=error, tail=None, offset=offset)
        return self._part(request, record, error=None, tail=tail, offset=tail.following)

    def _part(self, request: web.Request, record: AgentRecord, **known: object) -> web.Response:
        ended = record.shown in ENDED
        text = self._pages.part(request, "_log_more.html", record=record, ended=ended, **known)
        return web.Response(text=text, content_type="text/html", charset="utf-8")

    async def _piece(self, record: AgentRecord, offset: int) -> Tail:
        piece = await self._api.read_log(record, offset, _TAIL_BYTES)
        return Tail(0, piece.data, piece.next_offset, piece.eof)

    async def _tail(self, record: AgentRecord) -> Tail:
        """Return the last 64 KiB: where the spoke said how long the log is, at once, else by going through it."""
        length = ((record.agent or {}).get("result") or {}).get("logBytes", 0)
        offset = max(length - _TAIL_BYTES, 0)
        text = ""
        for _ in range(_MAX_STEPS):
            piece = await self._api.read_log(record, offset, MAX_LOG_BYTES)
            text, offset = (text + piece.data)[-_TAIL_BYTES:], piece.next_offset
            if piece.eof:
                break
        return Tail(max(offset - len(text.encode()), 0), text, offset, piece.eof)
