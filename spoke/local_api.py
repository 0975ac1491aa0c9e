"""HTTP for this machine itself: the coordinator's spawn, and what the operator's command line asks for.

Needs the token of `local.token`, and comes from loopback unless configured otherwise. The operator sees every
tenant's agents; health and metrics need no token on loopback.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from common.audit_file import Audit, acting
from common.clock import SystemClock
from common.errors import CommandRefused, Unavailable
from common.http import (
    Handler,
    Unauthorized,
    check_bearer,
    is_from_loopback,
    json_response,
    read_json,
    route_of,
)
from common.http_tracing import traced
from common.metric_table import CONTENT_TYPE
from common.node_views import HealthView, ReadyView
from common.route import Route, read_query
from common.tracing import Tracing
from spoke.agent_record import AgentRef
from spoke.agent_view import AgentView, Filter, shown
from spoke.local_models import (
    AgentList,
    AgentQuery,
    AgentsQuery,
    KillRequest,
    KillWithoutStoreView,
    LocalSpawnRequest,
    LogQuery,
    LogView,
    OperatorsAgentView,
    SpawnedView,
)
from spoke.local_spawn import LocalSpawner
from spoke.machines.elsewhere import Elsewhere
from spoke.queue import Queue
from spoke.queue_terms import KillStep
from spoke.scraping import Scraping

_OPEN_PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_CREATED: Final = 201
_ACCEPTED: Final = 202
_MAX_LISTED: Final = 1000
_MAX_LOG_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call: the bearer of `token`, from this machine only unless `remote`."""

    token: str = field(repr=False)
    remote: bool = False

    def check(self, request: web.Request) -> None:
        """Raise `Unauthorized` for anybody else."""
        local = is_from_loopback(request)
        if request.path in _OPEN_PATHS and local:
            return
        if not local and not self.remote:
            raise Unauthorized("this is for the spoke's own machine only")
        check_bearer(request, self.token)


@dataclass(frozen=True, slots=True)
class Guard:
    """Lets those in who may call, under the name of the token, and audits the others."""

    access: Access
    audit: Audit

    def __call__(self, handler: Handler) -> Handler:
        """Return the handler for those who may call."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            try:
                self.access.check(request)
            except Unauthorized as error:
                asked = route_of(request)
                self.audit.refuse("token.refused", error.code, address=request.remote, detail=asked)
                raise
            with acting("local.token"):
                return await handler(request)

        return guarded


def named(request: web.Request) -> tuple[str, str | None]:
    """Return the agent that a request is about, and whose it is where that was said; raises `InvalidRequest`."""
    return request.match_info["agentId"], read_query(request, AgentQuery).peer


class LocalApi:
    """The routes for this machine."""

    def __init__(
        self,
        guard: Guard,
        spawner: LocalSpawner,
        view: AgentView,
        queue: Queue,
        disks: Elsewhere,
        scraping: Scraping,
        tracing: Tracing,
    ) -> None:
        self._guard = guard
        self._audit = guard.audit
        self._view = view
        self._spawner = spawner
        self._queue = queue
        self._disks = disks
        self._scraping = scraping
        self._tracing = tracing

    def routes(self) -> list[Route]:
        """Return the route table."""
        one, guard = "/agents/{agentId}", self._guard
        return [
            Route(
                "POST",
                "/agents/spawn",
                guard(traced(self._tracing, self._spawn)),
                "Start an agent; it cannot be lost when this answers",
                status=_CREATED,
                request=LocalSpawnRequest,
                response=SpawnedView,
                links={
                    "get_agents_agentId_status": ("agentId", "agentId"),
                    "get_agents_agentId_logs": ("agentId", "agentId"),
                    "post_agents_agentId_kill": ("agentId", "agentId"),
                },
            ),
            Route("GET", "/agents", guard(self._list), "List agents", query=AgentsQuery, response=AgentList),
            Route(
                "GET",
                f"{one}/status",
                guard(self._status),
                "Show one agent",
                query=AgentQuery,
                response=OperatorsAgentView,
            ),
            Route("GET", f"{one}/logs", guard(self._logs), "Read an agent's log", query=LogQuery, response=LogView),
            Route(
                "POST",
                f"{one}/kill",
                guard(self._kill),
                "Stop an agent, whoever asked for it",
                query=AgentQuery,
                request=KillRequest,
                body_optional=True,
                response=OperatorsAgentView,
                others={_ACCEPTED: KillWithoutStoreView},
            ),
            Route(
                "GET", "/healthz", guard(self._health), "Whether the node answers", response=HealthView, open_here=True
            ),
            Route(
                "GET", "/readyz", guard(self._ready), "Whether the node takes work", response=ReadyView, open_here=True
            ),
            Route(
                "GET",
                "/metrics",
                guard(self._show_metrics),
                "What Prometheus reads",
                media_type="text/plain",
                open_here=True,
            ),
        ]

    async def _spawn(self, request: web.Request) -> web.Response:
        wanted = await read_json(request, LocalSpawnRequest)
        self._audit.intend("spawn.asked", agents=[wanted.agent_id], task=wanted.task_id)
        try:
            record = await self._spawner.spawn(wanted)
        except CommandRefused as refused:
            await self._audit.record("spawn.decided", outcome=refused.code, agents=[wanted.agent_id])
            raise
        await self._audit.record("spawn.decided", outcome="accepted", agents=[record.ref.agent_id])
        return json_response({"agentId": record.ref.agent_id, "status": record.status}, status=_CREATED)

    async def _status(self, request: web.Request) -> web.Response:
        return json_response(shown(await self._view.find(*named(request))))

    async def _list(self, request: web.Request) -> web.Response:
        query = read_query(request, AgentsQuery)
        wanted = Filter(query.status, query.reason, query.type, query.task, query.peer)
        records = await self._view.newest(wanted, min(query.limit, _MAX_LISTED))
        return json_response({"agents": [shown(record) for record in records]})

    async def _kill(self, request: web.Request) -> web.Response:
        agent_id, peer = named(request)
        wanted = await read_json(request, KillRequest) if request.can_read_body else KillRequest()
        try:
            record = await self._view.find(agent_id, peer)
            step = KillStep(record.ref.agent_id, wanted.grace_s, "killed_by_operator", wanted.reason)
            killed = await self._queue.kill(AgentRef(record.ref.tenant, record.ref.agent_id), step)
        except Unavailable as error:
            return await self._kill_without_store(agent_id, peer, wanted, error)
        owner = record.fields.get("peer")
        await self._audit.note("kill.decided", agents=[record.ref.agent_id], peer=owner, reason=wanted.reason)
        return json_response(shown(killed or record))

    async def _kill_without_store(
        self, agent_id: str, peer: str | None, wanted: KillRequest, error: Unavailable
    ) -> web.Response:
        """Tell the keeper itself: it needs no store, and the record follows when there is one again (fault row 13)."""
        if not await self._disks.end(agent_id, peer, wanted.grace_s):
            raise error
        await self._audit.note("kill.decided", agents=[agent_id], peer=peer, reason=wanted.reason)
        detail = f"its keeper was told to end it; its record follows when the store is back ({error.message})"
        return json_response({"agentId": agent_id, "status": "running", "detail": detail}, status=_ACCEPTED)

    async def _logs(self, request: web.Request) -> web.Response:
        query = read_query(request, LogQuery)
        record = await self._view.find(request.match_info["agentId"], query.peer)
        limit = min(query.limit, _MAX_LOG_BYTES)
        piece = await self._disks.disk_of(record).read_log(record, query.offset, limit)
        return json_response(piece.to_json(ended=record.terminal))

    async def _health(self, _request: web.Request) -> web.Response:
        return json_response({"status": "ok"})

    async def _ready(self, _request: web.Request) -> web.Response:
        """Say whether the node takes work: its store answers and has not just been lost, and its audit is written."""
        await self._queue.load()
        self._queue.store.check_signed(SystemClock().now_ms() // 1000)
        self._audit.check()
        return json_response({"status": "ready"})

    async def _show_metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=await self._scraping.render(), headers={"Content-Type": CONTENT_TYPE})
