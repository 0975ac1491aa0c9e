"""What tests of the queue need: steps and senders in a line each, and the truth about what lies in Valkey."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from redis.asyncio import Redis

from common.agent_state import RESUMED, TERMINAL, TRANSITIONS
from common.commands import Resume, Spawn
from common.ids import uuid7
from spoke.agent_record import AgentRecord, AgentRef
from spoke.policy import Policy
from spoke.queue import Queue
from spoke.queue_terms import Answer, Bounds, Claim, KillStep, ResumeStep, Sender, SpawnStep, Step

INSTANCE: Final = "build-1"
TENANT: Final = "hub-eu_1"
OTHER: Final = "hub-us_2"
RAW: Final = b"the signed envelope"
_AGENT_BYTES: Final = 3072
_EVENT_BYTES: Final = 256


def id_of(number: int) -> str:
    """The same UUIDv7 for the same number; a larger number is a later one."""
    return uuid7(1_795_000_000_000 + number, number.to_bytes(10, "big"))


def spawn(number: int, **changes: Any) -> SpawnStep:
    """The spawn of agent `number`."""
    members: dict[str, Any] = {
        "id": id_of(number),
        "command": "spawn",
        "taskId": f"T-{number}",
        "agentType": "worker",
        "context": {"repository": "https://git.example.org/app.git", "branch": "main", "workItems": ["work"]},
        "priority": 5,
        "timeoutS": 60,
        "maxAttempts": 3,
        **changes,
    }
    return SpawnStep(Spawn.model_validate(members), 0)


def resume(number: int, command: int, **changes: Any) -> ResumeStep:
    """A resume of agent `number` under the id of `command`."""
    members = {"id": id_of(command), "command": "resume", "agentId": id_of(number), **changes}
    return ResumeStep(Resume.model_validate(members), 0)


def kill(number: int, **changes: Any) -> KillStep:
    """A kill of agent `number`."""
    return KillStep(**{"agent_id": id_of(number), "grace_s": 10, "cause": "killed_by_peer", **changes})


def sender(tenant: str = TENANT, **limits: int) -> Sender:
    """The peer of a tenant under a policy that limits nothing but what is named."""
    unlimited = {"agents": 100, "queued": 1000, "rate_per_s": 1_000_000, "commands_per_s": 1_000_000}
    return Sender(tenant, tenant.partition("_")[0], Policy.model_validate({**unlimited, **limits}))


@dataclass
class Rig:
    """A queue under a prefix of its own."""

    client: Redis
    key_prefix: str
    bounds: Bounds = field(default_factory=lambda: Bounds(agents=100, queued=1000))
    limits: dict[str, int] = field(default_factory=lambda: {TENANT: 100, OTHER: 100})
    jtis: int = 1_000_000

    def __post_init__(self) -> None:
        self.queue = Queue(self.client, INSTANCE, self.bounds, self.key_prefix)
        self.prefix = f"{self.key_prefix}hs:{{{INSTANCE}}}:"

    def jti(self) -> str:
        """A fresh one."""
        self.jtis += 1
        return id_of(self.jtis)

    async def accept(
        self, *steps: Step, by: Sender | None = None, jti: str | None = None, raw: bytes = RAW
    ) -> list[Answer]:
        """Accept an envelope of these steps."""
        return await self.queue.accept(by or sender(), jti or self.jti(), raw, steps)

    async def accept_many(self, numbers: Iterable[int], **changes: Any) -> None:
        """Accept agents in one envelope."""
        await self.accept(*(spawn(number, **changes) for number in numbers))

    async def claim(self) -> Claim | None:
        """Claim the next agent."""
        return await self.queue.claim("node:life", self.limits)

    async def claimed(self) -> Claim:
        """Claim the next agent; there is one."""
        claim = await self.claim()
        assert claim is not None
        return claim

    async def claim_all(self) -> list[str]:
        """Claim until there is nothing left; returns `TENANT TASK` in order."""
        names = []
        while claim := await self.claim():
            names.append(f"{claim.record.ref.tenant} {claim.record.fields['task']}")
        return names

    async def running(self, number: int, **changes: Any) -> Claim:
        """Accept an agent and take it to `running`."""
        await self.accept(spawn(number, **changes))
        claim = await self.claimed()
        assert await self.queue.launch(claim) == "launch"
        assert await self.queue.started(claim, 1)
        return claim

    async def reclaim(self, worker: str, former: str = "") -> Claim | None:
        """Take over what an observer knows to be abandoned: the leases that were let run out."""
        leases = await self.queue.leases()
        return await self.queue.reclaim(worker, former, {ref: 1 for ref, deadline in leases.items() if deadline == 1})

    async def expire(self, claim: Claim) -> None:
        """Let the lease of a claim run out."""
        await self.client.zadd(f"{self.prefix}leases", {str(claim.record.ref): 1}, xx=True)

    async def fields(self, number: int, tenant: str = TENANT) -> dict[str, str]:
        """The record of an agent as it lies in Valkey."""
        found: Any = await self.client.hgetall(f"{self.prefix}agent:{tenant}:{id_of(number)}")
        return _text(found)

    async def status(self, number: int, tenant: str = TENANT) -> str | None:
        """The state of an agent."""
        return (await self.fields(number, tenant)).get("status")

    async def events(self, tenant: str = TENANT) -> list[AgentRecord]:
        """What the tenant's hub has not acknowledged."""
        return [event.record for event in await self.queue.pending_events(tenant)]

    async def snapshot(self) -> dict[str, Any]:
        """Everything below the prefix, comparable; without times to live, rates and the count of envelopes."""
        keys = [f"{self.prefix}{key}" for key in await _keys(self) if not key.startswith(("rate:", "accepted"))]
        async with self.client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.dump(key)
            return dict(zip(keys, await pipe.execute(), strict=True))


@dataclass(frozen=True, slots=True)
class _Found:
    records: dict[AgentRef, dict[str, str]]
    lives: dict[AgentRef, int]
    queues: dict[str, list[str]]
    envelopes: dict[str, tuple[dict[str, str], int]]
    loads: dict[str, dict[str, int]]
    events: dict[str, list[dict[str, str]]]


async def check_invariants(rig: Rig, *, acknowledged: bool = False) -> None:
    """Assert that counters, queues, leases, envelopes and events say what the records say.

    `acknowledged` says that events were taken away, so their history is not whole.
    """
    found = await _read(rig)
    backoff = set(await _members(rig, "backoff"))
    leases = set(await _members(rig, "leases"))
    assert set(await _members(rig, "waiting")) == {tenant for tenant, ids in found.queues.items() if ids}
    assert set(await _members(rig, "agents")) == {f"{ref.agent_id} {ref.tenant}" for ref in found.records}
    for ref, fields in found.records.items():
        _check_place(ref, fields, found, backoff=str(ref) in backoff, leased=str(ref) in leases)
    assert {*backoff, *leases} <= {str(ref) for ref in found.records}
    assert {f"{_tenant_of(lane)} {each}" for lane, ids in found.queues.items() for each in ids} <= set(
        map(str, found.records)
    )
    _check_loads(found)
    _check_envelopes(found)
    await _check_sizes(rig, found)
    if not acknowledged:
        _check_events(found)


def _tenant_of(lane: str) -> str:
    return lane.partition("@")[0]


def _check_place(ref: AgentRef, fields: dict[str, str], found: _Found, *, backoff: bool, leased: bool) -> None:
    status = fields["status"]
    lanes = [lane for lane, ids in found.queues.items() if _tenant_of(lane) == ref.tenant and ref.agent_id in ids]
    what = f"{fields['task']} is {status}"
    assert len(lanes) + backoff + leased == (0 if status in TERMINAL else 1), what
    assert leased == (status in {"spawning", "running"}), what
    assert ("token" in fields) == ("worker" in fields) == leased, what
    assert not (fields.keys() & {"kill", "launched"}) or leased, what
    assert (found.lives[ref] > 0) == (status in TERMINAL), f"{what} and lives {found.lives[ref]} ms"
    assert ("finished_at" in fields) == (status in TERMINAL), what
    assert ("reason" in fields) == (status in {"failed", "killed"}), what
    assert 0 <= int(fields["attempt"]) - int(fields.get("resumed_from", 0)) <= int(fields["max_attempts"]), what


def _check_loads(found: _Found) -> None:
    counted: dict[str, Counter[str]] = {}
    for ref, fields in found.records.items():
        place = {"queued": "queued", "spawning": "active", "running": "active"}.get(fields["status"])
        for key in (f"load:{ref.tenant}", "load"):
            counted.setdefault(key, Counter())[place or "ended"] += 1
    for key, counts in counted.items():
        load = found.loads.get(key, {})
        assert {name: load.get(name, 0) for name in ("queued", "active")} == {
            name: counts[name] for name in ("queued", "active")
        }, key


def _check_envelopes(found: _Found) -> None:
    live: Counter[str] = Counter()
    for ref, fields in found.records.items():
        for name in fields.keys() & {"env", "resume_env"}:
            live[f"env:{ref.tenant}:{fields[name]}"] += fields["status"] not in TERMINAL
    # Of an agent that was resumed again the envelope of the former resume is kept for its time, too.
    assert set(live) <= set(found.envelopes)
    for key, (envelope, life_ms) in found.envelopes.items():
        assert int(envelope["live"]) == live[key]
        assert envelope["raw"] == RAW.decode()
        assert (life_ms > 0) == (live[key] == 0), f"{live[key]} agents live, their envelope {life_ms} ms"


def _check_events(found: _Found) -> None:
    for ref, fields in found.records.items():
        events = [event for event in found.events.get(ref.tenant, []) if event["id"] == ref.agent_id]
        if ref.tenant == "local":
            assert events == []
            continue
        assert [int(event["seq"]) for event in events] == list(range(1, int(fields["seq"]) + 1))
        states = [event["status"] for event in events]
        assert (states[0], states[-1]) == ("queued", fields["status"])
        for before, after in pairwise(states):
            assert after in TRANSITIONS[before] or (before in TERMINAL and after == RESUMED), f"{before} to {after}"


async def _check_sizes(rig: Rig, found: _Found) -> None:
    """What is counted for each tenant is what is kept for it, and what of that has ended can be forgotten."""
    sizes: Counter[str] = Counter()
    ended: dict[str, set[str]] = {}
    for ref, fields in found.records.items():
        when_it_ended = {name: value for name, value in fields.items() if name != "requeued_as"}
        bytes_ = 0 if fields["status"] not in TERMINAL else _weigh(when_it_ended)
        sizes[ref.tenant] += _AGENT_BYTES + bytes_
        if bytes_:
            ended.setdefault(ref.tenant, set()).add(f"a {ref.agent_id} {_AGENT_BYTES + bytes_}")
    for key, (envelope, _) in found.envelopes.items():
        _, tenant, jti = key.split(":")
        sizes[tenant] += len(envelope["raw"])
        if int(envelope["live"]) == 0:
            ended.setdefault(tenant, set()).add(f"e {jti} {len(envelope['raw'])}")
    for tenant, events in found.events.items():
        sizes[tenant] += sum(_EVENT_BYTES + _weigh(event) for event in events)
    for tenant, size in sizes.items():
        assert int(await rig.client.get(f"{rig.prefix}size:{tenant}") or 0) == size, tenant
        assert set(await _members(rig, f"ended:{tenant}")) == ended.get(tenant, set())


def _weigh(fields: dict[str, str]) -> int:
    return sum(len(name.encode()) + len(value.encode()) for name, value in fields.items())


async def _members(rig: Rig, key: str) -> list[str]:
    members: Any = await rig.client.zrange(f"{rig.prefix}{key}", 0, -1)
    return [member.decode() for member in members]


async def _keys(rig: Rig) -> list[str]:
    found: Any = await rig.client.keys(f"{rig.prefix}*")
    return sorted(key.decode().removeprefix(rig.prefix) for key in found)


def _text(found: dict[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in found.items()}


async def _read(rig: Rig) -> _Found:
    keys = await _keys(rig)
    of = {kind: [key for key in keys if key.partition(":")[0] == kind] for kind in ("agent", "queue", "env", "events")}
    loads = [key for key in keys if key.partition(":")[0] == "load"]
    async with rig.client.pipeline(transaction=False) as pipe:
        for key in (*of["agent"], *of["env"]):
            pipe.hgetall(rig.prefix + key)
            pipe.pttl(rig.prefix + key)
        for key in of["queue"]:
            pipe.zrange(rig.prefix + key, 0, -1)
        for key in loads:
            pipe.hgetall(rig.prefix + key)
        for key in of["events"]:
            pipe.xrange(rig.prefix + key)
        answers = iter(await pipe.execute())
    records = {_ref(key): (_text(next(answers)), next(answers)) for key in of["agent"]}
    envelopes = {key: (_text(next(answers)), next(answers)) for key in of["env"]}
    return _Found(
        records={ref: fields for ref, (fields, _) in records.items()},
        lives={ref: life for ref, (_, life) in records.items()},
        envelopes=envelopes,
        queues={key.partition(":")[2]: [each.decode() for each in next(answers)] for key in of["queue"]},
        loads={key: {name: int(value) for name, value in _text(next(answers)).items()} for key in loads},
        events={key.partition(":")[2]: [_text(entry) for _, entry in next(answers)] for key in of["events"]},
    )


def _ref(key: str) -> AgentRef:
    _, tenant, agent_id = key.split(":")
    return AgentRef(tenant, agent_id)


def now_ms() -> int:
    """The clock on the wall, which Valkey on this machine shares."""
    return int(time.time() * 1000)
