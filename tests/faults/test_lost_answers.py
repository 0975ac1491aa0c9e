"""A script ran and its answer was lost: whoever repeats it finds one effect. A real Valkey, behind a proxy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from redis.asyncio import Redis

from common.embedded_valkey import EmbeddedValkey
from common.errors import EnvelopeRejected, Unavailable
from common.valkey import connect
from common.valkey_connection import SOCKET_NAME
from spoke.queue import Queue
from spoke.queue_terms import Claim
from tests.faults.proxy import Proxy
from tests.integration.spoke.queue_rig import INSTANCE, RAW, TENANT, Rig, check_invariants, kill, sender, spawn

pytestmark = pytest.mark.fault(12)


@dataclass
class Line:
    """A queue at the other end of a proxy, beside the rig's, which sees the truth."""

    rig: Rig
    queue: Queue
    proxy: Proxy

    async def lose(self, asking: Callable[[], Awaitable[Any]]) -> None:
        """Ask, and lose the answer: the script has run."""
        before = self.proxy.swallowed
        self.proxy.swallow_answers(1)
        with pytest.raises(Unavailable):
            await asking()
        assert self.proxy.swallowed == before + 1


@pytest.fixture
async def line(valkey_server: EmbeddedValkey, valkey: Redis, key_prefix: str) -> AsyncIterator[Line]:
    rig = Rig(valkey, key_prefix)
    async with (
        Proxy(lambda: str(valkey_server.directory / SOCKET_NAME)) as proxy,
        connect(f"redis://127.0.0.1:{proxy.port}") as client,
    ):
        queue = Queue(client, INSTANCE, rig.bounds, key_prefix)
        for script in ("accept", "claim", "reclaim", "renew", "launch", "started", "finish", "retry", "kill"):
            await client.script_load(queue._scripts[script].source)  # otherwise an answer says NOSCRIPT
        yield Line(rig, queue, proxy)


async def test_accept(line: Line) -> None:
    jti = line.rig.jti()
    await line.lose(lambda: line.queue.accept(sender(), jti, RAW, [spawn(1)]))
    after = await line.rig.snapshot()
    with pytest.raises(EnvelopeRejected) as refused:
        await line.queue.accept(sender(), jti, RAW, [spawn(1)])
    assert (refused.value.code, await line.rig.snapshot()) == ("replayed", after)
    # What a hub does then: the same command in a fresh envelope.
    await line.queue.accept(sender(), line.rig.jti(), RAW, [spawn(1)])
    assert await line.rig.queue.load() == {"queued": 1, "active": 0}
    assert len(await line.rig.events()) == 1
    await check_invariants(line.rig)


async def test_claim_and_reclaim(line: Line) -> None:
    await line.rig.accept(spawn(1))
    await line.lose(lambda: line.queue.claim("node:1", line.rig.limits))
    assert await line.queue.claim("node:1", line.rig.limits) is None
    leases = await line.queue.leases()
    await line.lose(lambda: line.queue.reclaim("node:1", "", leases))
    taken = await line.queue.reclaim("node:1", "", await line.queue.leases())
    assert taken is not None
    assert (taken.record.attempt, await line.rig.queue.load()) == (1, {"queued": 0, "active": 1})
    assert await line.queue.launch(taken) == "launch"
    await check_invariants(line.rig)


Step = Callable[[Queue, Claim], Awaitable[Any]]


@pytest.mark.parametrize(
    ("step", "answer", "status"),
    [
        pytest.param(lambda q, c: q.renew([c]), [True], "running", id="renew"),
        pytest.param(lambda q, c: q.launch(c), "launch", "running", id="launch"),
        pytest.param(lambda q, c: q.started(c, 5), True, "running", id="started"),
        pytest.param(lambda q, c: q.finish(c, "completed", {}), True, "completed", id="finish"),
        pytest.param(
            lambda q, c: q.retry(c, "lost", "", pause_ms=0, may_help=False), "failed", "failed", id="retry to its end"
        ),
        pytest.param(
            lambda q, c: q.retry(c, "lost", "", pause_ms=60_000, may_help=True), "lost", "queued", id="retry again"
        ),
        pytest.param(lambda q, c: q.give_back(c, ""), None, "queued", id="give back"),
    ],
)
async def test_a_holders_step(line: Line, step: Step, answer: Any, status: str) -> None:
    claim = await line.rig.running(1)
    await line.lose(lambda: step(line.queue, claim))
    after = {} if answer == [True] else await line.rig.snapshot()
    assert await step(line.queue, claim) == answer
    assert await line.rig.status(1) == status
    if after:
        assert await line.rig.snapshot() == after
    await check_invariants(line.rig)


async def test_kill(line: Line) -> None:
    await line.rig.accept(spawn(1))
    jti = line.rig.jti()
    await line.lose(lambda: line.queue.accept(sender(), jti, RAW, [kill(1)]))
    assert await line.rig.status(1) == "killed"
    (again,) = await line.queue.accept(sender(), line.rig.jti(), RAW, [kill(1)])
    assert getattr(again, "status", None) == "killed"
    assert [record.status for record in await line.rig.events()] == ["queued", "killed"]
    assert (await line.rig.fields(1, TENANT))["seq"] == "2"
    await check_invariants(line.rig)
