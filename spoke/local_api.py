"""HTTP for this machine itself: the coordinator's spawn, and what the operator's command line asks for.

Needs the token of `local.token`, and comes from loopback unless configured otherwise. The operator sees every
tenant's agents; health and metrics need no token on loopback.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from aiohttp import web
from pydantic import Field

from common.audit_file import Audit, acting
from common.clock import SystemClock
from common.commands import DEFAULT_GRACE_S, MAX_REASON
from common.errors import CommandRefused, PeerError
from common.http import (
    Handler,
    InvalidRequest,
    Unauthorized,
    check_bearer,
    is_from_loopback,
    json_response,
    read_json,
)
from common.ids import is_uuid7
from common.wire import StrictModel
from spoke.agent_record import AgentRecord, AgentRef
from spoke.local_spawn import LocalSpawner, LocalSpawnRequest
from spoke.metrics import CONTENT_TYPE, Metrics
from spoke.queue import KillStep, Queue
from spoke.runs import Runs

_OPEN_PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_MAX_LISTED: Final = 1000
_MAX_LOG_BYTES: Final = 1024 * 1024


class AgentNotFound(PeerError):
    """There is no such agent here."""

    code = "not_found"
    http_status = 404


class KillRequest(StrictModel):
    """The body of a kill; all of it may be left out."""

    grace_s: Annotated[int, Field(ge=0, le=300)] = DEFAULT_GRACE_S
    reason: Annotated[str, Field(max_length=MAX_REASON)] | None = None


class FlagRequest(StrictModel):
    """The body of a drain or a pause."""

    on: bool


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


def shown(record: AgentRecord) -> dict[str, Any]:
    """Return an agent as the operator sees it: AgentStatus, whose it is, and the last detail of a failure."""
    return {**record.to_status(), "peer": record.fields.get("peer"), "detail": record.fields.get("detail")}


def _integer(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = query.get(name, str(default))
    if not text.isascii() or not text.isdecimal() or len(text) > len(str(2**53)):
        raise InvalidRequest(f"{name}: is a whole number from 0")
    return min(int(text), most)


class LocalApi:
    """The routes for this machine."""

    def __init__(
        self, access: Access, spawner: LocalSpawner, queue: Queue, runs: Runs, metrics: Metrics, audit: Audit
    ) -> None:
        self._audit = audit
        self._access = access
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
            ("GET", "/queue", self._show_queue),
            ("POST", "/queue/drain", self._drain),
            ("POST", "/queue/pause", self._pause),
            ("GET", "/healthz", self._health),
            ("GET", "/readyz", self._ready),
            ("GET", "/metrics", self._show_metrics),
        ]
        return [web.route(method, path, self._guarded(handler)) for method, path, handler in table]

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            try:
                self._access.check(request)
            except Unauthorized as error:
                asked = f"{request.method} {request.path}"
                self._audit.refuse("token.refused", error.code, address=request.remote, detail=asked)
                raise
            with acting("local.token"):
                return await handler(request)

        return guarded

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
        agent_id = request.match_info["agent_id"]
        refs = await self._queue.find(agent_id) if is_uuid7(agent_id) else []
        found = [record for record in await self._queue.describe(refs) if record is not None] if refs else []
        peer = request.query.get("peer")
        matching = [record for record in found if peer is None or record.fields.get("peer") == peer]
        if not matching:
            raise AgentNotFound("there is no such agent on this spoke; see: spoke agent list")
        if len(matching) > 1:
            raise InvalidRequest("several peers have an agent of this id; say which with ?peer=ID")
        return matching[0]

    async def _status(self, request: web.Request) -> web.Response:
        return json_response(shown(await self._find(request)))

    async def _list(self, request: web.Request) -> web.Response:
        limit = _integer(request.query, "limit", 100, _MAX_LISTED)
        refs = await self._queue.newest(limit)
        records = await self._queue.describe(refs) if refs else []
        return json_response({"agents": [shown(record) for record in records if record is not None]})

    async def _kill(self, request: web.Request) -> web.Response:
        wanted = await read_json(request, KillRequest) if request.can_read_body else KillRequest()
        record = await self._find(request)
        step = KillStep(record.ref.agent_id, wanted.grace_s, "killed_by_operator", wanted.reason)
        killed = await self._queue.kill(AgentRef(record.ref.tenant, record.ref.agent_id), step)
        peer = record.fields.get("peer")
        await self._audit.note("kill.decided", agents=[record.ref.agent_id], peer=peer, reason=wanted.reason)
        return json_response(shown(killed or record))

    async def _logs(self, request: web.Request) -> web.Response:
        record = await self._find(request)
        offset = _integer(request.query, "offset", 0, 2**53)
        limit = _integer(request.query, "limit", 65_536, _MAX_LOG_BYTES)
        piece = self._runs.read_log(record.ref, record.attempt, offset, limit)
        return json_response(piece.to_json(ended=record.terminal))

    async def _show_queue(self, _request: web.Request) -> web.Response:
        return json_response(await self._queue.load())

    async def _drain(self, request: web.Request) -> web.Response:
        return await self._set_flag(request, "draining")

    async def _pause(self, request: web.Request) -> web.Response:
        return await self._set_flag(request, "paused")

    async def _set_flag(self, request: web.Request, flag: str) -> web.Response:
        wanted = await read_json(request, FlagRequest)
        await self._queue.set_flag(flag, on=wanted.on)
        await self._audit.note("queue.changed", flag=flag, on=wanted.on)
        return json_response(await self._queue.load())

    async def _health(self, _request: web.Request) -> web.Response:
        return json_response({"status": "ok"})

    async def _ready(self, _request: web.Request) -> web.Response:
        """Say whether the node takes work: its store answers, and has not just been lost."""
        await self._queue.load()
        self._queue.store.check_signed(SystemClock().now_ms() // 1000)
        return json_response({"status": "ready"})

    async def _show_metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=await self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})
