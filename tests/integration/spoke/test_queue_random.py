"""Random sequences of everything that may happen to the queue, and what must be true after each step.

Seeded: the number in a test's name replays it. Each script is sometimes run twice, as after a lost reply, and writes
are sometimes tried with the token of a lease that was lost.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final

import pytest
from redis.asyncio import Redis

from common.agent_state import TERMINAL
from common.errors import EnvelopeRejected
from spoke.policy import UNLIMITED, Policy
from spoke.queue_terms import Bounds, Claim, NoStep, ResumeStep, Sender, StatusStep, Step
from tests.integration.spoke.queue_rig import OTHER, TENANT, Rig, check_invariants, id_of, kill, resume, sender, spawn

LOCAL: Final = "local"
STEPS: Final = 150


class Chaos:
    """Does one random thing at a time, and knows which tokens are still good."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self.rig = rig
        self.queue = rig.queue
        self.random = random.Random(seed)
        self.numbers = 0
        self.owners: dict[str, str] = {}
        self.held: dict[str, Claim] = {}
        self.lost: list[Claim] = []
        self.ended: dict[tuple[str, str], str] = {}
        self.resumes: list[ResumeStep] = []
        self.envelopes: list[tuple[Sender, str, list[Step]]] = []

    async def step(self) -> None:
        weights: dict[Callable[[], Awaitable[None]], int] = {
            self.accept: 6, self.repeat: 1, self.claim: 6, self.reclaim: 2, self.renew: 1, self.go_on: 10,
            self.stale: 2, self.kill: 2, self.flag: 1,
        }  # fmt: skip
        (doing,) = self.random.choices(list(weights), list(weights.values()))
        for _ in range(self.random.choice([1, 1, 2])):
            await doing()

    def _sender(self) -> Sender:
        tenant = self.random.choice([TENANT, OTHER, LOCAL])
        if tenant == LOCAL:
            return Sender(LOCAL, "build-1", Policy(agents=UNLIMITED, queued=UNLIMITED, rate_per_s=UNLIMITED))
        return sender(tenant, queued=5, agents=3)

    def _known(self) -> int:
        return self.random.randint(0, self.numbers + 1)

    def _step(self) -> Step:
        known = self._known()
        if self.random.random() < 0.5:
            self.numbers += 1
            known = self.numbers
        priority = self.random.choice([1, 5, 10])
        new = spawn(known, priority=priority, maxAttempts=self.random.choice([1, 2]))
        steps: list[Step] = [new, new, StatusStep(id_of(known)), kill(known), NoStep(), self._resume()]
        return self.random.choice(steps)

    def _resume(self) -> Step:
        """A resume of any agent, now and then one that came before."""
        if self.resumes and self.random.random() < 0.3:
            return self.random.choice(self.resumes)
        self.resumes.append(resume(self._known(), 1_000 + len(self.resumes)))
        return self.resumes[-1]

    async def accept(self) -> None:
        steps = [self._step() for _ in range(self.random.randint(1, 4))]
        envelope = (self._sender(), self.rig.jti(), steps)
        self.envelopes.append(envelope)
        await self.rig.accept(*steps, by=envelope[0], jti=envelope[1])

    async def repeat(self) -> None:
        if self.envelopes:
            by, jti, steps = self.random.choice(self.envelopes)
            before = await self.rig.snapshot()
            with pytest.raises(EnvelopeRejected, match="accepted before"):
                await self.rig.accept(*steps, by=by, jti=jti)
            assert await self.rig.snapshot() == before

    def _take(self, claim: Claim | None) -> None:
        if claim is not None:
            ref = str(claim.record.ref)
            if ref in self.held:
                self.lost.append(self.held[ref])
            self.held[ref] = claim

    async def claim(self) -> None:
        limits = {TENANT: self.random.choice([0, 2, 3]), OTHER: 3, LOCAL: UNLIMITED}
        self._take(await self.queue.claim("node:1", limits))

    async def reclaim(self) -> None:
        if self.held and self.random.random() < 0.7:
            await self.rig.expire(self.random.choice(list(self.held.values())))
        self._take(await self.rig.reclaim("node:2", self.random.choice(["", "node:"])))

    async def renew(self) -> None:
        held = list(self.held.values())
        answers = await self.queue.renew([*held, *self.lost])
        assert False not in answers[: len(held)]
        assert answers[len(held) :] == [False] * len(self.lost)

    async def go_on(self) -> None:
        if not self.held:
            return
        ref, claim = self.random.choice(list(self.held.items()))
        match self.random.randrange(6):
            case 0 | 1:
                if await self.queue.launch(claim) == "launch":
                    assert await self.queue.started(claim, 1)
                return
            case 2:
                outcome = await self.queue.retry(
                    claim, "lost", "why", pause_ms=self.random.choice([0, 3]), may_help=self.random.random() < 0.8
                )
                assert outcome in {"queued", "failed", "killed"}
            case 3:
                await self.queue.give_back(claim, "going")
            case _:
                status = self.random.choice(["completed", "failed", "killed"])
                fields = {} if status == "completed" else {"reason": "exit_nonzero"}
                if not await self.queue.finish(claim, status, fields):
                    assert (status, (await self._fields(claim))["status"]) == ("completed", "spawning")
                    return
        self.lost.append(self.held.pop(ref))

    async def _fields(self, claim: Claim) -> dict[str, str]:
        (record,) = await self.queue.describe([claim.record.ref])
        assert record is not None
        return dict(record.fields)

    async def stale(self) -> None:
        if not self.lost:
            return
        claim = self.random.choice(self.lost)
        before = await self.rig.snapshot()
        assert await self.queue.launch(claim) == "lost"
        assert not await self.queue.started(claim, 2)
        ended = await self._ended_by(claim)
        assert await self.queue.retry(claim, "lost", "", pause_ms=0, may_help=True) == (ended or "lost")
        await self.queue.give_back(claim, "late")
        assert await self.queue.finish(claim, "failed", {"reason": "late"}) == bool(ended)
        assert await self.rig.snapshot() == before

    async def _ended_by(self, claim: Claim) -> str | None:
        """The state into which the holder of this claim took the agent: its repeated calls get the same answer."""
        fields = await self._fields(claim)
        return fields["status"] if fields.get("ended_by") == claim.token else None

    async def kill(self) -> None:
        refs = await self.queue.newest(1000)
        if refs:
            ref = self.random.choice(refs)
            record = await self.queue.kill(ref, kill(0, cause="killed_by_operator"))
            assert record is not None

    async def flag(self) -> None:
        await self.queue.set_flag(self.random.choice(["paused", "draining"]), on=self.random.random() < 0.3)

    async def check(self) -> None:
        await check_invariants(self.rig)
        for ref in list(self.held):
            tenant, agent_id = ref.split()
            assert await self.rig.client.zscore(f"{self.rig.prefix}leases", f"{tenant} {agent_id}") is not None
        for ref_ in await self.queue.newest(1000):
            (record,) = await self.queue.describe([ref_])
            assert record is not None
            resumes = sum(name.startswith("resume:") for name in record.fields)
            key = (ref_.tenant, f"{ref_.agent_id} {resumes}")  # ended, it changes by a resume alone
            if key in self.ended:
                assert self.ended[key] == str(sorted(record.fields.items())), "an ended agent changed"
            elif record.status in TERMINAL:
                self.ended[key] = str(sorted(record.fields.items()))


@pytest.mark.fault(12)
@pytest.mark.fault(20)
@pytest.mark.fault(22)
@pytest.mark.parametrize("seed", range(8))
async def test_whatever_happens_the_queue_tells_the_truth(valkey: Redis, key_prefix: str, seed: int) -> None:
    chaos = Chaos(Rig(valkey, key_prefix, Bounds(agents=5, queued=9)), seed)
    for _ in range(STEPS):
        await chaos.step()
        await chaos.check()
    assert chaos.ended
