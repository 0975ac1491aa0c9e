"""From a wish to a command in the outbox: checked here as far as a hub can, many at once, each with its own answer.

The caller may choose the agent's id; the same id with the same content is the same agent, with other content it is
`conflict`. Whether the spoke's policy allows it is the spoke's to say.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

from common import strict_json
from common.branch import check_branch
from common.clock import Clock
from common.commands import MAX_COMMANDS, Kill, SpawnFields, encode_content, encode_spawn, hash_content
from common.envelope import check_fits
from common.errors import CommandRefused, HubspokeError
from common.inbox import TrustSource
from common.peers import Trust
from common.repository import parse_repository
from common.trace_context import current_traceparent
from hub.agents import Agents, NoSuchAgent
from hub.gathering import Gathering
from hub.lane import Handed
from hub.metrics import Metrics
from hub.outbox import Enqueued, EnqueuedKill, NewAgent, NewKill, Outbox, QueueFull
from hub.peering import active_spoke, spoke_of_tenant
from hub.sender import Sender
from hub.settlement import Queued

_RETRY_AFTER_S: Final = 5


class Wish(NamedTuple):
    """An agent that somebody wants; `deadline_s` counts from now, None for none."""

    spoke: str
    fields: SpawnFields
    agent_id: str | None = None
    deadline_s: int | None = None


class Spawned(NamedTuple):
    """An agent in the read model, and what is shown of it."""

    agent_id: str
    spoke: str
    status: str


def encode_kill(command_id: str, agent_id: str, grace_s: int, reason: str | None) -> bytes:
    """Return the JSON of a kill command."""
    given = {} if reason is None else {"reason": reason}
    kill = Kill.model_validate({"id": command_id, "command": "kill", "agentId": agent_id, "graceS": grace_s, **given})
    return strict_json.encode(kill.model_dump(by_alias=True, exclude_none=True))


def _answer(new: NewAgent, enqueued: Enqueued) -> Spawned | HubspokeError:
    if enqueued.outcome == "conflict":
        return CommandRefused("conflict", f"agent {new.agent_id} exists with other content; choose another id")
    if enqueued.outcome == "queue_full":
        return QueueFull(f"too many commands wait for {new.spoke}; try again later", retry_after_s=_RETRY_AFTER_S)
    return Spawned(new.agent_id, new.spoke, enqueued.shown)


class Spawning:
    """Takes spawns and kills into the outbox and wakes the sender."""

    def __init__(
        self, trust: TrustSource, agents: Agents, outbox: Outbox, sender: Sender, clock: Clock, metrics: Metrics
    ) -> None:
        self._trust = trust
        self._agents = agents
        self._outbox = outbox
        self._sender = sender
        self._clock = clock
        self._metrics = metrics
        self.enqueuing = Gathering(self._take, MAX_COMMANDS)

    async def spawn(self, wishes: Sequence[Wish]) -> Sequence[Spawned | HubspokeError]:
        """Return an agent or an error for each wish, in order; what is an agent is durable. Raises `Unavailable`."""
        trace = current_traceparent()  # of this request: what has gathered is taken in a task of its own
        return await self.enqueuing.submit([(wish, trace) for wish in wishes])

    async def _take(self, wishes: Sequence[tuple[Wish, str]]) -> list[Spawned | HubspokeError]:
        """Take what has gathered: one reading of the trust and one write, however many callers wait."""
        trust, now_ms = self._trust.current(), self._clock.now_ms()
        planned = [self._plan_or_error(wish, trust, now_ms, trace) for wish, trace in wishes]
        agents = [plan for plan in planned if isinstance(plan, NewAgent)]
        enqueued = await self._outbox.enqueue(agents, now_ms) if agents else []
        self._hand_over(agents, enqueued)
        refused = [plan.code for plan in planned if isinstance(plan, HubspokeError)]
        for outcome, count in Counter([*refused, *(each.outcome for each in enqueued)]).items():
            self._metrics.commands_enqueued.labels(outcome).inc(count)
        following = iter(enqueued)
        return [_answer(plan, next(following)) if isinstance(plan, NewAgent) else plan for plan in planned]

    def _hand_over(self, agents: Sequence[NewAgent], enqueued: Sequence[Enqueued]) -> None:
        created = defaultdict[str, list[Handed]](list)
        for new, each in zip(agents, enqueued, strict=True):
            if each.outcome == "created":
                queued = Queued(new.agent_id, "spawn", new.agent_id, new.command, trace=new.trace)
                created[new.tenant].append(Handed(queued, new.deadline_ms))
            elif each.outcome == "same" and each.shown == "pending":
                self._sender.wake(new.tenant)  # asked again, perhaps because the first answer was lost
        for tenant, commands in created.items():
            self._sender.hand(tenant, commands)

    def _plan_or_error(self, wish: Wish, trust: Trust, now_ms: int, trace: str) -> NewAgent | HubspokeError:
        try:
            return self._plan(wish, trust, now_ms, trace)
        except HubspokeError as error:
            return error

    def _plan(self, wish: Wish, trust: Trust, now_ms: int, trace: str) -> NewAgent:
        peer = active_spoke(trust, wish.spoke)
        parse_repository(wish.fields.context.repository)
        check_branch(wish.fields.context.branch)
        agent_id = wish.agent_id or self._clock.new_id()
        content = encode_content(wish.fields)
        command = encode_spawn(agent_id, content)
        check_fits(command)
        deadline_ms = 0 if wish.deadline_s is None else now_ms + wish.deadline_s * 1000
        return NewAgent(
            agent_id=agent_id,
            spoke=peer.instance,
            tenant=peer.tenant,
            task_id=wish.fields.task_id,
            agent_type=wish.fields.agent_type,
            content_hash=hash_content(content),
            command=command,
            deadline_ms=deadline_ms,
            trace=trace,
        )

    async def kill(self, agent_id: str, grace_s: int, reason: str | None) -> EnqueuedKill:
        """Take a kill; raises `NoSuchAgent`, `ConnectionInactive`, `Unavailable`."""
        record = await self._agents.find(agent_id)
        command_id = self._clock.new_id()
        spoke_of_tenant(self._trust.current(), record.spoke, record.tenant)
        new = NewKill(agent_id, command_id, encode_kill(command_id, agent_id, grace_s, reason), current_traceparent())
        (enqueued,) = await self._outbox.enqueue_kills([new])
        if enqueued.outcome == "not_found":
            raise NoSuchAgent(f"there is no agent {agent_id} here; see hub list")
        self._sender.wake(record.tenant)
        return enqueued
