"""What the scripts keep in Valkey: the outbox, the read model, the stream; each run twice changes nothing more."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from common.agent_state import AgentStatus
from common.envelope import Claims
from common.errors import EnvelopeRejected, RateLimited
from common.ids import uuid7
from common.scripts import ScriptSet
from hub.agents import Agents, Filter, KillWaits, NoSuchAgent, ReplayMark
from hub.feed import Feed
from hub.keyspace import Keyspace
from hub.outbox import Failed, NewAgent, NewKill, NewLatch, Outbox
from hub.settlement import Latched, Settlement, shown_error
from tests.envelopes import claims, spoke_peer
from tests.integration.hub.standin_spoke import agent_status, new_id

NOW_MS = 1_795_000_000_000
PEER = spoke_peer()
_numbers = itertools.count(1)


def numbered_id() -> str:
    """A UUIDv7 later than the one before."""
    return uuid7(NOW_MS + next(_numbers), bytes(10))


def new_agent(agent_id: str, **changes: Any) -> NewAgent:
    """A spawn for the peer, changed as asked."""
    good = {
        "agent_id": agent_id, "spoke": PEER.instance, "tenant": PEER.tenant, "task_id": "T-1", "agent_type": "worker",
        "content_hash": "h1", "command": b'{"context":{}}', "deadline_ms": 0,
    }  # fmt: skip
    return NewAgent(**{**good, **changes})


class Stored:
    """Outbox, read model and feed below a prefix of the test's own."""

    def __init__(self, client: Redis, blocking: Redis, prefix: str, limit: int = 100_000) -> None:
        keys, scripts = Keyspace("hub-eu", prefix), ScriptSet("hub")
        self.client = client
        self.keys = keys
        self.outbox = Outbox(client, keys, scripts, limit)
        self.agents = Agents(client, keys, scripts)
        self.feed = Feed(client, blocking, keys)

    async def outcomes(self, *agents: NewAgent) -> list[str]:
        """Enqueue and return the outcomes."""
        return [enqueued.outcome for enqueued in await self.outbox.enqueue(agents, NOW_MS)]

    async def waiting(self) -> list[str]:
        """Return the command ids that can be sent now."""
        return [command.command_id for command in (await self.outbox.take(PEER.tenant, NOW_MS)).commands]

    async def snapshot(self) -> dict[bytes, Any]:
        """Return everything below the prefix, without the counter of sequences: a gap in those is no effect."""
        readers: dict[bytes, Any] = {
            b"hash": self.client.hgetall,
            b"zset": lambda key: self.client.zrange(key, 0, -1, withscores=True),
            b"set": self.client.smembers,
            b"stream": self.client.xrange,
            b"string": self.client.get,
        }
        found = {}
        async for key in self.client.scan_iter(match=f"{self.keys.before}*", count=1000):
            kind: Any = await self.client.type(key)
            found[key] = await readers[kind](key)
        found.pop(f"{self.keys.prefix}sequence".encode(), None)
        return found


@pytest.fixture
def stored(valkey: Redis, valkey_blocking: Redis, key_prefix: str) -> Stored:
    """A store of this test's own."""
    return Stored(valkey, valkey_blocking, key_prefix)


def settled(agent_id: str, outcome: Any = "delivered", **members: Any) -> Settlement:
    """What a reply says about a spawn."""
    agent = AgentStatus.model_validate(agent_status(agent_id)) if outcome == "delivered" else None
    return Settlement(agent_id, outcome, agent_id, agent=agent, **members)


REFUSED = shown_error("not_allowed", "no", retryable=False)


# --- twice is once


async def test_every_script_run_twice_has_one_effect(stored: Stored) -> None:
    first, second, third, fourth = (new_agent(numbered_id()) for _ in range(4))
    expiring = new_agent(numbered_id(), deadline_ms=NOW_MS + 1)
    record = stored.agents.record
    kill_id = new_id()
    steps: dict[str, Callable[[], Awaitable[Any]]] = {
        "enqueue": lambda: stored.outcomes(first, second, third, fourth, expiring),
        "delivered": lambda: record(PEER, [settled(first.agent_id)], NOW_MS),
        "refused": lambda: record(PEER, [settled(second.agent_id, "refused", error=REFUSED)], NOW_MS),
        "expire": lambda: stored.outbox.expire(NOW_MS + 2),
        "kill": lambda: stored.outbox.enqueue_kills([NewKill(first.agent_id, kill_id, b"{}")]),
        "event": lambda: record(
            PEER,
            [
                Settlement(
                    third.agent_id,
                    "event",
                    agent=AgentStatus.model_validate(agent_status(third.agent_id, "running", 3)),
                ),
            ],
            NOW_MS,
        ),
        "take": lambda: stored.outbox.take(PEER.tenant, NOW_MS),
    }
    for name, step in steps.items():
        await step()
        after_one = await stored.snapshot()
        await step()
        assert await stored.snapshot() == after_one, name
    assert await stored.waiting() == [fourth.agent_id, kill_id]


async def test_a_settled_command_leaves_nothing_in_the_outbox(stored: Stored) -> None:
    agent_id = numbered_id()
    await stored.outcomes(new_agent(agent_id, deadline_ms=NOW_MS + 1000))
    assert await stored.outbox.tenants() == {PEER.tenant}
    await stored.agents.record(PEER, [settled(agent_id)], NOW_MS)
    assert await stored.outbox.tenants() == set()
    left = {key.removeprefix(stored.keys.prefix.encode()) for key in await stored.snapshot()}
    assert {key for key in left if key.startswith((b"cmd", b"outbox", b"deferred", b"deadlines"))} == set()


# --- idempotence and bounds


@pytest.mark.fault(18)
async def test_a_full_outbox_takes_no_more_and_drops_nothing(
    valkey: Redis, valkey_blocking: Redis, key_prefix: str
) -> None:
    stored = Stored(valkey, valkey_blocking, key_prefix, limit=3)
    agents = [new_agent(numbered_id()) for _ in range(5)]
    assert await stored.outcomes(*agents) == ["created"] * 3 + ["queue_full"] * 2
    with pytest.raises(NoSuchAgent):
        await stored.agents.find(agents[3].agent_id)
    # What was taken is answered as before, another spoke has room, and a kill finds some.
    assert await stored.outcomes(agents[0]) == ["same"]
    assert await stored.outcomes(new_agent(numbered_id(), tenant="other_9", spoke="other")) == ["created"]
    (queued,) = await stored.outbox.enqueue_kills([NewKill(agents[0].agent_id, new_id(), b"{}")])
    assert queued.outcome == "queued"
    later = settled(agents[1].agent_id, "retry", error=REFUSED, not_before_ms=NOW_MS + 1)
    await stored.agents.record(PEER, [settled(agents[0].agent_id), later], NOW_MS)
    # Put off is still waiting.
    assert await stored.outcomes(agents[3]) == ["queue_full"]
    await stored.agents.record(PEER, [settled(agents[2].agent_id)], NOW_MS)
    assert await stored.outcomes(agents[3], agents[4]) == ["created", "queue_full"]


@pytest.mark.attack(40)
async def test_of_changes_only_the_latest_are_kept(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.outbox.EVENTS_KEPT", 10)
    await stored.outcomes(*(new_agent(numbered_id()) for _ in range(500)))
    # The server drops whole pieces of a hundred.
    assert 10 <= await stored.client.xlen(stored.keys.events) <= 110


async def test_the_bound_holds_against_many_at_once(valkey: Redis, valkey_blocking: Redis, key_prefix: str) -> None:
    stored = Stored(valkey, valkey_blocking, key_prefix, limit=10)
    answers = await asyncio.gather(*(stored.outcomes(new_agent(numbered_id())) for _ in range(40)))
    assert sorted(itertools.chain(*answers)) == ["created"] * 10 + ["queue_full"] * 30


async def test_the_same_id_twice_in_one_request(stored: Stored) -> None:
    agent_id = numbered_id()
    same, other = new_agent(agent_id), new_agent(agent_id, content_hash="h2")
    assert await stored.outcomes(same, same, other) == ["created", "same", "conflict"]
    assert await stored.waiting() == [agent_id]


# --- order and putting off


async def test_a_command_that_was_put_off_comes_back_in_its_place(stored: Stored) -> None:
    one, two, three = (numbered_id() for _ in range(3))
    await stored.outcomes(*(new_agent(agent_id) for agent_id in (one, two, three)))
    put_off = settled(one, "retry", error=REFUSED, not_before_ms=NOW_MS + 1000)
    await stored.agents.record(PEER, [put_off], NOW_MS)
    taken = await stored.outbox.take(PEER.tenant, NOW_MS)
    assert [command.command_id for command in taken.commands] == [two, three]
    assert taken.next_due_ms == NOW_MS + 1000
    taken = await stored.outbox.take(PEER.tenant, NOW_MS + 1000)
    assert [command.command_id for command in taken.commands] == [one, two, three]
    assert [command.attempts for command in taken.commands] == [1, 0, 0]


async def test_commands_of_every_kind_go_in_the_order_in_which_they_were_taken(stored: Stored) -> None:
    first, second, third, fourth = (numbered_id() for _ in range(4))
    kill, freeze = new_id(), new_id()
    await stored.outcomes(new_agent(first))
    await stored.outbox.enqueue_kills([NewKill(first, kill, b"{}")])
    await stored.outcomes(new_agent(second))
    await stored.outbox.enqueue_latch(PEER.tenant, NewLatch(freeze, "freeze", b"{}", kills=False, reason=""), NOW_MS)
    await stored.outcomes(new_agent(fourth), new_agent(third))
    assert await stored.waiting() == [first, kill, second, freeze, fourth, third]


async def test_a_command_waits_once_wherever_it_waits(stored: Stored) -> None:
    first, second = new_agent(numbered_id()), new_agent(numbered_id())
    await stored.outcomes(first, second)

    async def waits() -> tuple[list[str], int, int]:
        taken = await stored.outbox.take(PEER.tenant, NOW_MS)
        pending = (await stored.agents.contact(PEER.tenant)).pending
        return [command.command_id for command in taken.commands], taken.next_due_ms, pending

    put_off = settled(first.agent_id, "retry", error=REFUSED, not_before_ms=NOW_MS + 500)
    await stored.agents.record(PEER, [put_off], NOW_MS)
    assert await waits() == ([second.agent_id], NOW_MS + 500, 2)
    await stored.agents.record(PEER, [put_off._replace(not_before_ms=NOW_MS)], NOW_MS)
    for _ in range(2):
        assert await waits() == ([first.agent_id, second.agent_id], 0, 2)


async def test_a_spawn_whose_agent_is_known_from_an_event_waits_like_any_other(stored: Stored) -> None:
    agent_id = numbered_id()
    running = AgentStatus.model_validate(agent_status(agent_id, "running", 3))
    await stored.agents.record(PEER, [Settlement(agent_id, "event", agent=running)], NOW_MS)
    (enqueued,) = await stored.outbox.enqueue([new_agent(agent_id)], NOW_MS)
    assert (enqueued.outcome, enqueued.shown) == ("created", "running")
    found = await stored.agents.find(agent_id)
    assert found.delivery == {"state": "pending", "attempts": 0, "lastError": None}
    assert (found.shown, found.status) == ("running", "running")
    assert await stored.outcomes(new_agent(agent_id)) == ["same"]
    assert await stored.outcomes(new_agent(agent_id, content_hash="h2")) == ["conflict"]
    assert await stored.waiting() == [agent_id]
    stranger = numbered_id()
    told = Settlement(stranger, "event", agent=AgentStatus.model_validate(agent_status(stranger, "running", 3)))
    await stored.agents.record(spoke_peer(instance="build-2"), [told], NOW_MS)
    assert await stored.outcomes(new_agent(stranger)) == ["conflict"], "another spoke told of it"


async def test_taking_is_bounded_by_count_and_by_size(stored: Stored) -> None:
    agents = [new_agent(numbered_id(), command=b"x" * 300_000) for _ in range(5)]
    await stored.outcomes(*agents)
    assert len((await stored.outbox.take(PEER.tenant, NOW_MS)).commands) == 2
    taken = await stored.outbox.take(PEER.tenant, NOW_MS, 1)
    assert (len(taken.commands), taken.left) == (1, 4)
    await stored.outcomes(*(new_agent(numbered_id(), tenant="build-1_7", command=b"x" * 500_000) for _ in range(2)))
    taken = await stored.outbox.take("build-1_7", NOW_MS)
    assert (len(taken.commands), taken.left) == (1, 1)


async def test_a_failure_is_noted_on_its_commands_only(stored: Stored) -> None:
    one, two = new_agent(numbered_id()), new_agent(numbered_id())
    await stored.outcomes(one, two)
    taken = await stored.outbox.take(PEER.tenant, NOW_MS, 1)
    error = shown_error("unavailable", "cannot reach it", retryable=True)
    await stored.outbox.note_failure(PEER.tenant, taken.commands, error, Failed(NOW_MS, 3, NOW_MS + 500))
    assert (await stored.agents.find(one.agent_id)).delivery == {
        "state": "pending", "attempts": 1, "lastError": error,
    }  # fmt: skip
    assert (await stored.agents.find(two.agent_id)).delivery["attempts"] == 0
    contact = await stored.agents.contact(PEER.tenant)
    assert (contact.failures, contact.next_attempt_ms, contact.last_error, contact.pending) == (
        3, NOW_MS + 500, error, 2,
    )  # fmt: skip


async def test_a_failure_is_noted_on_a_freeze_and_a_kill_too(stored: Stored) -> None:
    agent_id, latest = numbered_id(), new_id()
    await stored.outcomes(new_agent(agent_id))
    await stored.agents.record(PEER, [settled(agent_id)], NOW_MS)
    await stored.outbox.enqueue_kills([NewKill(agent_id, new_id(), b"{}")])
    for command_id, kills in ((new_id(), True), (latest, False)):
        latch = NewLatch(command_id, "freeze", b"{}", kills, "")
        await stored.outbox.enqueue_latch(PEER.tenant, latch, NOW_MS)
    kill, killing, freeze = (await stored.outbox.take(PEER.tenant, NOW_MS)).commands
    errors = [shown_error("unavailable", text, retryable=True) for text in ("a", "b", "c")]
    for command, error in zip((kill, freeze, killing), errors, strict=True):
        await stored.outbox.note_failure(PEER.tenant, [command], error, Failed(NOW_MS, 1, NOW_MS))
    found, contact = await stored.agents.find(agent_id), await stored.agents.contact(PEER.tenant)
    assert found.kill is not None
    assert contact.freeze is not None
    assert (found.kill["lastError"], contact.freeze["lastError"]) == (errors[0], errors[1])
    assert found.delivery == {"state": "delivered", "attempts": 1, "lastError": None}


async def test_a_freeze_that_kills_waits_until_it_is_answered_or_another_one_kills(stored: Stored) -> None:
    kills, thaw, again = new_id(), new_id(), new_id()

    async def latch(command_id: str, kind: str, *, kills: bool) -> None:
        new = NewLatch(command_id, kind, b"{}", kills, "")
        await stored.outbox.enqueue_latch(PEER.tenant, new, NOW_MS)

    async def answered(command_id: str, *, frozen: bool) -> None:
        answer = Settlement("", "delivered", command_id, latch=Latched(frozen, None))
        await stored.agents.record(PEER, [answer], NOW_MS)

    await latch(kills, "freeze", kills=True)
    await latch(thaw, "thaw", kills=False)
    assert await stored.waiting() == [kills, thaw]
    await answered(thaw, frozen=False)
    assert await stored.waiting() == [kills]
    await latch(again, "freeze", kills=True)
    assert await stored.waiting() == [again], "one that kills replaces the other"
    await answered(again, frozen=True)
    await latch(thaw, "thaw", kills=False)
    await latch(kills, "freeze", kills=False)
    assert await stored.waiting() == [kills]


# --- the read model


STEPS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "a higher seq wins": ([{"status": "running", "seq": 3}], {"status": "running", "seq": 3}),
    "a lower seq loses": (
        [{"status": "running", "seq": 3}, {"status": "spawning", "seq": 2}],
        {"status": "running", "seq": 3},
    ),
    "an equal seq with another status loses": (
        [{"status": "running", "seq": 3}, {"status": "failed", "seq": 3}],
        {"status": "running", "seq": 3},
    ),
    "terminal is final": (
        [{"status": "failed", "seq": 3, "reason": "oom"}, {"status": "running", "seq": 9}],
        {"status": "failed", "seq": 3, "reason": "oom"},
    ),
    "a result stays": (
        [{"status": "completed", "seq": 3, "result": {"summary": "a"}}, {"status": "completed", "seq": 3}],
        {"status": "completed", "result": {"summary": "a"}},
    ),
    "a result comes later": (
        [{"status": "completed", "seq": 3}, {"status": "completed", "seq": 3, "result": {"summary": "a"}}],
        {"status": "completed", "result": {"summary": "a"}},
    ),
    "an attempt more": (
        [{"status": "running", "seq": 3}, {"status": "queued", "seq": 4, "attempt": 2}],
        {"status": "queued", "attempt": 2},
    ),
}


@pytest.mark.fault(20)
@pytest.mark.parametrize(("told", "expected"), STEPS.values(), ids=STEPS.keys())
async def test_what_is_known_of_an_agent(stored: Stored, told: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    agent_id = numbered_id()
    await stored.outcomes(new_agent(agent_id))
    for members in told:
        agent = AgentStatus.model_validate(agent_status(agent_id, **members))
        assert await stored.agents.record(PEER, [Settlement(agent_id, "event", agent=agent)], NOW_MS) == [True]
    view = (await stored.agents.find(agent_id)).to_view()
    assert {name: view[name] for name in expected} == expected
    terminal = [
        change for change in await stored.feed.read("0-0") if change.status in {"completed", "failed", "killed"}
    ]
    assert len(terminal) == (expected["status"] in {"completed", "failed"})
    (only,) = (await stored.agents.page(Filter(status=expected["status"]), 10))[0]
    assert only.agent_id == agent_id


@pytest.mark.fault(20)
async def test_one_that_this_hub_resumes_comes_back_once(stored: Stored) -> None:
    agent_id = numbered_id()
    await stored.outcomes(new_agent(agent_id))

    async def tell(status: str, seq: int, **members: Any) -> str:
        agent = AgentStatus.model_validate(agent_status(agent_id, status, seq, **members))
        assert await stored.agents.record(PEER, [Settlement(agent_id, "event", agent=agent)], NOW_MS) == [True]
        return (await stored.agents.find(agent_id)).status

    assert await tell("killed", 3, reason="killed_by_peer") == "killed"
    await stored.agents.await_return(agent_id, numbered_id())
    assert await tell("killed", 3, reason="killed_by_peer") == "killed"  # said again it is no return
    assert await tell("queued", 4) == "queued"
    assert (await stored.agents.find(agent_id)).to_view()["reason"] is None
    assert await tell("completed", 7, result={"summary": "a"}) == "completed"
    assert await tell("running", 9) == "completed"
    command_id = numbered_id()
    await stored.agents.await_return(agent_id, command_id)
    await stored.agents.keep_end(agent_id, command_id)
    assert await tell("running", 9) == "completed"
    changes = await stored.feed.read("0-0")
    assert [change.status for change in changes] == ["pending", "killed", "queued", "completed"]
    for status, count in (("killed", 0), ("queued", 0), ("completed", 1)):
        assert len((await stored.agents.page(Filter(status=status), 10))[0]) == count
    assert (await stored.agents.page(Filter(reason="killed_by_peer"), 10))[0] == []


@pytest.mark.fault(20)
async def test_a_resume_whose_answer_was_lost_counts_though_the_next_one_is_refused(stored: Stored) -> None:
    """The spoke took the first; it refuses the second because the agent runs, and its news must count."""
    agent_id, taken, refused = numbered_id(), numbered_id(), numbered_id()
    await stored.outcomes(new_agent(agent_id))
    ended = AgentStatus.model_validate(agent_status(agent_id, "failed", 3, reason="agent_error"))
    await stored.agents.record(PEER, [Settlement(agent_id, "event", agent=ended)], NOW_MS)
    for command_id in (taken, refused, taken, *(numbered_id() for _ in range(30))):
        await stored.agents.await_return(agent_id, command_id)
    known = await stored.client.hget(stored.keys.agent(agent_id), "resume_id")
    assert len((known or b"").split()) == 16, "those without an answer do not grow without an end"
    await stored.agents.keep_end(agent_id, refused)
    running = AgentStatus.model_validate(agent_status(agent_id, "running", 5))
    await stored.agents.record(PEER, [Settlement(agent_id, "event", agent=running)], NOW_MS)
    assert (await stored.agents.find(agent_id)).status == "running"


async def test_its_former_kill_is_over_when_it_comes_back(stored: Stored) -> None:
    agent_id, kill_id = numbered_id(), numbered_id()
    await stored.outcomes(new_agent(agent_id))
    running = AgentStatus.model_validate(agent_status(agent_id, "running", 2))
    await stored.agents.record(PEER, [Settlement(agent_id, "event", agent=running)], NOW_MS)
    await stored.outbox.enqueue_kills([NewKill(agent_id, kill_id, b"{}")])
    with pytest.raises(KillWaits):
        await stored.agents.await_return(agent_id, numbered_id())
    killed = AgentStatus.model_validate(agent_status(agent_id, "killed", 3, reason="killed_by_peer"))
    await stored.agents.record(PEER, [Settlement(agent_id, "delivered", command_id=kill_id, agent=killed)], NOW_MS)
    assert (await stored.agents.find(agent_id)).kill is not None
    await stored.agents.await_return(agent_id, numbered_id())
    queued = AgentStatus.model_validate(agent_status(agent_id, "queued", 4))
    await stored.agents.record(PEER, [Settlement(agent_id, "answer", agent=queued)], NOW_MS)
    assert (await stored.agents.find(agent_id)).kill is None


@pytest.mark.parametrize("status", ["completed", "failed", "killed"])
async def test_of_what_has_ended_nothing_is_killed(stored: Stored, status: str) -> None:
    agent_id = numbered_id()
    ended = AgentStatus.model_validate(agent_status(agent_id, status, 3))
    await stored.agents.record(PEER, [Settlement(agent_id, "event", agent=ended)], NOW_MS)
    (kill,) = await stored.outbox.enqueue_kills([NewKill(agent_id, new_id(), b"{}")])
    assert (kill.outcome, kill.command_id, kill.shown) == ("ended", "", status)
    assert await stored.waiting() == []


async def test_what_was_refused_is_not_killed_but_what_expired_may_have_arrived(stored: Stored) -> None:
    refused, expired = numbered_id(), numbered_id()
    await stored.outcomes(new_agent(refused), new_agent(expired, deadline_ms=NOW_MS))
    await stored.agents.record(PEER, [settled(refused, "refused", error=REFUSED)], NOW_MS)
    await stored.outbox.expire(NOW_MS)
    kills = await stored.outbox.enqueue_kills([NewKill(agent_id, new_id(), b"{}") for agent_id in (refused, expired)])
    assert [(kill.outcome, kill.shown) for kill in kills] == [("ended", "refused"), ("queued", "expired")]
    assert await stored.waiting() == [kills[1].command_id]


async def test_of_an_unknown_agent_nothing_is_noted(stored: Stored) -> None:
    await stored.agents.await_return(numbered_id(), numbered_id())
    (kill,) = await stored.outbox.enqueue_kills([NewKill(numbered_id(), new_id(), b"{}")])
    assert (kill.outcome, kill.command_id, kill.shown) == ("not_found", "", "")
    assert [key async for key in stored.client.scan_iter(f"{stored.keys.prefix}*")] == []


async def test_the_answer_to_a_question_tells_a_new_place_but_loses_no_result(stored: Stored) -> None:
    agent_id = numbered_id()
    queued: dict[str, Any] = {"status": "queued", "seq": 1, "queue": {"position": 3, "waitingFor": "slot"}}
    done: dict[str, Any] = {"status": "completed", "seq": 2, "result": {"summary": "a"}}
    for outcome, members, expected in (
        ("event", queued, queued),
        ("answer", {**queued, "queue": None}, {**queued, "queue": None}),
        ("event", done, done),
        ("answer", {**done, "result": None}, done),
    ):
        agent = AgentStatus.model_validate(agent_status(agent_id, **members))
        told: Any = outcome
        await stored.agents.record(PEER, [Settlement(agent_id, told, agent=agent)], NOW_MS)
        view = (await stored.agents.find(agent_id)).to_view()
        assert {name: view[name] for name in expected} == expected


async def test_an_event_that_overtakes_the_reply_counts_its_attempt(stored: Stored) -> None:
    agent_id = numbered_id()
    await stored.outcomes(new_agent(agent_id))
    agent = AgentStatus.model_validate(agent_status(agent_id, "running", 3))
    await stored.agents.record(PEER, [Settlement(agent_id, "event", agent=agent)], NOW_MS)
    delivered = {"state": "delivered", "attempts": 1, "lastError": None}
    assert (await stored.agents.find(agent_id)).delivery == delivered
    await stored.agents.record(PEER, [settled(agent_id)], NOW_MS)
    assert (await stored.agents.find(agent_id)).delivery == delivered


@pytest.mark.attack(33)
@pytest.mark.attack(38)
async def test_no_other_tenant_touches_an_agent(stored: Stored) -> None:
    agent_id = numbered_id()
    await stored.outcomes(new_agent(agent_id))
    before = await stored.agents.find(agent_id)
    agent = AgentStatus.model_validate(agent_status(agent_id, "completed", 9))
    for stranger in (spoke_peer(instance="build-2"), spoke_peer(connection=PEER.connection + 1)):
        assert await stored.agents.record(stranger, [Settlement(agent_id, "event", agent=agent)], NOW_MS) == [False]
        assert await stored.agents.record(stranger, [settled(agent_id)], NOW_MS) == [False]
    assert await stored.agents.find(agent_id) == before
    assert await stored.waiting() == [agent_id]


@pytest.mark.attack(38)
@pytest.mark.attack(64)
async def test_a_spoke_cannot_fill_the_store_with_agents_of_its_own_making(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.agents.TAKEN_IN", 3)
    asked = numbered_id()
    await stored.outcomes(new_agent(asked))

    def told(agent_id: str, status: str = "completed") -> Settlement:
        return Settlement(agent_id, "event", agent=AgentStatus.model_validate(agent_status(agent_id, status, 9)))

    made_up = [numbered_id() for _ in range(5)]
    events = [told(made_up[0]), told(made_up[0]), *map(told, made_up[1:]), told(asked)]
    assert await stored.agents.record(PEER, events, NOW_MS) == [True, True, True, True, False, False, True]
    assert (await stored.agents.find(asked)).shown == "completed"
    with pytest.raises(NoSuchAgent):
        await stored.agents.find(made_up[4])
    assert await stored.agents.record(PEER, [told(made_up[4])], NOW_MS) == [False]
    other = spoke_peer(instance="build-2")
    assert await stored.agents.record(other, [told(made_up[4])], NOW_MS) == [True], "another spoke's are its own"


def told_with(agent_id: str, size: int, status: str = "completed", seq: int = 9) -> Settlement:
    """An event with a result of about so many bytes."""
    result = {"summary": "x" * size}
    return Settlement(
        agent_id, "event", agent=AgentStatus.model_validate(agent_status(agent_id, status, seq, result=result))
    )


@pytest.mark.attack(64)
async def test_a_spoke_cannot_fill_the_store_with_bytes_about_agents_that_nobody_asked_for(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.agents.TAKEN_IN_BYTES", 10_000)
    record, made_up = stored.agents.record, [numbered_id() for _ in range(4)]
    large = [told_with(agent_id, 4000, "running", 3) for agent_id in made_up[:3]]
    assert await record(PEER, large, NOW_MS) == [True, True, False]
    # One that is there does not grow past it, but may shrink, which makes room.
    assert await record(PEER, [told_with(made_up[0], 8000, "running", 4)], NOW_MS) == [False]
    assert await record(PEER, [told_with(made_up[0], 10, "running", 5), large[2]], NOW_MS) == [True, True]
    assert await record(PEER, [told_with(made_up[3], 2000)], NOW_MS) == [False]
    # What it was asked for is another matter, and so is another spoke.
    asked = numbered_id()
    await stored.outcomes(new_agent(asked))
    assert await record(PEER, [told_with(asked, 20_000)], NOW_MS) == [True]
    assert await record(spoke_peer(instance="build-2"), [told_with(made_up[3], 2000)], NOW_MS) == [True]
    # Forgetting makes room.
    assert await record(PEER, [told_with(made_up[1], 4000)], NOW_MS) == [True]
    await ScriptSet("hub")["prune"](stored.client, [stored.keys.prefix], ["-inf", 0, 100])
    assert await record(PEER, [told_with(made_up[3], 2000)], NOW_MS) == [True]
    kept = await stored.client.hget(f"{stored.keys.prefix}peer:{PEER.tenant}", "taken_bytes")
    lengths = [
        await stored.client.hstrlen(stored.keys.agent(agent_id), "agent")
        for agent_id in (made_up[0], made_up[2], made_up[3])
    ]
    # made_up[3] was told by the other spoke first, and forgotten with it.
    assert int(kept or 0) == sum(lengths)


@pytest.mark.attack(64)
async def test_what_is_kept_of_one_agent_is_bounded_and_its_delivery_counts_all_the_same(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.agents.STATUS_BYTES", 5000)
    agent_id = numbered_id()
    await stored.outcomes(new_agent(agent_id))
    reply = told_with(agent_id, 6000)
    delivered = Settlement(agent_id, "delivered", agent_id, agent=reply.agent)
    assert await stored.agents.record(PEER, [delivered], NOW_MS) == [False]
    found = await stored.agents.find(agent_id)
    assert (found.delivery["state"], found.shown) == ("delivered", "pending")
    assert await stored.waiting() == []
    assert await stored.agents.record(PEER, [told_with(agent_id, 3000)], NOW_MS) == [True]
    assert (await stored.agents.find(agent_id)).shown == "completed"


@pytest.mark.attack(64)
async def test_a_spoke_that_sends_too_fast_is_told_so(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.agents.RATE_PER_S", 2)

    def mark(issuer: str = PEER.instance) -> ReplayMark:
        return ReplayMark.of(Claims.model_validate(claims(iss=issuer, jti=numbered_id())), NOW_MS)

    async def until_refused(take: Callable[[ReplayMark], Awaitable[Any]]) -> str:
        for _ in range(1000):  # a slow machine may need a few: three have to come within a second
            sent = mark()
            try:
                await take(sent)
            except RateLimited:
                return f"{stored.keys.prefix}replay:{sent.name}"
        raise AssertionError("never refused")

    for take in (stored.agents.mark, lambda sent: stored.agents.record(PEER, [], NOW_MS, sent)):
        assert not await stored.client.exists(await until_refused(take))
    await stored.agents.mark(mark("build-2"))
    rate: Any = {"since": int(time.time() * 1000) + 3_600_000, "used": 9}  # as a clock that was set back leaves it
    await stored.client.hset(f"{stored.keys.prefix}rate:{PEER.instance}", mapping=rate)
    await stored.agents.mark(mark())


@pytest.mark.attack(64)
async def test_envelopes_are_counted_from_the_first_one_for_a_second(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.agents.RATE_PER_S", 2)
    key = f"{stored.keys.prefix}rate:{PEER.instance}"

    async def now_ms() -> int:
        seconds, micros = await stored.client.time()
        return seconds * 1000 + micros // 1000

    async def count_one() -> tuple[int, int]:
        while True:  # a machine may be so slow that the count is over before it is read
            sent = Claims.model_validate(claims(iss=PEER.instance, jti=numbered_id()))
            await stored.agents.mark(ReplayMark.of(sent, NOW_MS))
            since, used = await stored.client.hmget(key, ["since", "used"])
            if since:
                return int(since), int(used or 0)

    before = await now_ms()
    since, used = await count_one()
    assert before <= since <= await now_ms()
    assert used == 1
    assert await stored.client.pttl(key) != -1, "it is not kept for ever"
    over = await now_ms() - 1000
    await stored.client.hset(key, mapping={"since": over, "used": 2})
    since, used = await count_one()
    assert (since >= over + 1000, used) == (True, 1), "that second is over"


async def test_a_replay_mark_is_taken_once_and_expires_after_the_window(stored: Stored) -> None:
    mark = ReplayMark.of(Claims.model_validate(claims()), NOW_MS)
    assert await stored.agents.record(PEER, [], NOW_MS, mark) == []
    for again in (stored.agents.record(PEER, [], NOW_MS, mark), stored.agents.mark(mark)):
        with pytest.raises(EnvelopeRejected) as refusal:
            await again
        assert refusal.value.code == "replayed"
    life_ms = await stored.client.pttl(f"{stored.keys.prefix}replay:{mark.name}")
    # 60 s of life, 60 s of skew, 60 s of margin.
    assert 170_000 < life_ms <= 180_000


async def test_expired_is_shown_and_a_late_sign_of_life_wins(stored: Stored) -> None:
    agent_id = numbered_id()
    await stored.outcomes(new_agent(agent_id, deadline_ms=NOW_MS))
    assert await stored.outbox.expire(NOW_MS - 1) == []
    assert await stored.outbox.expire(NOW_MS) == [agent_id]
    record = await stored.agents.find(agent_id)
    assert (record.shown, record.status, record.delivery["state"]) == ("expired", "pending", "expired")
    change = (await stored.feed.read("0-0"))[-1]
    assert (change.agent_id, change.spoke, change.task_id) == (agent_id, PEER.instance, "T-1")
    assert (change.status, change.seq, change.delivery, change.reason) == ("expired", 0, "expired", "expired")
    await stored.agents.record(PEER, [settled(agent_id)], NOW_MS)
    record = await stored.agents.find(agent_id)
    assert (record.shown, record.delivery["state"]) == ("queued", "delivered")


@pytest.mark.slow
async def test_listing_stays_quick_at_a_hundred_thousand(stored: Stored) -> None:
    for _ in range(99):
        batch = [new_agent(numbered_id(), spoke="busy" if number % 2 else "build-1") for number in range(1000)]
        await stored.outbox.enqueue(batch, NOW_MS)
    rare = numbered_id()
    await stored.outcomes(new_agent(rare, task_id="rare"))
    for wanted in (Filter(), Filter(spoke="busy", status="pending"), Filter(spoke="build-1", task_id="rare")):
        started = time.monotonic()
        found, _ = await stored.agents.page(wanted, 100)
        assert found
        assert time.monotonic() - started < 0.5


async def test_a_page_ends_with_its_budget_and_goes_on_from_there(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.agents._SCAN_BUDGET", 10)
    wanted = numbered_id()
    await stored.outcomes(new_agent(wanted, task_id="rare"), new_agent(numbered_id(), spoke="other", task_id="rare"))
    filler = [new_agent(numbered_id(), spoke="other" if number % 2 else "build-1") for number in range(60)]
    await stored.outcomes(*filler)
    found: list[str] = []
    cursor, pages = "", 0
    while True:
        records, cursor = await stored.agents.page(Filter(spoke="build-1", status="pending"), 100, cursor)
        found += [record.agent_id for record in records]
        pages += 1
        if not cursor:
            break
    assert pages > 2
    assert found == sorted(found, reverse=True)
    assert len(found) == 31
    # By the index with the fewest: the oldest of all is found without a look at the others.
    for filters in (Filter(spoke="build-1", task_id="rare"), Filter(spoke="build-1", status="pending", task_id="rare")):
        records, cursor = await stored.agents.page(filters, 100)
        assert ([record.agent_id for record in records], cursor) == ([wanted], "")


@pytest.mark.attack(41)
async def test_a_page_is_bounded_in_bytes_and_goes_on_from_there(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = [new_agent(numbered_id()) for _ in range(7)]
    await stored.outcomes(*agents)
    command = await stored.client.hstrlen(stored.keys.agent(agents[0].agent_id), "command")
    monkeypatch.setattr("hub.agents.PAGE_BYTES", 3 * command)
    sizes: list[int] = []
    found: list[str] = []
    cursor = ""
    while not sizes or cursor:
        records, cursor = await stored.agents.page(Filter(), 100, cursor)
        sizes.append(len(records))
        found += [record.agent_id for record in records]
    assert sizes == [3, 3, 1]
    assert found == sorted((agent.agent_id for agent in agents), reverse=True)
    monkeypatch.setattr("hub.agents.PAGE_BYTES", 1)
    assert len((await stored.agents.page(Filter(), 100))[0]) == 1, "a page without anything would never end"
    await stored.agents.record(PEER, [settled(agents[0].agent_id)], NOW_MS)
    monkeypatch.setattr("hub.agents.PAGE_BYTES", 2 * command)
    records, _ = await stored.agents.page(Filter(), 100, agents[2].agent_id)
    assert [record.agent_id for record in records] == [agents[1].agent_id], "what the spoke said counts as well"


# --- the stream


async def test_the_feed_wakes_who_waits_and_tells_a_gap(stored: Stored) -> None:
    assert await stored.feed.last_id() == "0-0"
    assert not await stored.feed.has_gap("0-0")
    assert await stored.feed.has_gap("5-0")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(stored.feed.run())
        changed = stored.feed.changed
        async with asyncio.timeout(10):
            while not changed.is_set():
                await stored.outcomes(new_agent(numbered_id()))
                await stored.feed.wait(changed, 0.1)
        task.cancel()
    first = (await stored.feed.read("0-0"))[0]
    await stored.outcomes(new_agent(numbered_id()))
    assert not await stored.feed.has_gap("0-1")
    await stored.client.xtrim(stored.keys.events, maxlen=1, approximate=False)
    assert await stored.feed.has_gap("0-1")
    assert not await stored.feed.has_gap(await stored.feed.last_id())
    assert await stored.feed.has_gap("9999999999999-0")  # of a store that is gone
    assert first.status == "pending"


@pytest.mark.attack(59)
async def test_hostile_texts_are_only_values(stored: Stored) -> None:
    hostile = "\"'\r\n*1\r\n$8\r\nFLUSHALL\r\n'); redis.call('FLUSHALL') --"
    agent_id = numbered_id()
    await stored.outcomes(new_agent(agent_id, task_id=hostile))
    agent = AgentStatus.model_validate(agent_status(agent_id, "failed", 2, reason=hostile))
    await stored.agents.record(PEER, [Settlement(agent_id, "event", agent=agent)], NOW_MS)
    refused = numbered_id()
    await stored.outcomes(new_agent(refused))
    error = shown_error(hostile, hostile, retryable=False)
    await stored.agents.record(PEER, [settled(refused, "refused", error=error)], NOW_MS)
    assert (await stored.agents.find(agent_id)).to_view()["reason"] == hostile
    assert (await stored.agents.find(refused)).delivery["lastError"] == error
    assert [found.agent_id for found in (await stored.agents.page(Filter(task_id=hostile), 10))[0]] == [agent_id]
