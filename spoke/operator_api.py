"""HTTP for the operator of this machine: what goes beyond a coordinator's spawn, status and kill.

Requeue what failed, pause and drain the queue, sweep the directory. Same token and same address as the local API.
"""

from __future__ import annotations

from dataclasses import asdict

from aiohttp import web

from common.http import Handler, json_response, read_json
from common.wire import StrictModel
from spoke.agent_view import AgentView, shown
from spoke.janitor import Janitor
from spoke.local_api import Guard
from spoke.queue import Queue
from spoke.requeue import Requeuer


class FlagRequest(StrictModel):
    """The body of a drain or a pause."""

    on: bool


class SweepRequest(StrictModel):
    """The body of a sweep; with `dryRun` nothing is removed."""

    dry_run: bool = False


class OperatorApi:
    """The routes for the operator."""

    def __init__(self, guard: Guard, view: AgentView, queue: Queue, requeuer: Requeuer, janitor: Janitor) -> None:
        self._guard = guard
        self._audit = guard.audit
        self._view = view
        self._queue = queue
        self._requeuer = requeuer
        self._janitor = janitor

    def routes(self) -> list[web.RouteDef]:
        """Return the route table."""
        table: list[tuple[str, str, Handler]] = [
            ("POST", "/agents/{agent_id}/requeue", self._requeue),
            ("GET", "/queue", self._show_queue),
            ("POST", "/queue/drain", self._drain),
            ("POST", "/queue/pause", self._pause),
            ("POST", "/sweep", self._sweep),
        ]
        return [web.route(method, path, self._guard(handler)) for method, path, handler in table]

    async def _requeue(self, request: web.Request) -> web.Response:
        record = await self._view.find(request.match_info["agent_id"], request.query.get("peer"))
        peer = record.fields.get("peer")
        self._audit.intend("requeue.asked", agents=[record.ref.agent_id], peer=peer)
        again = await self._requeuer.requeue(record)
        await self._audit.record("requeue.decided", agents=[record.ref.agent_id, again.ref.agent_id], peer=peer)
        return json_response(shown(again), status=201)

    async def _show_queue(self, _request: web.Request) -> web.Response:
        return json_response({**await self._queue.load(), **await self._queue.flags()})

    async def _drain(self, request: web.Request) -> web.Response:
        return await self._set_flag(request, "draining")

    async def _pause(self, request: web.Request) -> web.Response:
        return await self._set_flag(request, "paused")

    async def _set_flag(self, request: web.Request, flag: str) -> web.Response:
        wanted = await read_json(request, FlagRequest)
        await self._queue.set_flag(flag, on=wanted.on)
        await self._audit.note("queue.changed", flag=flag, on=wanted.on)
        return await self._show_queue(request)

    async def _sweep(self, request: web.Request) -> web.Response:
        wanted = await read_json(request, SweepRequest)
        removed = await self._janitor.sweep(dry_run=wanted.dry_run)
        return json_response({"removed": [asdict(each) for each in removed]})
