"""The read model in Valkey: what the hub knows of every agent, kept by `record.lua`, found by `list.lua`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis

from common import strict_json
from common.connection import DEFAULT_SKEW_S
from common.envelope import Claims
from common.errors import EnvelopeRejected, PeerError, RateLimited
from common.handshake import Hello
from common.ids import uuid7_time_ms
from common.peers import Peer
from common.scripts import ScriptSet
from common.store_mark import KnownStore, StoreMark
from common.valkey import translated
from hub.contacts import CONTACT_FIELDS, Contact, read_contact
from hub.keyspace import Keyspace
from hub.records import FIELDS, AgentRecord, parse_record
from hub.settlement import Settlement
from hub.told import Told

EVENTS_KEPT: Final = 50_000
RATE_PER_S: Final = 500
"""Envelopes that one spoke may send; each may hold a thousand events."""
TAKEN_IN: Final = 10_000
"""So many agents of a spoke are taken in for which this hub, as far as it knows, has not asked."""
TAKEN_IN_BYTES: Final = 64 * 1024 * 1024
"""What may be kept of all of these together."""
STATUS_BYTES: Final = 256 * 1024
"""What may be kept of one agent. The protocol's largest result, with all that stands beside it, has half of that."""
LIVING: Final = ("pending", "queued", "spawning", "running")
"""What is shown of agents that have not ended, in the order in which they go through it."""
SHOWN: Final = (*LIVING, "completed", "failed", "killed", "refused", "expired")
"""All that can be shown of an agent."""
PAGE_BYTES: Final = 4 * 1024 * 1024
"""What the records of one page have together at most; a larger one is a page of its own."""
_SCAN_BUDGET: Final = 10_000
_REPLAY_MARGIN_S: Final = 60

Argument = str | bytes | int


class NoSuchAgent(PeerError):
    """No agent of that id was ever asked for here."""

    code = "not_found"
    http_status = 404


class KillWaits(PeerError):
    """The agent cannot be resumed before its kill was delivered."""

    code = "conflict"
    http_status = 409


@dataclass(frozen=True, slots=True)
class Filter:
    """Which agents to list; empty means any. `status` is what is shown: also `pending`, `refused`, `expired`."""

    spoke: str = ""
    status: str = ""
    task_id: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ReplayMark:
    """The mark of an accepted envelope, kept until its window has closed whatever the clocks say."""

    name: str
    life_ms: int
    signed_s: int

    @classmethod
    def of(cls, claims: Claims, now_ms: int, skew_s: int = DEFAULT_SKEW_S) -> ReplayMark:
        """Return the mark of these claims."""
        closes_s = claims.exp + skew_s + _REPLAY_MARGIN_S
        life_ms = max(closes_s * 1000 - now_ms, _REPLAY_MARGIN_S * 1000)
        return cls(f"{claims.iss}:{claims.jti}", life_ms, claims.iat)


class Agents:
    """Reads and records; every method raises `Unavailable` when Valkey is away."""

    def __init__(self, client: Redis, keys: Keyspace, scripts: ScriptSet, store: KnownStore | None = None) -> None:
        self._client = client
        self._keys = keys
        self.store = store or KnownStore()
        """What is known of the store; without a guard that knows better it is one that nobody ever marked."""
        self._told = Told()
        self._record = scripts["record"]
        self._mark = scripts["mark"]
        self._list = scripts["list"]
        self._living = scripts["living"]
        self._reopen = scripts["reopen"]

    async def check(self) -> None:
        """Return when Valkey answers; raises `Unavailable`."""
        with translated():
            await self._client.exists(self._keys.events)

    async def find(self, agent_id: str) -> AgentRecord:
        """Return one agent; raises `NoSuchAgent`."""
        with translated():
            values: list[Any] = await self._client.hmget(self._keys.agent(agent_id), list(FIELDS))
        record = parse_record(agent_id, values)
        if record is None:
            raise NoSuchAgent(f"there is no agent {agent_id} here; see hub list")
        return record

    async def await_return(self, agent_id: str, command_id: str) -> None:
        """Note that an agent is being resumed, so that news of one that has ended count; raises `KillWaits`."""
        answer = await self._reopen(self._client, [self._keys.prefix], [agent_id, command_id, 0])
        if answer == b"killing":
            raise KillWaits("a kill of this agent is still on its way to its spoke; resume it when that has arrived")

    async def keep_end(self, agent_id: str, command_id: str) -> None:
        """Note that this resume was refused: with none left that may have been taken its end is final again."""
        await self._reopen(self._client, [self._keys.prefix], [agent_id, command_id, 1])

    async def page(self, wanted: Filter, limit: int, cursor: str = "") -> tuple[list[AgentRecord], str]:
        """Return at most `limit` agents of `PAGE_BYTES`, newest first, and the cursor to go on with ("" at the end)."""
        filters = [wanted.spoke, wanted.status, wanted.task_id, wanted.reason]
        arguments: list[Argument] = [*filters, cursor, limit, _SCAN_BUDGET, PAGE_BYTES]
        found, following = await self._list(self._client, [self._keys.prefix], arguments)
        ids = [agent_id.decode() for agent_id in found]
        with translated():
            async with self._client.pipeline(transaction=False) as pipeline:
                for agent_id in ids:
                    pipeline.hmget(self._keys.agent(agent_id), list(FIELDS))
                rows = await pipeline.execute()
        records = [parse_record(agent_id, row) for agent_id, row in zip(ids, rows, strict=True)]
        return [record for record in records if record is not None], following.decode()

    async def record(
        self, peer: Peer, settlements: Sequence[Settlement], now_ms: int, replay: ReplayMark | None = None
    ) -> list[bool]:
        """Take in what `peer` said, in one step; returns for each whether it was taken.

        Not so is what is about others' agents (attack row 38), and more than is kept of one agent, or of all that
        nobody asked for (row 64).

        Raises `EnvelopeRejected` `replayed` when the envelope of the mark was taken before, `RateLimited`, `StoreLost`.
        """
        known = self.store.mark
        turn = self._told.begin(known.generation)
        tenant, has = peer.tenant, self._told.has
        told = [each.outcome == "event" and each.agent is not None and has(tenant, each.agent) for each in settlements]
        news = [settlement for settlement, is_told in zip(settlements, told, strict=True) if not is_told]
        bounds = (TAKEN_IN, TAKEN_IN_BYTES, STATUS_BYTES)
        head: list[Argument] = [now_ms, tenant, peer.instance, EVENTS_KEPT, *bounds, *self._marking(replay)]
        items = [value for settlement in news for value in _arguments(settlement)]
        answer = await self._record(self._client, [self._keys.prefix], [*head, len(news), *items])
        taken = [result == b"ok" for result in self._check_accepted(known, answer)]
        pairs = zip(news, taken, strict=True)
        agents = [each.agent for each, is_taken in pairs if is_taken and each.agent is not None]
        self._told.note(turn, tenant, agents)
        following = iter(taken)
        return [is_told or next(following) for is_told in told]

    def begin_anew(self, tenant: str, agent_ids: Iterable[str]) -> None:
        """Take what is told of these from now on for news, whatever was told before."""
        self._told.forget(tenant, agent_ids)

    async def mark(self, mark: ReplayMark) -> None:
        """Note an envelope that is about no agent; raises `EnvelopeRejected` `replayed`, `RateLimited`, `StoreLost`."""
        known = self.store.mark
        accepted = await self._mark(self._client, [self._keys.prefix], self._marking(mark))
        self._check_accepted(known, [accepted] if isinstance(accepted, int) else accepted)

    def _marking(self, replay: ReplayMark | None) -> list[Argument]:
        """Return mark, life, rate, generation, counter; raises `StoreLost` for what may have been accepted before."""
        known = self.store.mark
        if replay is None:
            return ["", 0, 0, "", 0]
        self.store.check_signed(replay.signed_s)
        return [replay.name, replay.life_ms, RATE_PER_S, known.generation, known.accepted]

    def _check_accepted(self, known: StoreMark, answer: Any) -> Sequence[bytes]:
        if answer is None:
            raise EnvelopeRejected("replayed", "this envelope was accepted before; sign a fresh one")
        if answer == b"too_fast":
            raise RateLimited(
                f"this hub takes {RATE_PER_S} envelopes a second of one spoke; gather what there is to say"
            )
        if answer == b"lost":
            raise self.store.refusal()
        self.store.saw(known.generation, answer[0])
        results: Sequence[bytes] = answer[1:]
        return results

    async def load(self) -> Counter[str]:
        """Return how many agents of each tenant have not ended, without going through them."""
        with translated():
            counts: Any = await self._client.hgetall(self._keys.living)
        return Counter({tenant.decode(): int(count) for tenant, count in counts.items()})

    async def living(self, status: str, after: str, count: int) -> tuple[str, list[tuple[str, str]]]:
        """Return agents that are shown so and that their spokes may have, with their tenants, in order of their ids.

        Begins after the id `after`, looks at `count`; returns first the id to go on after, "" at the end.
        """
        following, *pairs = await self._living(self._client, [self._keys.prefix], [status, after, count])
        names = [name.decode() for name in pairs]
        return following.decode(), list(zip(names[::2], names[1::2], strict=True))

    async def counts(self) -> dict[str, int]:
        """Return how many agents are shown in each state, without going through them."""
        with translated():
            async with self._client.pipeline(transaction=False) as pipeline:
                for status in SHOWN:
                    pipeline.zcard(self._keys.shown(status))
                return dict(zip(SHOWN, await pipeline.execute(), strict=True))

    async def count_reason(self, reason: str) -> int:
        """Return how many agents ended for that reason."""
        with translated():
            count: int = await self._client.zcard(self._keys.reason(reason))
        return count

    async def contact(self, tenant: str) -> Contact:
        """Return how delivery to a spoke goes."""
        (contact,) = await self.contacts([tenant])
        return contact

    async def contacts(self, tenants: Sequence[str]) -> list[Contact]:
        """Return how delivery to each of these spokes goes, in order: one round trip, however many they are."""
        with translated():
            async with self._client.pipeline(transaction=False) as pipeline:
                for tenant in tenants:
                    pipeline.hmget(self._keys.contact(tenant), CONTACT_FIELDS)
                    pipeline.zcard(self._keys.outbox(tenant))
                    pipeline.zcard(self._keys.deferred(tenant))
                answers = await pipeline.execute()
        return [read_contact(*answers[at : at + 3]) for at in range(0, len(answers), 3)]

    async def outbox_heads(self, tenants: Sequence[str]) -> list[int]:
        """Return for each spoke since when (ms) the command waits that goes next to it; 0 when none waits."""
        with translated():
            async with self._client.pipeline(transaction=False) as pipeline:
                for tenant in tenants:
                    pipeline.zrange(self._keys.outbox(tenant), 0, 0)
                heads = [ids[0].decode() if ids else "" for ids in await pipeline.execute()]
                for command_id in heads:
                    # A spawn has the id of its agent, which its caller may have chosen long before.
                    pipeline.hget(self._keys.agent(command_id), "created")
                created = await pipeline.execute()
        return [
            int(made or uuid7_time_ms(command_id)) if command_id else 0
            for command_id, made in zip(heads, created, strict=True)
        ]

    async def note_hello(self, hello: Hello, now_ms: int) -> None:
        """Keep what a spoke told of itself when it opened a link, which is also a contact."""
        capacity = hello.capacity and hello.capacity.model_dump(by_alias=True)
        told = strict_json.encode({"capacity": capacity, "labels": dict(hello.labels), "at": now_ms})
        with translated():
            await self._client.hset(self._keys.contact(hello.peer.tenant), mapping={"contact": now_ms, "hello": told})


def _arguments(settlement: Settlement) -> list[Argument]:
    agent = settlement.agent
    error = strict_json.encode(settlement.error) if settlement.error else b""
    head: list[Argument] = [
        settlement.command_id,
        settlement.agent_id,
        settlement.outcome,
        error,
        settlement.not_before_ms,
    ]
    if settlement.latch is not None:
        told, killed = "frozen" if settlement.latch.frozen else "thawed", settlement.latch.killed
        return [*head, 0, told, "" if killed is None else killed, "", "", 0, ""]
    if agent is None:
        return [*head, 0, "", "", "", "", 0, ""]
    status = agent.to_json()
    has_result = int(agent.result is not None)
    return [
        *head, agent.seq, agent.status, agent.task_id, agent.agent_type, status, has_result, agent.reason or "",
    ]  # fmt: skip
