"""The sender against a way that does as the test says; outbox and read model are real."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from common.clock import SystemClock
from common.envelope import EnvelopeType, Items, ReplyBody
from common.errors import Unavailable
from common.peers import Peer, Trust
from hub.delivery import Delivery
from hub.lane import Handed
from hub.metrics import Metrics
from hub.outbox import Taken
from hub.sender import Sender
from hub.settlement import Queued
from hub.telling import Telling
from tests.integration.hub.standin_spoke import agent_status, new_id
from tests.integration.hub.test_stored import PEER, Stored, new_agent, numbered_id
from tests.spoke_node import eventually


class Narrow:
    """A way on which an envelope of more than `most` commands is never answered."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.tried: list[int] = []

    async def send(self, _peer: Peer, _typ: EnvelopeType, items: Items) -> ReplyBody:
        self.tried.append(len(items.encoded))
        if len(items.encoded) > self.most:
            raise Unavailable("no answer came in time")
        ids = [json.loads(command)["id"] for command in items.encoded]
        results = [{"id": each, "agent": agent_status(each)} for each in ids]
        return ReplyBody.model_validate({"re": new_id(), "results": results})


class Known:
    """A trust in which PEER is active."""

    def current(self) -> Trust:
        return Trust([PEER])


async def sent_over(stored: Stored, way: Narrow) -> list[int]:
    """Let ten spawns wait, and return how many commands each envelope held until all were delivered."""
    ids = [numbered_id() for _ in range(10)]
    agents = [new_agent(agent_id, command=json.dumps({"id": agent_id}).encode()) for agent_id in ids]
    await stored.outcomes(*agents)
    delivery = Delivery(way, Telling())
    # The shortest pauses that there are.
    sender = Sender(stored.outbox, stored.agents, delivery, Known(), SystemClock(), Metrics(), jitter=lambda: 0.999)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(sender.run())
        await eventually(_nothing_waits(stored), "all are delivered")
        task.cancel()
    return way.tried


async def test_a_way_too_slow_for_much_gets_less_until_it_goes_through(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.sender.SLOW_S", 0.0)
    assert await sent_over(stored, Narrow(most=4)) == [10, 5, 2, 4, 4]


async def test_what_went_in_one_envelope_is_looked_for_once(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    takes: list[Taken] = []
    take = stored.outbox.take

    async def counted(*arguments: Any) -> Taken:
        takes.append(await take(*arguments))
        return takes[-1]

    monkeypatch.setattr(stored.outbox, "take", counted)
    assert await sent_over(stored, Narrow(most=10)) == [10]
    assert [(len(taken.commands), taken.left) for taken in takes] == [(10, 0)]


async def test_what_fails_at_once_goes_again_as_it_was(stored: Stored) -> None:
    way = Narrow(most=4)
    sending = asyncio.create_task(sent_over(stored, way))
    await eventually(lambda: len(way.tried) == 2, "two attempts")
    way.most = 10
    assert set(await sending) == {10}


async def test_what_is_handed_over_goes_unread_and_while_an_answer_is_recorded(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    way, may_record, reads = Narrow(most=10), asyncio.Event(), list[None]()
    take, record = stored.outbox.take, stored.agents.record

    async def counted(*arguments: Any) -> Taken:
        reads.append(None)
        return await take(*arguments)

    async def held_up(*arguments: Any) -> list[bool]:
        await may_record.wait()
        return await record(*arguments)

    monkeypatch.setattr(stored.outbox, "take", counted)
    monkeypatch.setattr(stored.agents, "record", held_up)
    monkeypatch.setattr("hub.sender.SCAN_S", 3600.0)  # the scan reads what it finds
    sender = Sender(stored.outbox, stored.agents, Delivery(way, Telling()), Known(), SystemClock(), Metrics())

    async def enqueue() -> None:
        new = new_agent(agent_id := numbered_id(), command=json.dumps({"id": agent_id}).encode())
        assert await stored.outcomes(new) == ["created"]
        sender.hand(PEER.tenant, [Handed(Queued(agent_id, "spawn", agent_id, new.command))])

    async with asyncio.TaskGroup() as group:
        await enqueue()
        task = group.create_task(sender.run())
        for sent in (1, 2):
            await eventually(lambda sent=sent: len(way.tried) == sent, f"{sent} envelopes")  # type: ignore[misc]
            assert await stored.outbox.tenants(), "nothing is recorded yet"
            await enqueue()
        may_record.set()
        await eventually(lambda: len(way.tried) == 3, "the third envelope")
        await eventually(_nothing_waits(stored), "all are recorded")
        task.cancel()
    assert way.tried == [1, 1, 1]
    assert len(reads) == 1, "the lane read the outbox when it began"


async def test_what_was_put_there_by_somebody_else_is_read(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.sender.SCAN_S", 0.05)
    way = Narrow(most=10)
    sender = Sender(stored.outbox, stored.agents, Delivery(way, Telling()), Known(), SystemClock(), Metrics())
    async with asyncio.TaskGroup() as group:
        task = group.create_task(sender.run())
        for sent in (1, 2):
            agent_id = numbered_id()
            await stored.outcomes(new_agent(agent_id, command=json.dumps({"id": agent_id}).encode()))
            await eventually(lambda sent=sent: len(way.tried) == sent, "the scan found it")  # type: ignore[misc]
        task.cancel()


class Turned(SystemClock):
    """A clock that somebody sets back."""

    back_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() - self.back_ms


@pytest.mark.fault(21)
async def test_what_expired_behind_an_envelope_does_not_go_though_the_clock_is_set_back(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.sender.SCAN_S", 0.05)
    may_answer, way, clock = asyncio.Event(), Narrow(most=10), Turned()
    send = way.send

    async def held_up(*arguments: Any) -> ReplyBody:
        await may_answer.wait()
        return await send(*arguments)

    monkeypatch.setattr(way, "send", held_up)
    sender = Sender(stored.outbox, stored.agents, Delivery(way, Telling()), Known(), clock, Metrics())

    async def enqueue(deadline_ms: int) -> str:
        new = new_agent(
            agent_id := numbered_id(), command=json.dumps({"id": agent_id}).encode(), deadline_ms=deadline_ms
        )
        await stored.outcomes(new)
        sender.hand(PEER.tenant, [Handed(Queued(agent_id, "spawn", agent_id, new.command), deadline_ms)])
        return agent_id

    async with asyncio.TaskGroup() as group:
        task = group.create_task(sender.run())
        await enqueue(0)
        await eventually(lambda: PEER.tenant in sender._lanes and sender._lanes[PEER.tenant].is_complete, "it is sent")
        late = await enqueue(clock.now_ms() + 100)

        async def expired() -> bool:
            return (await stored.agents.find(late)).shown == "expired"

        await eventually(expired, "the second expired")
        clock.back_ms = 3_600_000
        may_answer.set()
        await eventually(_nothing_waits(stored), "the first is recorded")
        await asyncio.sleep(0.2)
        task.cancel()
    assert way.tried == [1]


async def test_a_mistake_of_ours_is_told_though_an_answer_cannot_be_recorded(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.sender.SCAN_S", 3600.0)
    way, sender_is_broken = Narrow(most=10), asyncio.Event()

    async def never_recorded(*_: Any) -> list[bool]:
        await sender_is_broken.wait()
        raise Unavailable("Valkey is away")

    monkeypatch.setattr(stored.agents, "record", never_recorded)
    sender = Sender(stored.outbox, stored.agents, Delivery(way, Telling()), Known(), SystemClock(), Metrics())
    new = new_agent(agent_id := numbered_id(), command=json.dumps({"id": agent_id}).encode())
    await stored.outcomes(new)
    with capture_logs() as logs:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(sender.run())
            await eventually(lambda: way.tried == [1], "the first is sent")
            monkeypatch.setattr("hub.lane.Lane.following", lambda *_: 1 / 0)
            sender.hand(PEER.tenant, [Handed(Queued(agent_id, "spawn", agent_id, new.command))])
            sender_is_broken.set()
            await eventually(lambda: not sender._lanes, "the lane has ended")
            task.cancel()
    assert [line["event"] for line in logs if line["log_level"] != "info"] == ["outbox.unavailable", "delivery.crashed"]


def _nothing_waits(stored: Stored) -> Callable[[], Awaitable[bool]]:
    async def nothing_waits() -> bool:
        return not await stored.outbox.tenants()

    return nothing_waits


@pytest.fixture
def stored(valkey: Redis, valkey_blocking: Redis, key_prefix: str) -> Stored:
    return Stored(valkey, valkey_blocking, key_prefix)
