"""`/agents`, `/spawn`: find agents, look at one, start one, stop one."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from common.route import read_query
from hub.agents import SHOWN, Agents, Filter
from hub.api.agents import AgentsApi, agent_id_of
from hub.api.models import AgentsQuery, KillRequest
from hub.dashboard.answering import done, refused_at
from hub.dashboard.forms import Form
from hub.dashboard.pages import Pages
from hub.dashboard.results import read_result
from hub.dashboard.route import Deed, Page
from hub.records import ENDED, AgentRecord

PAGE: Final = 50


def filter_of(query: AgentsQuery) -> Filter:
    """Return what a page of agents asks for."""
    return Filter(query.spoke, query.status, query.task_id, query.reason)


def filter_query(query: AgentsQuery, **more: str) -> str:
    """Return the query string of the same filters."""
    named = {"spoke": query.spoke, "status": query.status, "taskId": query.task_id, "reason": query.reason, **more}
    return urlencode({name: value for name, value in named.items() if value})


def steps(record: AgentRecord) -> list[tuple[str, str]]:
    """Return an agent's way so far: what happened, and when (RFC 3339)."""
    view = record.to_view()
    receipt = (view["receipt"] or {}).get("signals", [])
    known = [
        ("asked for", view["createdAt"]),
        ("queued", view["queuedAt"]),
        ("started", view["startedAt"]),
        *((signal["signal"], signal["at"]) for signal in receipt),
        (record.shown, view["finishedAt"]),
    ]
    return [(name, at) for name, at in known if at]


class AgentPages:
    """Handlers about agents, on what the API's own handlers stand on."""

    def __init__(self, pages: Pages, api: AgentsApi, agents: Agents) -> None:
        self._pages = pages
        self._api = api
        self._agents = agents

    def pages(self) -> list[Page | Deed]:
        """Return the routes."""
        return [
            Page("/agents", self.list),
            Page("/agents/{id}", self.show),
            Deed("/agents/{id}/kill", self.kill, scope="operate"),
        ]

    async def list(self, request: web.Request) -> web.Response:
        """Show a page of agents."""
        query = read_query(request, AgentsQuery)
        known = await self.list_state(query)
        return self._pages.show(request, "agents.html", query=query, statuses=SHOWN, **known)

    async def list_state(self, query: AgentsQuery) -> dict[str, Any]:
        """Return what the list shows, here and live."""
        records, cursor = await self._agents.page(filter_of(query), PAGE, query.cursor)
        older = filter_query(query, cursor=cursor) if cursor else None
        return {"agents": records, "older": older, "same": filter_query(query)}

    async def show(self, request: web.Request) -> web.Response:
        """Show one agent."""
        record = await self._agents.find(agent_id_of(request))
        return self._pages.show(request, "agent.html", **agent_state(record))

    async def kill(self, request: web.Request, form: Form) -> web.Response:
        """Stop an agent."""
        agent_id = agent_id_of(request)
        where, reason = f"/agents/{agent_id}", form.get("reason", "").strip()
        with refused_at(request, where):
            wanted = KillRequest.model_validate({"reason": reason} if reason else {})
            kill = await self._api.stop(agent_id, wanted.grace_s, wanted.reason)
        said = "The kill is on its way." if kill.command_id else f"It had ended already: {kill.shown}."
        return done(request, where, said)


def agent_state(record: AgentRecord) -> dict[str, Any]:
    """Return what an agent's page shows, here and live."""
    return {
        "record": record,
        "agent": record.to_view(),
        "result": read_result((record.agent or {}).get("result")),
        "steps": steps(record),
        "ended": record.shown in ENDED,
    }
