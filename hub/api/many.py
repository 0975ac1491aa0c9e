"""`/api/v1/agents/place` and `/api/v1/agents/kill`: many agents in one request, each with its own answer."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from common.audit_file import Audit
from common.clock import Clock
from common.errors import HubspokeError
from common.http import InvalidRequest, json_response, read_json
from hub.api.agents import AgentsApi, AllRefused, many, view_error
from hub.api.many_models import KillManyRequest, KillManyView, PlacedView, PlaceRequest
from hub.api.route import Route
from hub.killing import KillAnswer, Killing
from hub.placing import Batch, Placing

MAX_PLACED: Final = 10_000
"""Agents that one request may start; the spokes of a hub are not bounded."""
_ACCEPTED: Final = 202
_IN_A_LINE: Final = 1000


class ManyApi:
    """Handlers about many agents; what is placed is spawned by `agents`."""

    def __init__(self, agents: AgentsApi, placing: Placing, killing: Killing, clock: Clock, audit: Audit) -> None:
        self._agents = agents
        self._placing = placing
        self._killing = killing
        self._clock = clock
        self._audit = audit

    def routes(self) -> list[Route]:
        """Return the two routes."""
        return [
            Route(
                "POST",
                "/api/v1/agents/place",
                self.place,
                "Start an agent on every spoke that fits, or `count` agents where there is least to do",
                status=_ACCEPTED,
                request=PlaceRequest,
                response=PlacedView,
                scope="operate",
            ),
            Route(
                "POST",
                "/api/v1/agents/kill",
                self.kill,
                "Stop all agents of a task, of a spoke, or all",
                status=_ACCEPTED,
                request=KillManyRequest,
                response=KillManyView,
                scope="operate",
            ),
        ]

    async def place(self, request: web.Request) -> web.Response:
        """Find the spokes and spawn."""
        wanted = await read_json(request, PlaceRequest)
        batch_id = wanted.batch_id or self._clock.new_id()
        wishes = await self._placing.plan(
            Batch(batch_id, wanted, wanted.spoke, wanted.labels, wanted.count, wanted.deadline_s)
        )
        if len(wishes) > MAX_PLACED:
            raise InvalidRequest(f"that is more than {MAX_PLACED} agents; name labels that fewer spokes have")
        view = {"batchId": batch_id, **many(await self._agents.decide(wishes))}
        for wish, shown in zip(wishes, view["agents"], strict=True):
            shown["spoke"] = wish.spoke  # who refused is to be seen, too
        if not view["accepted"]:
            raise AllRefused("none of the agents was taken; see agents", extra=view)
        return json_response(view, _ACCEPTED)

    async def kill(self, request: web.Request) -> web.Response:
        """Take the kills into the outbox; a stop goes out also while the audit cannot be written."""
        wanted = await read_json(request, KillManyRequest)
        answers = await self._killing.kill(wanted.spoke or "", wanted.task_id or "", wanted.grace_s, wanted.reason)
        await self._note(wanted, [answer.agent.agent_id for answer in answers])
        views = [_view(answer) for answer in answers]
        refused = sum("error" in view for view in views)
        return json_response({"accepted": len(views) - refused, "refused": refused, "agents": views}, _ACCEPTED)

    async def _note(self, wanted: KillManyRequest, agents: list[str]) -> None:
        selected = {"peer": wanted.spoke, "task": wanted.task_id, "all": wanted.all or None, "reason": wanted.reason}
        for at in range(0, len(agents), _IN_A_LINE):
            await self._audit.note("kill.decided", agents=agents[at : at + _IN_A_LINE], **selected)


def _view(answer: KillAnswer) -> dict[str, Any]:
    named = {"agentId": answer.agent.agent_id, "spoke": answer.agent.spoke}
    if isinstance(answer.outcome, HubspokeError):
        return {**named, "status": answer.agent.shown, "error": view_error(answer.outcome)}
    return {**named, "status": answer.outcome.shown, "commandId": answer.outcome.command_id or None}
