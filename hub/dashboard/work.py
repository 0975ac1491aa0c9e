"""`/agents/{id}/changes`, `…/send`, `…/resume`: what an agent changed, telling it more, having it go on."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from common.commands import MAX_LOG_BYTES
from hub.agents import Agents
from hub.api.agents import AgentsApi, agent_id_of
from hub.api.models import ResumeRequest, SendRequest
from hub.dashboard.answering import done, refused_at
from hub.dashboard.forms import Form
from hub.dashboard.pages import Pages
from hub.dashboard.route import Deed, Page
from hub.records import AgentRecord

_MOST_BYTES: Final = 1024 * 1024
"""A longer patch is shown up to there; nobody reads more of it in a browser."""
_FILE: Final = ("diff --git ", "+++", "---")
_KINDS: Final = (*((mark, "file") for mark in _FILE), ("@@", "hunk"), ("+", "plus"), ("-", "minus"))


def colour(patch: str) -> list[tuple[str, str]]:
    """Return the lines of a git patch, each with what it is: `file`, `hunk`, `plus`, `minus` or nothing."""
    return [(next((kind for mark, kind in _KINDS if line.startswith(mark)), ""), line) for line in patch.split("\n")]


class WorkPages:
    """Handlers about an agent's work."""

    def __init__(self, pages: Pages, api: AgentsApi, agents: Agents) -> None:
        self._pages = pages
        self._api = api
        self._agents = agents

    def pages(self) -> list[Page | Deed]:
        """Return the routes."""
        return [
            # A patch may hold anything, as with the API.
            Page("/agents/{id}/changes", self.changes, scope="operate"),
            Deed("/agents/{id}/send", self.send, scope="operate"),
            Deed("/agents/{id}/resume", self.resume, scope="operate"),
        ]

    async def changes(self, request: web.Request) -> web.Response:
        """Show what an agent changed so far, or all of it once it has ended."""
        record = await self._agents.find(agent_id_of(request))
        patch, is_whole = await self._patch(record)
        return self._pages.show(request, "changes.html", record=record, patch=colour(patch), is_whole=is_whole)

    async def _patch(self, record: AgentRecord) -> tuple[str, bool]:
        text, offset = "", 0
        while True:
            piece = await self._api.read_patch(record, offset, MAX_LOG_BYTES)
            text, ended = text + piece.data, piece.eof or piece.next_offset == offset
            offset = piece.next_offset
            if ended or offset >= _MOST_BYTES:
                return text, ended

    async def send(self, request: web.Request, form: Form) -> web.Response:
        """Give a running agent a message."""
        agent_id = agent_id_of(request)
        where = f"/agents/{agent_id}"
        with refused_at(request, where):
            wanted = SendRequest.model_validate({"text": form.get("text", "")})
            await self._api.pass_on(agent_id, wanted.text, self._api.new_id())
        return done(request, where, "It has your message.")

    async def resume(self, request: web.Request, form: Form) -> web.Response:
        """Have an agent that has ended go on."""
        agent_id, text = agent_id_of(request), form.get("text", "").strip()
        where = f"/agents/{agent_id}"
        with refused_at(request, where):
            wanted = ResumeRequest.model_validate({"text": text} if text else {})
            await self._api.go_on(agent_id, wanted.text, self._api.new_id())
        return done(request, where, "It goes on.")
