"""HTTP for the operator of this machine: what goes beyond a coordinator's spawn, status and kill.

Requeue what failed, pause and drain the queue, sweep the directory. Same token and same address as the local API.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict

from aiohttp import web

from common.http import json_response, read_json
from common.route import Route
from spoke.agent_view import AgentView, shown
from spoke.janitor import Janitor
from spoke.local_api import Guard, named
from spoke.local_models import (
    AgentQuery,
    FlagRequest,
    MachinesView,
    OperatorsAgentView,
    QueueView,
    SweepRequest,
    SweepView,
)
from spoke.queue import Queue
from spoke.requeue import Requeuer


class OperatorApi:
    """The routes for the operator."""

    def __init__(
        self,
        guard: Guard,
        view: AgentView,
        queue: Queue,
        requeuer: Requeuer,
        janitor: Janitor,
        linked: Callable[[], Mapping[str, bool]],
    ) -> None:
        """Take also `linked`, which says of each machine, by id, whether it has a link now."""
        self._linked = linked
        self._guard = guard
        self._audit = guard.audit
        self._view = view
        self._queue = queue
        self._requeuer = requeuer
        self._janitor = janitor

    def routes(self) -> list[Route]:
        """Return the route table."""
        guard = self._guard
        return [
            Route(
                "POST",
                "/agents/{agentId}/requeue",
                guard(self._requeue),
                "Queue the work of an agent that failed or was killed again, as a new agent",
                status=201,
                query=AgentQuery,
                response=OperatorsAgentView,
            ),
            Route("GET", "/queue", guard(self._show_queue), "How much waits and runs", response=QueueView),
            Route("GET", "/machines", guard(self._show_machines), "Which machines have a link", response=MachinesView),
            Route(
                "POST",
                "/queue/drain",
                guard(self._drain),
                "Take no new agents, or take them again",
                request=FlagRequest,
                response=QueueView,
            ),
            Route(
                "POST",
                "/queue/pause",
                guard(self._pause),
                "Start no agents, or start them again",
                request=FlagRequest,
                response=QueueView,
            ),
            Route(
                "POST",
                "/sweep",
                guard(self._sweep),
                "Remove what is left of ended agents and kept long enough",
                request=SweepRequest,
                response=SweepView,
            ),
        ]

    async def _requeue(self, request: web.Request) -> web.Response:
        record = await self._view.find(*named(request))
        peer = record.fields.get("peer")
        self._audit.intend("requeue.asked", agents=[record.ref.agent_id], peer=peer)
        again = await self._requeuer.requeue(record)
        await self._audit.record("requeue.decided", agents=[record.ref.agent_id, again.ref.agent_id], peer=peer)
        return json_response(shown(again), status=201)

    async def _show_queue(self, _request: web.Request) -> web.Response:
        return json_response({**await self._queue.load(), **await self._queue.flags()})

    async def _show_machines(self, _request: web.Request) -> web.Response:
        return json_response({"linked": dict(self._linked())})

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
