"""Many kills in one request: every agent of a task, of a spoke, or of all that has not ended, each with its own answer.

An agent that changes its state while the states are gone through is found in a later one; one that moves back to the
queue is found there at the end. What spokes run that this hub lost track of, `hub freeze --kill` reaches.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from common.clock import Clock
from common.errors import HubspokeError
from common.inbox import TrustSource
from common.trace_context import current_traceparent
from hub.agents import LIVING, Agents, Filter
from hub.outbox import EnqueuedKill, NewKill, Outbox
from hub.peering import spoke_of_tenant
from hub.records import AgentRecord
from hub.sender import Sender
from hub.spawning import encode_kill

_IN_ORDER: Final = (*LIVING, "queued")
_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class KillAnswer:
    """What became of one agent's kill, or why there is none."""

    agent: AgentRecord
    outcome: EnqueuedKill | HubspokeError


@dataclass(frozen=True, slots=True)
class Killing:
    """Takes kills of many agents into the outbox and wakes the sender."""

    trust: TrustSource
    agents: Agents
    outbox: Outbox
    sender: Sender
    clock: Clock

    async def kill(self, spoke: str, task_id: str, grace_s: int, reason: str | None) -> list[KillAnswer]:
        """Stop what has not ended of that spoke and task ("" for any); raises `Unavailable`."""
        answers: list[KillAnswer] = []
        async for records in self._living(spoke, task_id):
            answers += await self._kill(records, grace_s, reason)
        return answers

    async def _living(self, spoke: str, task_id: str) -> AsyncIterator[list[AgentRecord]]:
        seen: set[str] = set()
        for status in _IN_ORDER:
            cursor, more = "", True
            while more:
                records, cursor = await self.agents.page(Filter(spoke, status, task_id), _PAGE, cursor)
                more = bool(cursor)
                fresh = [record for record in records if record.agent_id not in seen]
                seen |= {record.agent_id for record in fresh}
                if fresh:
                    yield fresh

    async def _kill(self, records: Sequence[AgentRecord], grace_s: int, reason: str | None) -> list[KillAnswer]:
        refused = {record.agent_id: error for record in records if (error := self._refusal(record))}
        asked = [record for record in records if record.agent_id not in refused]
        ids = [(record.agent_id, self.clock.new_id()) for record in asked]
        trace = current_traceparent()
        new = [
            NewKill(agent_id, command, encode_kill(command, agent_id, grace_s, reason), trace)
            for agent_id, command in ids
        ]
        outcomes = dict(zip((each.agent_id for each in asked), await self.outbox.enqueue_kills(new), strict=True))
        for tenant in {record.tenant for record in asked}:
            self.sender.wake(tenant)
        return [KillAnswer(record, refused.get(record.agent_id) or outcomes[record.agent_id]) for record in records]

    def _refusal(self, record: AgentRecord) -> HubspokeError | None:
        try:
            spoke_of_tenant(self.trust.current(), record.spoke, record.tenant)
        except HubspokeError as error:
            return error
        return None
