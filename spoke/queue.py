"""The spoke's queue in Valkey: every change is one script of `scripts/`, described there with the keyspace.

An adapter and nothing more: it turns Python values into arguments, and answers into records. What may be accepted was
decided before; what was accepted is durable when `accept` returns. Raises `Unavailable` when Valkey does not answer:
then nobody knows whether the script ran, and all of them may be run again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Final

import structlog
from redis.asyncio import Redis

from common.commands import content_hash
from common.errors import EnvelopeRejected, RateLimited, Unavailable
from common.scripts import ScriptSet
from common.store_mark import KnownStore
from common.valkey import translated
from spoke.agent_record import AgentRecord, AgentRef, read_record
from spoke.policy import UNLIMITED
from spoke.queue_coding import (
    KILLED_AT_ONCE,
    encode_step,
    held_arguments,
    new_record,
    rate_exceeded,
    read_claim,
    read_described,
    read_kill,
    ref_of_member,
)
from spoke.queue_terms import (
    Answer,
    Asked,
    Bounds,
    Claim,
    FreezeStep,
    KillStep,
    Latch,
    PendingEvent,
    Requeue,
    RequeueRefused,
    Sender,
    Step,
    StepRefused,
    prefix_of,
)

LEASE_MS: Final = 15_000
TOMBSTONE_MS: Final = 24 * 3600 * 1000
_MIB: Final = 1024 * 1024
EVENTS_AT_ONCE: Final = 1000
_SWEPT_AT_ONCE: Final = 500
_LISTEN_PAUSE_S: Final = 0.5
_CHANNELS: Final = ("wake", "kills", "changes")
"""What the scripts say there: something can be claimed; "TENANT AGENT" is to be killed; TENANT has events."""
_HOLDING: Final = frozenset({"worker", "token", "kill", "launched"})
_log: Final = structlog.get_logger("queue")


class Queue:
    """The queue of one spoke; several worker processes may share it."""

    def __init__(
        self, client: Redis, instance: str, bounds: Bounds, prefix: str = "", store: KnownStore | None = None
    ) -> None:
        self._client = client
        self.store = store or KnownStore(bounds.skew_s)
        """What is known of the store; without a guard that knows better it is one that nobody ever marked."""
        self.prefix = prefix + prefix_of(instance)
        self.bounds = bounds
        """The spoke's own limits; they may be replaced while it runs."""
        self._scripts = ScriptSet("spoke")

    async def run(self, script: str, *arguments: str | bytes | int) -> Any:
        """Run one of the scripts, behind the queue's prefix."""
        return await self._scripts[script](self._client, [], [self.prefix, *arguments])

    async def accept(self, sender: Sender, jti: str, raw: bytes, steps: Sequence[Step]) -> list[Answer]:
        """Accept an admitted envelope and take its steps, all at once; durable when this returns.

        Returns for each step the agent's record, the latch, a refusal, or None: for `NoStep`, and for a `KnownStep`
        that was not accepted before. Raises `EnvelopeRejected` with `replayed`, `RateLimited`, `StoreLost`,
        `Unavailable`.
        """
        policy, bounds, known = sender.policy, self.bounds, self.store.mark
        arguments = [encode_step(step, policy) for step in steps]
        answer = await self.run(
            "accept", sender.tenant, sender.instance, jti, raw, bounds.replay_ms,
            0 if policy.rate_per_s >= UNLIMITED else policy.rate_per_s, policy.queued, policy.agents, bounds.queued,
            TOMBSTONE_MS, bounds.retention_ms, known.generation, known.accepted, policy.commands_per_s,
            policy.store_mib * _MIB, len(steps), *chain.from_iterable(arguments),
        )  # fmt: skip
        if answer[0] == b"lost":
            raise self.store.refusal()
        if answer[0] == b"replayed":
            raise EnvelopeRejected("replayed", "this envelope was accepted before; send a fresh one")
        if answer[0] == b"rate_limited":
            raise RateLimited(rate_exceeded(policy, answer[1].decode()))
        self.store.saw(known.generation, answer[1])
        return [
            new_record(sender.tenant, of_step, each[1], each[2])
            if each[0] == b"new"
            else await self._read_answer(sender, step, each)
            for step, of_step, each in zip(steps, arguments, answer[2:], strict=True)
        ]

    async def _read_answer(self, sender: Sender, step: Step, answer: Sequence[Any]) -> Answer:
        match answer[0], step:
            case b"agent", _:
                return read_record(answer[1], answer[2])
            case b"error", _:
                return StepRefused(*(text.decode() for text in answer[1:]))
            case b"frozen", FreezeStep(_, kill):
                return Latch(frozen=True, killed=await self._killed(sender.tenant, kill, answer[1], answer[2]))
            case b"frozen", _:
                return Latch(frozen=True)
            case b"thawed", _:
                return Latch(frozen=False)
            case _:
                return None

    async def _killed(self, tenant: str, kill: KillStep | None, ended: int, asked: int) -> int:
        """Kill also what waits beyond what one script should take; whoever gets no answer asks again."""
        killed, waiting = ended, ended == KILLED_AT_ONCE
        while kill is not None and waiting:
            ended, asked = await self.run(
                "kill_all", tenant, kill.to_json(), kill.cause, self.bounds.retention_ms, KILLED_AT_ONCE
            )
            killed, waiting = killed + ended, ended == KILLED_AT_ONCE
        return int(killed + asked)

    async def claim(self, worker: str, limits: Mapping[str, int]) -> Claim | None:
        """Take the next agent of a tenant in `limits` (tenant: agents at once) under a lease of `LEASE_MS`."""
        pairs = [item for pair in limits.items() for item in pair]
        return read_claim(await self.run("claim", worker, LEASE_MS, self.bounds.agents, len(limits), *pairs))

    async def leases(self) -> dict[str, int]:
        """Return the deadlines of all leases, by `TENANT AGENT`."""
        with translated():
            found: Any = await self._client.zrange(f"{self.prefix}leases", 0, -1, withscores=True)
        return {member.decode(): int(deadline) for member, deadline in found}

    async def reclaim(self, worker: str, former: str, abandoned: Mapping[str, int]) -> Claim | None:
        """Take over an agent which a worker named `former…` held, or whose lease still is as in `abandoned`."""
        pairs = [item for lease in abandoned.items() for item in lease]
        return read_claim(await self.run("reclaim", worker, LEASE_MS, former, *pairs))

    async def count_takeover(self, cause: str) -> None:
        """Count a lease that was taken over, whichever process did it; raises `Unavailable`."""
        with translated():
            await self._client.hincrby(f"{self.prefix}takeovers", cause, 1)

    async def takeovers(self) -> dict[str, int]:
        """Return how many leases were taken over since the store began, by cause; raises `Unavailable`."""
        with translated():
            found: Any = await self._client.hgetall(f"{self.prefix}takeovers")
        return {cause.decode(): int(count) for cause, count in found.items()}

    async def restore(self, record: AgentRecord, asked: Asked, worker: str) -> bool:
        """Put back a record that the store has forgotten, as a lease of `worker`; False when there is one."""
        pairs = [item for name, value in record.fields.items() if name not in _HOLDING for item in (name, value)]
        ref, fields = record.ref, record.fields
        envelopes = (asked.spawn, fields.get("env", ""), asked.resume, fields.get("resume_env", ""))
        return bool(await self.run("restore", ref.tenant, ref.agent_id, worker, *envelopes, *pairs))

    async def renew(self, claims: Sequence[Claim]) -> list[KillStep | bool]:
        """Keep leases; returns for each True, the kill that was asked for, or False when the lease is lost."""
        arguments = [item for claim in claims for item in held_arguments(claim)]
        answers = await self.run("renew", LEASE_MS, *arguments)
        return [read_kill(answer[1]) if answer[0] else False for answer in answers]

    async def launch(self, claim: Claim) -> str:
        """Pass the fence before a process is started: `launch`, `killed` or `lost`."""
        return str((await self.run("launch", *held_arguments(claim))).decode())

    async def started(self, claim: Claim, started_at_ms: int) -> bool:
        """Note that the agent's program runs; False when the lease is lost."""
        return bool(await self.run("started", *held_arguments(claim), started_at_ms))

    async def finish(self, claim: Claim, status: str, fields: Mapping[str, str | int]) -> bool:
        """Enter a terminal state; False when the lease is lost."""
        pairs = [item for pair in fields.items() for item in pair]
        return bool(await self.run("finish", *held_arguments(claim), status, self.bounds.retention_ms, *pairs))

    async def retry(self, claim: Claim, reason: str, detail: str, *, pause_ms: int, may_help: bool) -> str:
        """Queue an agent again that failed for our reasons: `queued`, `failed`, `killed` or `lost`."""
        retention_ms = self.bounds.retention_ms
        answer = await self.run(
            "retry", *held_arguments(claim), pause_ms, reason, detail, retention_ms, int(may_help), 0
        )
        return str(answer.decode())

    async def give_back(self, claim: Claim, detail: str) -> None:
        """Queue an agent again that this worker claimed and will not start; the attempt does not count."""
        await self.run("retry", *held_arguments(claim), 0, "lost", detail, self.bounds.retention_ms, 1, 1)

    async def kill(self, ref: AgentRef, step: KillStep) -> AgentRecord | None:
        """Stop an agent for this machine's operator; None when there is none."""
        answer = await self.run(
            "kill", ref.tenant, ref.agent_id, step.to_json(), step.cause, self.bounds.retention_ms, UNLIMITED
        )
        return read_described(answer)

    async def tenants(self) -> set[str]:
        """Return the tenants of which an agent waits or is held."""
        with translated():
            waiting: Any = await self._client.zrange(f"{self.prefix}waiting", 0, -1)
            held: Any = await self._client.zrange(f"{self.prefix}leases", 0, -1)
            later: Any = await self._client.zrange(f"{self.prefix}backoff", 0, -1)
        lanes = {lane.decode().partition("@")[0] for lane in waiting}
        return lanes | {member.decode().partition(" ")[0] for member in (*held, *later)}

    async def evict(self, kill: KillStep, gone: Iterable[str], limit: int) -> tuple[int, int]:
        """End the agents of these tenants; returns how many waited, at most `limit`, and how many are held."""
        ended, asked = await self.run("evict", kill.to_json(), kill.cause, self.bounds.retention_ms, limit, *gone)
        return int(ended), int(asked)

    async def requeue(self, ref: AgentRef, requeue: Requeue) -> AgentRecord | RequeueRefused:
        """Queue the work of an agent that failed or was killed again, as a new agent of the same tenant."""
        spawn = requeue.spawn
        answer = await self.run(
            "requeue", ref.tenant, ref.agent_id, spawn.id, requeue.jti, requeue.raw, self.bounds.queued,
            content_hash(spawn), spawn.task_id, spawn.agent_type, spawn.priority, spawn.timeout_s, spawn.max_attempts,
        )  # fmt: skip
        if answer[0] == b"refused":
            return RequeueRefused(answer[1].decode(), answer[2].decode())
        return read_record(answer[1], answer[2])

    async def stored_envelope(self, record: AgentRecord) -> bytes:
        """Return the signed envelope that asked for an agent, empty when it is gone."""
        with translated():
            key = f"{self.prefix}env:{record.ref.tenant}:{record.fields.get('env', '')}"
            raw: Any = await self._client.hget(key, "raw")
        return bytes(raw or b"")

    async def describe(
        self, refs: Sequence[AgentRef], agents_limits: Mapping[str, int] | None = None
    ) -> list[AgentRecord | None]:
        """Read agents; None for one that is not there. `agents_limits` by tenant tell what the queued ones wait for."""
        if not refs:
            return []
        limits = {ref.tenant: UNLIMITED if agents_limits is None else agents_limits.get(ref.tenant, 0) for ref in refs}
        arguments = [item for ref in refs for item in (ref.tenant, ref.agent_id, limits[ref.tenant])]
        return [read_described(answer) for answer in await self.run("describe", *arguments)]

    async def newest(self, limit: int, before: AgentRef | None = None) -> list[AgentRef]:
        """Return the names of the newest agents of all tenants, the newest first, from those older than `before`."""
        start = "+" if before is None else f"({before.agent_id} {before.tenant}"
        with translated():
            members: Any = await self._client.zrange(
                f"{self.prefix}agents", start, "-", desc=True, bylex=True, offset=0, num=limit
            )
        return [ref_of_member(member) for member in members]

    async def find(self, agent_id: str) -> list[AgentRef]:
        """Return every tenant's agent of that id: normally one."""
        with translated():
            members: Any = await self._client.zrangebylex(f"{self.prefix}agents", f"[{agent_id} ", f"[{agent_id} \xff")
        return [ref_of_member(member) for member in members]

    async def load(self) -> dict[str, int]:
        """Return how many agents are `queued` and `active` on this spoke."""
        with translated():
            counts = await self._client.hgetall(f"{self.prefix}load")
        return {name: int(counts.get(name.encode(), 0)) for name in ("queued", "active")}

    async def head_since(self) -> int:
        """Return since when (ms) the agent waits that waits longest of those that go next; 0 when none waits."""
        with translated():
            waiting: Any = await self._client.zrange(f"{self.prefix}waiting", 0, -1)
            lanes = [lane.decode() for lane in waiting]
            async with self._client.pipeline(transaction=False) as pipeline:
                for lane in lanes:
                    pipeline.zrange(f"{self.prefix}queue:{lane}", 0, 0)
                heads = [
                    (lane.partition("@")[0], ids[0].decode())
                    for lane, ids in zip(lanes, await pipeline.execute(), strict=True)
                    if ids
                ]
                for tenant, agent_id in heads:
                    pipeline.hget(f"{self.prefix}agent:{tenant}:{agent_id}", "queued_at")
                return min((int(since) for since in await pipeline.execute() if since), default=0)

    async def count_events(self, tenants: Sequence[str]) -> list[int]:
        """Return how many transitions each tenant's peer has not acknowledged."""
        with translated():
            async with self._client.pipeline(transaction=False) as pipeline:
                for tenant in tenants:
                    pipeline.xlen(f"{self.prefix}events:{tenant}")
                counts: list[int] = await pipeline.execute()
        return counts

    async def forget_expired(self) -> int:
        """Remove names from the index whose records have expired; returns how many."""
        removed, last = 0, b""
        while True:
            last, count = await self.run("sweep", last, _SWEPT_AT_ONCE)
            removed += int(count)
            if not last:
                return removed

    async def flags(self) -> dict[str, bool]:
        """Return whether the queue is `paused` and whether the spoke is `draining`."""
        with translated():
            found = await self._client.mget(f"{self.prefix}paused", f"{self.prefix}draining")
        return {"paused": found[0] is not None, "draining": found[1] is not None}

    async def set_flag(self, flag: str, *, on: bool) -> None:
        """Set or clear `paused` or `draining`."""
        with translated():
            if on:
                await self._client.set(f"{self.prefix}{flag}", "1")
            else:
                await self._client.delete(f"{self.prefix}{flag}")
            await self._client.publish(f"{self.prefix}wake", "")

    async def pending_events(self, tenant: str) -> list[PendingEvent]:
        """Return the oldest transitions that the tenant's peer has not acknowledged, at most 1000."""
        with translated():
            entries: Any = await self._client.xrange(f"{self.prefix}events:{tenant}", count=EVENTS_AT_ONCE)
        return [PendingEvent(entry, fields) for entry, fields in entries]

    async def acknowledge(self, tenant: str, events: Iterable[PendingEvent]) -> None:
        """Forget transitions that the peer has."""
        entries = [item for event in events for item in (event.entry, event.size)]
        if entries:
            await self.run("acknowledge", tenant, *entries)

    async def messages(self, listener: Redis) -> AsyncIterator[tuple[str, str]]:
        """Yield (`wake`|`kills`|`changes`, message) as the scripts publish them, for ever; the client has no deadline.

        Messages are hints: while Valkey is away they are lost, and whoever waits for one polls behind it.
        """
        while True:
            try:
                async for channel, message in self._subscription(listener):
                    yield channel, message
            except Unavailable as error:
                _log.warning("queue.not_listening", reason=error.message)
                await asyncio.sleep(_LISTEN_PAUSE_S)

    async def _subscription(self, listener: Redis) -> AsyncIterator[tuple[str, str]]:
        async with listener.pubsub() as pubsub:
            with translated():
                await pubsub.subscribe(*(self.prefix + channel for channel in _CHANNELS))
            while True:
                with translated():
                    message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=None)
                if message is not None:
                    yield message["channel"].decode().removeprefix(self.prefix), message["data"].decode()
