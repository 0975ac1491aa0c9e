"""Events of a running spoke: every transition, at least once, in order, whatever happens on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.valkey import connect
from tests.peer import HubPeer, new_id
from tests.spoke_node import Go, SpokeNode, eventually, run_in_process

WHOLE_LIFE = ["queued", "spawning", "running", "completed"]


def firsts(hub: HubPeer, agent_id: str) -> list[dict[str, Any]]:
    """The events of an agent without those that came a second time."""
    found: dict[int, dict[str, Any]] = {}
    for event in hub.events_of(agent_id):
        assert found.setdefault(event["seq"], event) == event, "a repeated event is the same"
    return list(found.values())


async def pending(node: SpokeNode, hub: HubPeer) -> int:
    async with connect(node.directory / "valkey") as client:
        keys: Any = await client.keys(f"hs:{{{node.id}}}:events:{hub.id}_*")
        return sum([await client.xlen(key) for key in keys])


async def test_every_transition_is_told_in_order_and_then_forgotten(node: SpokeNode, origin: Path) -> None:
    hub = HubPeer()
    async with hub.taking_events(node):
        hub.register(node)
        spawns = [hub.spawn(origin, "print x") for _ in range(5)]
        await hub.send(node, *spawns)
        for spawn in spawns:
            ended = await hub.saw(spawn["id"], "completed")
            events = firsts(hub, spawn["id"])
            assert [event["status"] for event in events] == WHOLE_LIFE
            assert [event["seq"] for event in events] == [1, 2, 3, 4]
            status = (await hub.ask(node, hub.about("status", spawn["id"])))["agent"]
            assert {name: ended[name] for name in status} == status

        async def acknowledged() -> bool:
            return await pending(node, hub) == 0

        await eventually(acknowledged, "all are acknowledged")


@pytest.mark.fault(17)
async def test_an_absent_hub_gets_everything_when_it_is_back_also_over_a_restart(node: SpokeNode, origin: Path) -> None:
    hub = HubPeer()
    async with hub.taking_events(node):
        hub.register(node)
    spawns = [hub.spawn(origin, "print x") for _ in range(3)]
    await hub.send(node, *spawns)
    for spawn in spawns:
        await node.until_ended(spawn["id"])
    await eventually(lambda: len(node.log_lines("events.not_delivered")) > 1, "it has been tried")
    assert await pending(node, hub) == 12
    await node.kill9()
    await node.restart()
    async with hub.taking_events(node):
        for spawn in spawns:
            await hub.saw(spawn["id"], "completed")
            assert [event["status"] for event in firsts(hub, spawn["id"])] == WHOLE_LIFE


async def test_a_hub_that_fails_gets_them_again(node: SpokeNode, origin: Path) -> None:
    hub = HubPeer(refuse_with=503)
    async with hub.taking_events(node):
        hub.register(node)
        await hub.ask(node, spawn := hub.spawn(origin))
        await eventually(lambda: hub.received >= 2, "it is tried again")
        hub.refuse_with = None
        await hub.saw(spawn["id"], "completed")
        assert [event["status"] for event in firsts(hub, spawn["id"])] == WHOLE_LIFE


@pytest.mark.parametrize("retryable", [True, False])
async def test_an_event_that_is_refused_for_good_is_not_sent_again(
    node: SpokeNode, origin: Path, retryable: bool
) -> None:
    hub = HubPeer(error={"code": "not_found", "detail": "no such agent", "retryable": retryable})
    async with hub.taking_events(node):
        hub.register(node)
        await hub.ask(node, spawn := hub.spawn(origin))
        await node.until_ended(spawn["id"])
        if retryable:
            await eventually(lambda: [each["seq"] for each in hub.events_of(spawn["id"])].count(1) > 1, "sent again")
            hub.error = None

        async def settled() -> bool:
            return await pending(node, hub) == 0

        await eventually(settled, "nothing is left")
        await eventually(lambda: node.log_lines("events.refused"), "the operator is told")


async def test_one_hub_that_is_away_delays_no_other(node: SpokeNode, origin: Path) -> None:
    away, here = HubPeer("hub-away", seed=7, url="http://127.0.0.1:9"), HubPeer("hub-here", seed=8)
    async with here.taking_events(node):
        away.register(node)
        here.register(node)
        await away.ask(node, away.spawn(origin))
        await here.ask(node, spawn := here.spawn(origin))
        await here.saw(spawn["id"], "completed")


async def test_a_suspended_hub_hears_nothing_until_it_is_resumed(node: SpokeNode, origin: Path, go: Go) -> None:
    hub, other = HubPeer(), HubPeer("hub-other", seed=8)
    async with hub.taking_events(node), other.taking_events(node):
        hub.register(node)
        other.register(node)
        await hub.ask(node, spawn := hub.spawn(origin, f"wait {go}"))
        await hub.saw(spawn["id"], "running")
        run_in_process(node.directory, "peer", "suspend", hub.id)
        go.now()
        await node.until_ended(spawn["id"])
        await other.ask(node, later := other.spawn(origin))
        await other.saw(later["id"], "completed")
        assert [event["status"] for event in firsts(hub, spawn["id"])] == WHOLE_LIFE[:3]
        run_in_process(node.directory, "peer", "resume", hub.id)
        await hub.saw(spawn["id"], "completed")


@pytest.mark.attack(61)
async def test_an_event_that_no_script_wrote_holds_no_other_up(node: SpokeNode, origin: Path) -> None:
    hub = HubPeer()
    async with hub.taking_events(node):
        hub.register(node)
        async with connect(node.directory / "valkey") as client:
            for fields in ({"id": "x"}, {"id": new_id(), "status": "completed", "seq": "one"}):
                await client.xadd(f"hs:{{{node.id}}}:events:{hub.id}_1", fields)  # type: ignore[arg-type]
            odd = {"id": new_id(), "task": "T-1", "type": "worker", "status": "queued", "seq": "\u0663", "attempt": "0"}
            granted = {"priority": "5", "timeout": "60", "max_attempts": "1", "queued_at": "1795000000000"}
            # Python takes the digit for a three.
            await client.xadd(f"hs:{{{node.id}}}:events:{hub.id}_1", {**odd, **granted})  # type: ignore[dict-item]
        await hub.ask(node, spawn := hub.spawn(origin))
        await hub.saw(spawn["id"], "completed")
        assert {event["agentId"] for event in hub.events} == {spawn["id"], odd["id"]}
        assert len(node.log_lines("events.unreadable")) == 2


async def test_what_an_operator_does_is_told_to_the_hub(node: SpokeNode, origin: Path) -> None:
    hub = HubPeer()
    async with hub.taking_events(node):
        hub.register(node)
        await hub.ask(node, spawn := hub.spawn(origin, "sleep 60"))
        await node.started(spawn["id"])
        await node.call("POST", f"/agents/{spawn['id']}/kill", {"graceS": 0, "reason": "maintenance"})
        event = await hub.saw(spawn["id"], "killed")
        assert (event["reason"], event["receipt"]["survivors"]) == ("killed_by_operator", 0)
