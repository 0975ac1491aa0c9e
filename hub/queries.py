"""What somebody waits for: a status, a piece of a log or patch, a message, a resume. It is not put into the outbox.

A spoke that cannot be reached is `unreachable` (504), one whose answer is no good `bad_reply` (502), both soon: the
caller may ask again. What a status says is recorded like any other answer.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, Final

from common import strict_json
from common.agent_state import AgentStatus
from common.clock import Clock
from common.envelope import Result, Slice
from common.errors import PeerError, Unavailable
from common.inbox import BadReply
from common.peers import Peer
from common.trace_context import current_traceparent
from hub.agents import Agents
from hub.delivery import Delivery
from hub.pace import Pace
from hub.settlement import MAX_DETAIL, Queued, Settlement

TIMEOUT_S: Final = 10.0
_STATUS: Final = {"not_found": HTTPStatus.NOT_FOUND, "not_allowed": HTTPStatus.FORBIDDEN}


class Unreachable(Unavailable):
    """The spoke did not answer in time; its agents are not affected."""

    code = "unreachable"
    http_status = 504


class SpokeRefused(PeerError):
    """The spoke answered a question with an error; `code` is the spoke's."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"the spoke refused: {detail[:MAX_DETAIL]}", code=code)
        self.http_status = _STATUS.get(code, HTTPStatus.CONFLICT)


class Queries:
    """Asks spokes directly."""

    def __init__(self, delivery: Delivery, agents: Agents, clock: Clock, timeout_s: float = TIMEOUT_S) -> None:
        self._delivery = delivery
        self._agents = agents
        self._clock = clock
        self._timeout_s = timeout_s
        self._pace = Pace()

    def new_id(self) -> str:
        """Return a fresh command id."""
        return self._clock.new_id()

    async def refresh(self, peer: Peer, agent_id: str) -> None:
        """Ask for the status of an agent and record it; raises `Unreachable`, `SpokeRefused` or `BadReply`."""
        result = await self._ask(peer, {"command": "status", "agentId": agent_id})
        await self._record(peer, agent_id, result)

    async def log(self, peer: Peer, agent_id: str, offset: int, limit: int) -> Slice:
        """Return a piece of an agent's log; raises `Unreachable`, `SpokeRefused` or `BadReply`."""
        await self._pace.turn(peer.tenant)
        result = await self._ask(peer, {"command": "logs", "agentId": agent_id, "offset": offset, "limit": limit})
        if result.log is None:
            raise BadReply(f"{peer.instance} answered without a log")
        return result.log

    async def diff(self, peer: Peer, agent_id: str, offset: int, limit: int) -> Slice:
        """Return a piece of the patch of what an agent changed; raises as `log` does."""
        await self._pace.turn(peer.tenant)
        result = await self._ask(peer, {"command": "diff", "agentId": agent_id, "offset": offset, "limit": limit})
        if result.diff is None:
            raise BadReply(f"{peer.instance} answered without a patch")
        return result.diff

    async def tell(self, peer: Peer, agent_id: str, text: str, command_id: str) -> None:
        """Give a running agent a message, once for one `command_id`; raises as `log` does."""
        result = await self._ask(peer, {"command": "send", "agentId": agent_id, "text": text}, command_id)
        _agent_in(result, peer, agent_id)

    async def resume(self, peer: Peer, agent_id: str, text: str | None, command_id: str) -> None:
        """Have an agent that has ended go on, once for one `command_id`, and record it.

        Raises as `log` does, and `KillWaits`.
        """
        await self._agents.await_return(agent_id, command_id)
        command = {"command": "resume", "agentId": agent_id, **({} if text is None else {"text": text})}
        try:
            result = await self._ask(peer, command, command_id)
        except SpokeRefused:
            await self._agents.keep_end(agent_id, command_id)
            raise
        await self._record(peer, agent_id, result)

    async def _record(self, peer: Peer, agent_id: str, result: Result) -> None:
        settlement = Settlement(agent_id, "answer", agent=_agent_in(result, peer, agent_id))
        await self._agents.record(peer, [settlement], self._clock.now_ms())

    async def _ask(self, peer: Peer, command: dict[str, Any], chosen_id: str | None = None) -> Result:
        command_id = chosen_id or self._clock.new_id()
        item = strict_json.encode({"id": command_id, **command})
        asked = Queued(command_id, command["command"], command["agentId"], item, trace=current_traceparent())
        try:
            async with asyncio.timeout(self._timeout_s):
                reply = await self._delivery.send(peer, [asked])
        except (TimeoutError, Unavailable) as error:
            raise Unreachable(f"{peer.instance} cannot be reached now; try again later") from error
        except PeerError as error:
            raise BadReply(f"{peer.instance}: {error.message}", code=error.code) from error
        (result,) = reply.results
        if result.id != command_id:
            raise BadReply(f"{peer.instance} answered another command")
        if result.error is not None:
            raise SpokeRefused(result.error.code, result.error.detail)
        return result


def _agent_in(result: Result, peer: Peer, agent_id: str) -> AgentStatus:
    if result.agent is None or result.agent.agent_id != agent_id:
        raise BadReply(f"{peer.instance} answered with another agent, or with none")
    return result.agent
