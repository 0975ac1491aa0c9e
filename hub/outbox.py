"""The outbox in Valkey: commands wait here, durably, from before their id is returned until a spoke has answered.

Decides nothing about answers (`hub.settlement` does). Refuses more than `limit` waiting commands per spoke with
`queue_full`, and an id with other content with `conflict`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from redis.asyncio import Redis

from common import strict_json
from common.commands import MAX_COMMANDS
from common.envelope import MAX_ITEMS_BYTES
from common.errors import Unavailable
from common.scripts import ScriptSet
from common.valkey import translated
from hub.agents import EVENTS_KEPT
from hub.keyspace import Keyspace
from hub.settlement import Queued, shown_error

_EXPIRE_AT_ONCE: Final = 1000
_EXPIRED: Final = shown_error("expired", "its deadline passed before the spoke had answered", retryable=False)


class QueueFull(Unavailable):
    """Too many commands wait for one spoke; those are kept, new ones are not taken (fault row 18)."""

    code = "queue_full"


# Each spawn makes one of both: named tuples, as in hub.settlement.
class NewAgent(NamedTuple):
    """A spawn to be taken into the outbox; `command` is its JSON, `deadline_ms` 0 for none.

    `trace` is the `traceparent` of what asked for it, "" for none.
    """

    agent_id: str
    spoke: str
    tenant: str
    task_id: str
    agent_type: str
    content_hash: str
    command: bytes
    deadline_ms: int = 0
    trace: str = ""


class Enqueued(NamedTuple):
    """What became of a spawn (`created`, `same`, `conflict`, `queue_full`) and what is shown of the agent now."""

    outcome: str
    shown: str


@dataclass(frozen=True, slots=True)
class EnqueuedKill:
    """What became of a kill (`queued`, `same`, `ended`, `not_found`), its command id, what is shown of the agent."""

    outcome: str
    command_id: str
    shown: str


@dataclass(frozen=True, slots=True)
class NewKill:
    """A kill to be taken into the outbox; `command` is its JSON, `trace` the `traceparent` of what asked for it."""

    agent_id: str
    command_id: str
    command: bytes
    trace: str = ""


@dataclass(frozen=True, slots=True)
class NewLatch:
    """A `freeze` or `thaw` to be taken into the outbox; `command` is its JSON, `trace` what asked for it."""

    command_id: str
    kind: str
    command: bytes
    kills: bool
    reason: str
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """An envelope that was not answered: when, the how manieth in a row, when the next one goes (ms)."""

    now_ms: int
    failures: int
    next_ms: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What is to be sent to a spoke next, how many more are ready, when the next deferred one is due (ms, 0: never)."""

    commands: tuple[Queued, ...]
    left: int
    next_due_ms: int


class Outbox:
    """One hub's outbox; every method raises `Unavailable` when Valkey is away."""

    def __init__(self, client: Redis, keys: Keyspace, scripts: ScriptSet, limit: int) -> None:
        self._client = client
        self._keys = keys
        self._scripts = scripts
        self.limit = limit
        """How many may wait for one spoke; may be replaced while it runs."""

    async def _run(self, name: str, arguments: Sequence[str | bytes | int]) -> Any:
        return await self._scripts[name](self._client, [self._keys.prefix], arguments)

    async def enqueue(self, agents: Sequence[NewAgent], now_ms: int) -> list[Enqueued]:
        """Take spawns, all in one step: what is `created` is durable when this returns (fault rows 1, 2)."""
        fields = [
            value
            for new in agents
            for value in (
                new.agent_id,
                new.spoke,
                new.tenant,
                new.task_id,
                new.agent_type,
                new.content_hash,
                new.command,
                new.deadline_ms,
                new.trace,
            )
        ]
        results = await self._run("enqueue", [now_ms, self.limit, EVENTS_KEPT, len(agents), *fields])
        return [Enqueued(outcome.decode(), shown.decode()) for outcome, shown in results]

    async def enqueue_kills(self, kills: Sequence[NewKill]) -> list[EnqueuedKill]:
        """Take kills, of each agent one; those that wait already are not doubled."""
        fields = [value for new in kills for value in (new.agent_id, new.command_id, new.command, new.trace)]
        results = await self._run("kill", fields) if kills else []
        return [EnqueuedKill(*(value.decode() for value in result)) for result in results]

    async def enqueue_latch(self, tenant: str, new: NewLatch, now_ms: int) -> None:
        """Take a freeze or a thaw of a spoke; it makes those that wait void, except a kill."""
        arguments: list[str | bytes | int] = [tenant, new.command_id, new.kind, int(new.kills), new.command, now_ms]
        await self._run("latch", [*arguments, new.reason, new.trace])

    async def take(self, tenant: str, now_ms: int, count: int = MAX_COMMANDS) -> Taken:
        """Return what fits the next envelope, in order, leaving it where it is."""
        commands, left, following = await self._run("take", [now_ms, tenant, count, MAX_ITEMS_BYTES])
        queued = tuple(
            Queued(command_id.decode(), kind.decode(), agent_id.decode(), encoded, int(attempts), trace.decode())
            for command_id, kind, agent_id, encoded, attempts, trace in commands
        )
        return Taken(queued, int(left), int(float(following or 0)))

    async def note_failure(
        self, tenant: str, commands: Sequence[Queued], error: dict[str, Any], failed: Failed
    ) -> None:
        """Note on the commands and on the spoke that an envelope was not answered, and when the next one goes."""
        ids = [command.command_id for command in commands]
        head: list[str | bytes | int] = [failed.now_ms, tenant, strict_json.encode(error)]
        await self._run("fail", [*head, failed.failures, failed.next_ms, *ids])

    async def expire(self, now_ms: int) -> list[str]:
        """Take out what has passed its deadline; returns the agent ids, at most 1000 at once."""
        expired = await self._run("expire", [now_ms, EVENTS_KEPT, strict_json.encode(_EXPIRED), _EXPIRE_AT_ONCE])
        return [agent_id.decode() for agent_id in expired]

    async def resend(self, agent_ids: Sequence[str], now_ms: int) -> list[str]:
        """Put spawns back that their spoke knows nothing of any more; returns which ones, those shown as queued."""
        again = await self._run("resend", [now_ms, EVENTS_KEPT, *agent_ids]) if agent_ids else []
        return [agent_id.decode() for agent_id in again]

    async def tenants(self) -> set[str]:
        """Return the tenants for which something waits."""
        with translated():
            members: set[Any] = await self._client.smembers(self._keys.outboxes)
        return {tenant.decode() for tenant in members}
