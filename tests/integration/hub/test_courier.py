"""How one webhook is told: real stream and progress in Valkey, a receiver and a clock that do as the test says."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from redis.asyncio import Redis

from common.clock import SystemClock
from common.errors import HubspokeError, Unavailable
from hub.courier import AT_ONCE, Courier, Ways
from hub.webhook import Message, Webhook
from hub.webhook_post import Answered
from hub.webhook_progress import Progress, ProgressStore
from tests.integration.hub.standin_spoke import new_id
from tests.integration.hub.test_stored import PEER, Stored, new_agent, numbered_id, settled
from tests.spoke_node import eventually

PATIENCE_S = 3600.0


@dataclass
class Told:
    """What a receiver was sent; `fail` says how the next attempts end, by the number of the attempt."""

    sent: list[str] = field(default_factory=list)
    taken: list[dict[str, Any]] = field(default_factory=list)
    fail: Callable[[Message], HubspokeError | None] = lambda _message: None
    at_once: int = 0
    most_at_once: int = 0

    async def send(self, _webhook: Webhook, message: Message) -> float:
        self.sent.append(message.message_id)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if error := self.fail(message):
            raise error
        self.taken.append(json.loads(message.body))
        return 1.0

    def of(self, agent_id: str) -> list[str]:
        return [told["data"]["status"] for told in self.taken if told["data"].get("agentId") == agent_id]


class Later(SystemClock):
    """A clock that is ahead."""

    def __init__(self, ahead_ms: int = 0) -> None:
        self.ahead_ms = ahead_ms

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_ms


class Rig:
    """A stream, what is remembered of one webhook, and its receiver."""

    def __init__(self, client: Redis, blocking: Redis, prefix: str) -> None:
        self.stored = Stored(client, blocking, prefix)
        self.progress = ProgressStore(client, self.stored.keys)
        self.told = Told()
        self.clock = Later()
        self.outcomes: Counter[str] = Counter()
        self.webhook = Webhook(new_id(), "https://ci.example.org", (), (), "0-0", 0)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Courier]:
        """Let a fresh courier work, as after a start of the hub; its pauses are as short as they may be."""

        def count(outcome: str) -> None:
            self.outcomes[outcome] += 1

        ways = Ways(self.stored.feed, self.progress, self.told, self.clock, lambda: PATIENCE_S, count)
        courier = Courier(self.webhook, ways, jitter=lambda: 0.999)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.stored.feed.run()), group.create_task(courier.run())]
            yield courier
            for task in tasks:
                task.cancel()

    async def until(self, **members: Any) -> Progress:
        """Wait until these members of the kept progress are so."""

        async def reached() -> Progress | None:
            progress = await self.progress.load(self.webhook.webhook_id)
            return progress if all(getattr(progress, name) == value for name, value in members.items()) else None

        found: Progress = await eventually(reached, f"{members}")
        return found

    async def spawn(self, count: int = 1) -> list[str]:
        """Let so many agents be asked for; a change each."""
        ids = [numbered_id() for _ in range(count)]
        await self.stored.outcomes(*map(new_agent, ids))
        return ids


@pytest.fixture
def rig(valkey: Redis, valkey_blocking: Redis, key_prefix: str) -> Rig:
    return Rig(valkey, valkey_blocking, key_prefix)


async def test_each_change_is_told_once_in_order_for_its_agent(rig: Rig) -> None:
    first = await rig.spawn(3)
    async with rig.serving():
        await rig.stored.agents.record(PEER, [settled(agent_id) for agent_id in first], 1)
        await eventually(lambda: all(rig.told.of(agent_id) == ["pending", "queued"] for agent_id in first), "both")
    assert len(rig.told.sent) == len(set(rig.told.sent)) == 6
    assert rig.outcomes == {"delivered": 6}


async def test_a_hub_that_starts_again_goes_on_where_it_was(rig: Rig) -> None:
    await rig.spawn(2)
    async with rig.serving():
        await rig.until(cursor=await rig.stored.feed.last_id())
    (later,) = await rig.spawn()
    async with rig.serving():
        await eventually(lambda: rig.told.of(later), "the new one")
    assert len(rig.told.sent) == 3


async def test_many_go_at_once_and_never_too_many(rig: Rig) -> None:
    await rig.spawn(50)
    async with rig.serving():
        await eventually(lambda: len(rig.told.taken) == 50, "all")
    assert rig.told.most_at_once == AT_ONCE


async def test_one_that_fails_is_told_again_and_holds_up_what_follows_but_repeats_nothing(rig: Rig) -> None:
    ids = await rig.spawn(AT_ONCE + 2)
    refused = ids[2]
    left = [2]

    def fail(message: Message) -> HubspokeError | None:
        if refused.encode() in message.body and left[0]:
            left[0] -= 1
            return Answered(500)
        return None

    rig.told.fail = fail
    async with rig.serving():
        failing = await rig.until(failures=1)
        assert failing.cursor == ""
        assert (failing.error or {})["code"] == "http_status"
        assert failing.failing_ms <= failing.tried_ms < failing.next_ms
        assert len(rig.told.taken) == AT_ONCE - 1
        done = await rig.until(cursor=await rig.stored.feed.last_id())
    assert (done.failures, done.failing_ms, done.next_ms, done.error) == (0, 0, 0, None)
    assert Counter(Counter(rig.told.sent).values()) == {1: AT_ONCE + 1, 3: 1}
    assert rig.outcomes == {"delivered": AT_ONCE + 2, "http_status": 2}


async def test_killed_before_the_cursor_was_kept_it_tells_again_under_the_same_ids(rig: Rig) -> None:
    await rig.spawn(3)
    rig.told.fail = lambda _message: Unavailable("away") if len(rig.told.sent) == 3 else None
    async with rig.serving():
        await rig.until(failures=1)
    first = list(rig.told.sent)
    rig.told.fail = lambda _message: None
    async with rig.serving():
        await rig.until(cursor=await rig.stored.feed.last_id())
    assert rig.told.sent[len(first) :][-3:] == first[:3]
    assert len({told["data"]["agentId"] for told in rig.told.taken}) == 3


async def test_a_receiver_that_is_gone_is_given_up_until_it_is_resumed(rig: Rig) -> None:
    (agent_id,) = await rig.spawn()
    rig.told.fail = lambda _message: Answered(410)
    async with rig.serving() as courier:
        given_up = await eventually(lambda: courier.progress.disabled_ms, "given up")
        kept = await rig.until(disabled_ms=given_up)
        assert (kept.next_ms, (kept.error or {})["retryable"]) == (0, False)
    rig.told.fail = lambda _message: None
    async with rig.serving() as courier:
        await rig.spawn()
        await eventually(lambda: courier.progress.disabled_ms, "still given up after the start")
        assert len(rig.told.sent) == 1
        courier.resume()
        await rig.until(cursor=await rig.stored.feed.last_id(), disabled_ms=0, failures=0)
    assert rig.told.of(agent_id) == ["pending"]


async def test_a_receiver_is_given_up_after_long_failing_and_not_for_the_hubs_own_absence(rig: Rig) -> None:
    await rig.spawn()
    rig.told.fail = lambda _message: Unavailable("away")
    async with rig.serving():
        await rig.until(failures=1)
    rig.clock.ahead_ms = int(PATIENCE_S * 1000) + 1000
    async with rig.serving() as courier:
        for tries in range(1, 6):
            assert (await rig.until(failures=1 + tries)).disabled_ms == 0 or tries == 5
            courier.resume()  # ends the pause
        assert (await rig.until(failures=6)).disabled_ms > 0
    assert len(rig.told.sent) == 6


async def test_what_the_stream_dropped_is_told_as_a_gap(rig: Rig) -> None:
    await rig.spawn(5)
    await rig.stored.client.xtrim(rig.stored.keys.events, maxlen=2, approximate=False)
    async with rig.serving():
        await rig.until(cursor=await rig.stored.feed.last_id())
    assert [told["type"] for told in rig.told.taken] == ["events.gap", "agent.pending", "agent.pending"]
    assert rig.told.taken[0]["data"] == {"after": "0-0"}


async def test_after_the_store_was_emptied_it_tells_a_gap_and_then_all_that_is_new(rig: Rig) -> None:
    await rig.progress.save(rig.webhook.webhook_id, Progress(f"{rig.clock.now_ms() + 3_600_000}-0"))
    async with rig.serving():
        await rig.until(cursor="0-0")
    (agent_id,) = await rig.spawn()
    async with rig.serving():
        await rig.until(cursor=await rig.stored.feed.last_id())
    assert [told["type"] for told in rig.told.taken] == ["events.gap", "agent.pending"]
    assert rig.told.of(agent_id) == ["pending"]


async def test_what_nobody_wants_moves_the_cursor_all_the_same(rig: Rig) -> None:
    rig.webhook = Webhook(rig.webhook.webhook_id, "https://ci.example.org", ("failed",), (), "0-0", 0)
    await rig.spawn(3)
    async with rig.serving():
        await rig.until(cursor=await rig.stored.feed.last_id())
    assert rig.told.sent == []


async def test_only_the_webhooks_that_there_are_are_remembered(rig: Rig) -> None:
    one, other = new_id(), new_id()
    for webhook_id in (one, other):
        await rig.progress.save(webhook_id, Progress("5-0"))
    await rig.progress.keep_only([one])
    await rig.progress.keep_only([one])
    assert [(await rig.progress.load(webhook_id)).cursor for webhook_id in (one, other)] == ["5-0", ""]
