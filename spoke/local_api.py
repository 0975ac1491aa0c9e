"""HTTP for this machine itself: the coordinator's spawn, and what the operator's command line asks for.

Needs the token of `local.token`, and comes from loopback unless configured otherwise. The operator sees every
tenant's agents; health and metrics need no token on loopback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final

from aiohttp import web
from pydantic import Field

from common.audit_file import Audit, acting
from common.clock import SystemClock
from common.commands import DEFAULT_GRACE_S, MAX_REASON
from common.errors import CommandRefused, Unavailable
from common.http import (
    Handler,
    InvalidRequest,
    Unauthorized,
    check_bearer,
    is_from_loopback,
    json_response,
    read_json,
    route_of,
)
from common.wire import StrictModel
from spoke.agent_record import AgentRecord, AgentRef
from spoke.agent_view import AgentView, Filter, shown
from spoke.local_spawn import LocalSpawner, LocalSpawnRequest
from spoke.metrics import CONTENT_TYPE, Metrics
from spoke.queue import Queue
from spoke.queue_terms import KillStep
from spoke.runs import Runs
from spoke.supervision.control import ask_to_end

_OPEN_PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_ACCEPTED: Final = 202
_MAX_LISTED: Final = 1000
_MAX_LOG_BYTES: Final = 1024 * 1024


class KillRequest(StrictModel):
    """The body of a kill; all of it may be left out."""

    grace_s: Annotated[int, Field(ge=0, le=300)] = DEFAULT_GRACE_S
    reason: Annotated[str, Field(max_length=MAX_REASON)] | None = None


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


def _integer(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = query.get(name, str(default))
    if not text.isascii() or not text.isdecimal() or len(text) > len(str(2**53)):
        raise InvalidRequest(f"{name}: is a whole number from 0")
    return min(int(text), most)


class LocalApi:
    """The routes for this machine."""

    def __init__(
        self, guard: Guard, spawner: LocalSpawner, view: AgentView, queue: Queue, runs: Runs, metrics: Metrics
    ) -> None:
        self._guard = guard
        self._audit = guard.audit
        self._view = view
        self._spawner = spawner
        self._queue = queue
        self._runs = runs
        self._metrics = metrics

    def routes(self) -> list[web.RouteDef]:
        """Return the route table."""
        table: list[tuple[str, str, Handler]] = [
            ("POST", "/agents/spawn", self._spawn),
            ("GET", "/agents", self._list),
            ("GET", "/agents/{agent_id}/status", self._status),
            ("GET", "/agents/{agent_id}/logs", self._logs),
            ("POST", "/agents/{agent_id}/kill", self._kill),
            ("GET", "/healthz", self._health),
            ("GET", "/readyz", self._ready),
            ("GET", "/metrics", self._show_metrics),
        ]
        return [web.route(method, path, self._guard(handler)) for method, path, handler in table]

    async def _spawn(self, request: web.Request) -> web.Response:
        wanted = await read_json(request, LocalSpawnRequest)
        self._audit.intend("spawn.asked", agents=[wanted.agent_id], task=wanted.task_id)
        try:
            record = await self._spawner.spawn(wanted)
        except CommandRefused as refused:
            await self._audit.record("spawn.decided", outcome=refused.code, agents=[wanted.agent_id])
            raise
        await self._audit.record("spawn.decided", outcome="accepted", agents=[record.ref.agent_id])
        return json_response({"agentId": record.ref.agent_id, "status": record.status}, status=201)

    async def _find(self, request: web.Request) -> AgentRecord:
        return await self._view.find(request.match_info["agent_id"], request.query.get("peer"))

    async def _status(self, request: web.Request) -> web.Response:
        return json_response(shown(await self._find(request)))

    async def _list(self, request: web.Request) -> web.Response:
        limit = _integer(request.query, "limit", 100, _MAX_LISTED)
        records = await self._view.newest(Filter.parse(request.query), limit)
        return json_response({"agents": [shown(record) for record in records]})

    async def _kill(self, request: web.Request) -> web.Response:
        wanted = await read_json(request, KillRequest) if request.can_read_body else KillRequest()
        try:
            record = await self._find(request)
            step = KillStep(record.ref.agent_id, wanted.grace_s, "killed_by_operator", wanted.reason)
            killed = await self._queue.kill(AgentRef(record.ref.tenant, record.ref.agent_id), step)
        except Unavailable as error:
            return await self._kill_without_store(request, wanted, error)
        peer = record.fields.get("peer")
        await self._audit.note("kill.decided", agents=[record.ref.agent_id], peer=peer, reason=wanted.reason)
        return json_response(shown(killed or record))

    async def _kill_without_store(self, request: web.Request, wanted: KillRequest, error: Unavailable) -> web.Response:
        """Tell the keeper itself: it needs no store, and the record follows when there is one again (fault row 13)."""
        agent_id, peer = request.match_info["agent_id"], request.query.get("peer")
        found = [run for run in await asyncio.to_thread(self._runs.unsettled_of, agent_id) if run.is_of(peer)]
        if not found:
            raise error
        for unsettled in found:
            ask_to_end(unsettled.run.directory, wanted.grace_s, "killed_by_operator")
        await self._audit.note("kill.decided", agents=[agent_id], peer=peer, reason=wanted.reason)
        detail = f"its keeper was told to end it; its record follows when the store is back ({error.message})"
        return json_response({"agentId": agent_id, "status": "running", "detail": detail}, status=_ACCEPTED)

    async def _logs(self, request: web.Request) -> web.Response:
        record = await self._find(request)
        offset = _integer(request.query, "offset", 0, 2**53)
        limit = _integer(request.query, "limit", 65_536, _MAX_LOG_BYTES)
        piece = self._runs.read_log(record.ref, record.attempt, offset, limit)
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
        return web.Response(body=await self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})
