"""`/api/v1/agents`: spawn, list, look, kill, read logs and patches, send messages, resume."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from aiohttp import web
from pydantic import ValidationError

from common import strict_json
from common.audit_file import Audit
from common.envelope import Slice
from common.errors import HubspokeError, Malformed, PeerError
from common.http import JSON_TYPE, InvalidRequest, invalid_request, json_response, read_body, read_json
from common.ids import is_uuid7
from common.inbox import TrustSource
from common.peers import Peer
from common.route import read_query
from hub.agents import Agents, Filter, NoSuchAgent
from hub.api.models import (
    AgentPage,
    AgentQuery,
    AgentsQuery,
    AgentView,
    KillRequest,
    KillView,
    LogQuery,
    LogView,
    ResumedView,
    ResumeRequest,
    SendRequest,
    SentView,
    SpawnedView,
    SpawnManyRequest,
    SpawnManyView,
    SpawnRequest,
)
from hub.api.route import Route
from hub.outbox import EnqueuedKill
from hub.peering import spoke_of_tenant
from hub.queries import Queries
from hub.records import AgentRecord
from hub.spawning import Spawned, Spawning, Wish

_ACCEPTED: Final = 202
MAX_BODY_BYTES: Final = 16 * 1024 * 1024


_Ask = Callable[[Peer, str, int, int], Awaitable[Slice]]


class AllRefused(PeerError):
    """Of many spawns in one request none was taken; `agents` says why for each."""

    code = "all_refused"
    http_status = 409


class NotTaken(PeerError):
    """The agent is not at a spoke."""

    code = "not_delivered"
    http_status = 409


class AgentsApi:
    """Handlers about agents."""

    def __init__(self, agents: Agents, spawning: Spawning, queries: Queries, trust: TrustSource, audit: Audit) -> None:
        self._agents = agents
        self._spawning = spawning
        self._queries = queries
        self._trust = trust
        self._audit = audit

    def routes(self) -> list[Route]:
        """Return the routes of agents."""
        one = "/api/v1/agents/{id}"
        return [
            Route(
                "POST",
                "/api/v1/agents",
                self.spawn,
                "Start an agent, or many under `agents`; the ids are durable when this answers",
                status=_ACCEPTED,
                request=SpawnRequest,
                response=SpawnedView,
                other_form=(SpawnManyRequest, SpawnManyView),
                scope="operate",
                links={
                    "get_agents_id": ("id", "agentId"),
                    "post_agents_id_kill": ("id", "agentId"),
                    "get_agents_id_logs": ("id", "agentId"),
                    "get_agents_id_diff": ("id", "agentId"),
                },
            ),
            Route("GET", "/api/v1/agents", self.list, "List agents", query=AgentsQuery, response=AgentPage),
            Route("GET", one, self.show, "Show one agent", query=AgentQuery, response=AgentView),
            Route(
                "POST",
                f"{one}/kill",
                self.kill,
                "Stop an agent",
                status=_ACCEPTED,
                request=KillRequest,
                body_optional=True,
                response=KillView,
                scope="operate",
            ),
            Route(
                "GET",
                f"{one}/logs",
                self.log,
                "Read an agent's log",
                query=LogQuery,
                response=LogView,
                scope="operate",  # a log may hold anything
            ),
            Route(
                "GET",
                f"{one}/diff",
                self.diff,
                "Read what an agent changed, as a git patch",
                query=LogQuery,
                response=LogView,
                scope="operate",
            ),
            Route(
                "POST",
                f"{one}/send",
                self.send,
                "Give a running agent a message; with a `commandId` of yours it may be sent again",
                request=SendRequest,
                response=SentView,
                scope="operate",
            ),
            Route(
                "POST",
                f"{one}/resume",
                self.resume,
                "Have an agent that has ended go on; with a `commandId` of yours it may be asked again",
                request=ResumeRequest,
                body_optional=True,
                response=ResumedView,
                scope="operate",
            ),
        ]

    async def spawn(self, request: web.Request) -> web.Response:
        """Start one agent, or many."""
        value = _parse(await read_body(request, JSON_TYPE, MAX_BODY_BYTES))
        if isinstance(value, dict) and "agents" in value:
            return await self._spawn_many(value)
        (answer,) = await self.decide([_read_wish(value)])
        if isinstance(answer, HubspokeError):
            raise answer
        return json_response(_spawned(answer), _ACCEPTED)

    async def _spawn_many(self, value: dict[str, Any]) -> web.Response:
        try:
            wishes = [_wish_or_error(item) for item in SpawnManyRequest.model_validate(value).agents]
        except ValidationError as error:
            raise invalid_request(error) from error
        answers = iter(await self.decide([wish for wish in wishes if isinstance(wish, Wish)]))
        outcomes = [next(answers) if isinstance(wish, Wish) else wish for wish in wishes]
        view = many(outcomes)
        if not view["accepted"]:
            raise AllRefused("none of the agents was taken; see agents", extra=view)
        return json_response(view, _ACCEPTED)

    async def decide(self, wishes: Sequence[Wish]) -> Sequence[Spawned | HubspokeError]:
        """Spawn, with a line in the audit before and one after; raises `AuditUnavailable` before anything was done."""
        self._audit.intend("spawn.asked", spokes=sorted({wish.spoke for wish in wishes}), count=len(wishes))
        answers = await self._spawning.spawn(wishes)
        await self._audit.record("spawn.decided", decisions=_decisions(wishes, answers))
        return answers

    async def list(self, request: web.Request) -> web.Response:
        """List agents, newest first."""
        query = read_query(request, AgentsQuery)
        wanted = Filter(query.spoke, query.status, query.task_id, query.reason)
        records, cursor = await self._agents.page(wanted, query.limit, query.cursor)
        return json_response({"agents": [record.to_view() for record in records], "cursor": cursor or None})

    async def show(self, request: web.Request) -> web.Response:
        """Show one agent; with `live` the spoke is asked first."""
        agent_id, query = agent_id_of(request), read_query(request, AgentQuery)
        record = await self._agents.find(agent_id)
        if query.live and record.delivery["state"] == "delivered":
            await self._queries.refresh(spoke_of_tenant(self._trust.current(), record.spoke, record.tenant), agent_id)
            record = await self._agents.find(agent_id)
        return json_response(record.to_view())

    async def kill(self, request: web.Request) -> web.Response:
        """Take a kill into the outbox."""
        agent_id = agent_id_of(request)
        wanted = await read_json(request, KillRequest) if request.can_read_body else KillRequest()
        kill = await self.stop(agent_id, wanted.grace_s, wanted.reason)
        answer = {"agentId": agent_id, "status": kill.shown, "commandId": kill.command_id or None}
        return json_response(answer, _ACCEPTED)

    async def stop(self, agent_id: str, grace_s: int, reason: str | None) -> EnqueuedKill:
        """Take a kill into the outbox, with a line in the audit; raises what `Spawning.kill` does."""
        kill = await self._spawning.kill(agent_id, grace_s, reason)
        await self._audit.note("kill.decided", agents=[agent_id], command=kill.command_id or None, reason=reason)
        return kill

    async def log(self, request: web.Request) -> web.Response:
        """Read a piece of the log from the spoke; an agent that no spoke has taken yet has an empty one."""
        return await self._read(request, self._queries.log)

    async def diff(self, request: web.Request) -> web.Response:
        """Read a piece of the patch from the spoke; an agent that no spoke has taken yet has an empty one."""
        return await self._read(request, self._queries.diff)

    async def read_log(self, record: AgentRecord, offset: int, limit: int) -> Slice:
        """Return a piece of an agent's log, in bytes; raises `ConnectionInactive` and what `Queries.log` does."""
        return await self._piece(record, LogQuery(offset=offset, limit=limit), self._queries.log)

    async def read_patch(self, record: AgentRecord, offset: int, limit: int) -> Slice:
        """Return a piece of what an agent changed, as a patch; raises what `read_log` does."""
        return await self._piece(record, LogQuery(offset=offset, limit=limit), self._queries.diff)

    async def _read(self, request: web.Request, ask: _Ask) -> web.Response:
        query = read_query(request, LogQuery)
        piece = await self._piece(await self._agents.find(agent_id_of(request)), query, ask)
        return json_response(piece.model_dump(by_alias=True))

    async def _piece(self, record: AgentRecord, query: LogQuery, ask: _Ask) -> Slice:
        if record.delivery["state"] != "delivered":
            waits = record.delivery["state"] == "pending"
            return Slice.model_validate({"offset": 0, "data": "", "nextOffset": 0, "eof": not waits})
        peer = spoke_of_tenant(self._trust.current(), record.spoke, record.tenant)
        return await ask(peer, record.agent_id, query.offset, query.limit)

    async def send(self, request: web.Request) -> web.Response:
        """Give a running agent a message; where no answer comes nobody knows, and the same may be sent again."""
        agent_id = agent_id_of(request)
        wanted = await read_json(request, SendRequest)
        command_id = wanted.command_id or self.new_id()
        await self.pass_on(agent_id, wanted.text, command_id)
        return json_response({"agentId": agent_id, "commandId": command_id})

    async def pass_on(self, agent_id: str, text: str, command_id: str) -> None:
        """Give an agent a message, with a line in the audit; raises what `Queries.tell` does, and as `go_on`."""
        peer = await self._holder(agent_id)
        await self._audit.note("send.asked", agents=[agent_id], command=command_id)
        await self._queries.tell(peer, agent_id, text, command_id)

    def new_id(self) -> str:
        """Return a fresh command id."""
        return self._queries.new_id()

    async def resume(self, request: web.Request) -> web.Response:
        """Have an agent go on; where no answer comes nobody knows, and the same may be asked again."""
        agent_id = agent_id_of(request)
        wanted = await read_json(request, ResumeRequest) if request.can_read_body else ResumeRequest()
        command_id = wanted.command_id or self.new_id()
        record = await self.go_on(agent_id, wanted.text, command_id)
        view = record.to_view()
        answer = {"agentId": agent_id, "commandId": command_id, "status": view["status"], "attempt": view["attempt"]}
        return json_response(answer)

    async def go_on(self, agent_id: str, text: str | None, command_id: str) -> AgentRecord:
        """Resume an agent, with a line in the audit; raises what `Queries.resume` does, `NoSuchAgent`, `NotTaken`."""
        peer = await self._holder(agent_id)
        await self._audit.record("resume.asked", agents=[agent_id], command=command_id)
        await self._queries.resume(peer, agent_id, text, command_id)
        return await self._agents.find(agent_id)

    async def _holder(self, agent_id: str) -> Peer:
        """Return the spoke that has an agent; raises `NoSuchAgent`, `NotTaken`, `ConnectionInactive`."""
        record = await self._agents.find(agent_id)
        if record.delivery["state"] != "delivered":
            raise NotTaken("no spoke has taken this agent yet, or none will; it cannot be told anything")
        return spoke_of_tenant(self._trust.current(), record.spoke, record.tenant)


def agent_id_of(request: web.Request) -> str:
    """Return the id in the path; raises `NoSuchAgent` for what is none."""
    agent_id = request.match_info["id"]
    if not is_uuid7(agent_id):
        raise NoSuchAgent("there is no such agent here; an agent's id is a UUIDv7 in lower case")
    return agent_id


def _parse(body: bytes) -> Any:
    try:
        return strict_json.parse(body)
    except Malformed as error:
        raise InvalidRequest(error.message) from error


def _read_wish(value: Any) -> Wish:
    try:
        request = SpawnRequest.model_validate(value)
    except ValidationError as error:
        raise invalid_request(error) from error
    return Wish(request.spoke, request, request.agent_id, request.deadline_s)


def _wish_or_error(value: Any) -> Wish | HubspokeError:
    try:
        return _read_wish(value)
    except InvalidRequest as error:
        return error


def _decisions(wishes: Sequence[Wish], answers: Sequence[Spawned | HubspokeError]) -> list[dict[str, Any]]:
    """Return what was decided, the agents of one spoke with one outcome together."""
    decided: dict[tuple[str, str], list[str]] = {}
    for wish, answer in zip(wishes, answers, strict=True):
        outcome, agent_id = (
            (answer.code, wish.agent_id) if isinstance(answer, HubspokeError) else ("accepted", answer.agent_id)
        )
        decided.setdefault((wish.spoke, outcome), []).append(agent_id or "none")
    return [{"peer": peer, "outcome": outcome, "agents": ids} for (peer, outcome), ids in decided.items()]


def _spawned(spawned: Spawned) -> dict[str, Any]:
    return {"agentId": spawned.agent_id, "spoke": spawned.spoke, "status": spawned.status}


def many(outcomes: Sequence[Spawned | HubspokeError]) -> dict[str, Any]:
    """Return the answers to many spawns, in order, and how many were taken."""
    refused = sum(isinstance(outcome, HubspokeError) for outcome in outcomes)
    views = [{"index": index, **_outcome(outcome)} for index, outcome in enumerate(outcomes)]
    return {"accepted": len(outcomes) - refused, "refused": refused, "agents": views}


def view_error(error: HubspokeError) -> dict[str, Any]:
    """Return the JSON object of what kept one thing of many from being done."""
    return {"code": error.code, "detail": error.message, "retryable": error.retryable}


def _outcome(outcome: Spawned | HubspokeError) -> dict[str, Any]:
    if isinstance(outcome, HubspokeError):
        return {"error": view_error(outcome)}
    return _spawned(outcome)


__all__ = ["AgentsApi", "AllRefused", "SpawnManyView"]
