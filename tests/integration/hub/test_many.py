"""Many agents in one request: started where labels and load say, stopped by task, by spoke or all."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from common.trust_store import NewPeer
from hub.api.many_models import KillManyView, PlacedView
from tests.integration.hub.hub_node import HUB, HubNode, spawn_request
from tests.integration.hub.standin_spoke import StandinSpoke, error, new_id
from tests.integration.hub.test_cli import REPO, until_agent
from tests.integration.hub.test_freezing import latch, let_latch, until
from tests.spoke_node import eventually

PLACE, KILL = "/api/v1/agents/place", "/api/v1/agents/kill"


@pytest.fixture
def own(tmp_path: Path) -> Any:
    """A hub of this test alone: it asks for all spokes."""
    with HubNode(tmp_path) as hub:
        yield hub


@pytest.fixture
async def three(own: HubNode) -> AsyncIterator[list[StandinSpoke]]:
    """Three spokes of it; the first two are in the label `region=eu`."""
    async with (
        StandinSpoke(own, registered=False) as first,
        StandinSpoke(own, registered=False) as second,
        StandinSpoke(own, registered=False) as third,
    ):
        spokes = [first, second, third]
        with own.trust() as store:
            for spoke, region in zip(spokes, ("eu", "eu", "us"), strict=True):
                new = NewPeer(spoke.id, "spoke", spoke.key.public, spoke.url, {"region": region})
                store.add(new, "active", int(time.time()))
        yield spokes


def batch(**members: Any) -> dict[str, Any]:
    request = spawn_request("nobody", taskId="T-many")
    del request["spoke"]
    return {**request, **members}


def shown(model: Any, value: Any) -> None:
    """Assert that an answer is what the OpenAPI document says."""
    model.model_validate(value)


async def placed(own: HubNode, **members: Any) -> dict[str, Any]:
    status, answer = await own.call("POST", PLACE, batch(**members))
    assert status == 202, answer
    shown(PlacedView, answer)
    found: dict[str, Any] = answer
    return found


def on(answer: dict[str, Any]) -> Counter[str]:
    return Counter(each["spoke"] for each in answer["agents"])


async def test_one_on_every_active_spoke_or_on_those_with_a_label(own: HubNode, three: list[StandinSpoke]) -> None:
    first, second, third = three
    assert on(await placed(own)) == {each.id: 1 for each in three}
    assert on(await placed(own, labels={"region": "eu"})) == {first.id: 1, second.id: 1}
    own.set_state(first.id, "suspended")
    answer = await placed(own)
    assert on(answer) == {second.id: 1, third.id: 1}
    for each in answer["agents"]:
        await own.until_delivery(each["agentId"], "delivered")


async def test_a_count_goes_where_there_is_least_to_do(own: HubNode, three: list[StandinSpoke]) -> None:
    first, second, third = three
    for _ in range(3):
        await own.spawn(first.id)
    assert on(await placed(own, count=6)) == {second.id: 3, third.id: 3}
    assert on(await placed(own, count=2, labels={"region": "us"})) == {third.id: 2}
    assert on(await placed(own, count=2, spoke=first.id)) == {first.id: 2}
    ended = await placed(own, count=1, spoke=second.id)
    agent_id = ended["agents"][0]["agentId"]
    await own.until_delivery(agent_id, "delivered")
    _, before = await own.call("GET", f"/api/v1/agents?spoke={second.id}&limit=10")
    for agent in before["agents"]:
        await own.until_delivery(agent["agentId"], "delivered")
        await second.report(second.advance(agent["agentId"], "completed"))
    assert on(await placed(own, count=2)) == {second.id: 2}, "what has ended does not count"


async def test_a_frozen_spoke_and_one_that_is_away_are_passed_over(own: HubNode, three: list[StandinSpoke]) -> None:
    frozen, away, good = three
    let_latch(frozen)
    await latch(own, frozen, "freeze")
    await until(own, frozen, "delivered")
    await away.down()
    await own.spawn(away.id)

    async def failing() -> bool:
        _, view = await own.call("GET", f"/api/v1/peers/{away.id}")
        return bool(view["failures"])

    await eventually(failing, "the hub knows that it is away")
    assert on(await placed(own, count=3)) == {good.id: 3}


async def test_a_repeated_request_finds_the_same_agents(own: HubNode, three: list[StandinSpoke]) -> None:
    for members in ({}, {"count": 4}):
        batch_id = new_id()
        before = await placed(own, batchId=batch_id, **members)
        await own.spawn(three[0].id)
        after = await placed(own, batchId=batch_id, **members)
        name = [(each["agentId"], each["spoke"]) for each in before["agents"]]
        assert name == [(each["agentId"], each["spoke"]) for each in after["agents"]]
        other = batch(batchId=batch_id, **members, priority=1)
        status, refused = await own.call("POST", PLACE, other)
        assert (status, refused["code"]) == (409, "all_refused")
        assert {each["error"]["code"] for each in refused["agents"]} == {"conflict"}


async def test_what_is_not_taken_is_named_with_its_spoke(tmp_path: Path) -> None:
    with HubNode(tmp_path, toml="[outbox]\nlimit = 1\n") as own:
        async with StandinSpoke(own) as full, StandinSpoke(own) as good:
            await full.down()
            await own.spawn(full.id)
            answer = await placed(own)
            assert (answer["accepted"], answer["refused"]) == (1, 1)
            by_spoke = {each["spoke"]: each for each in answer["agents"]}
            assert by_spoke[full.id]["error"]["code"] == "queue_full"
            assert by_spoke[good.id]["agentId"]


WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "nobody has the label": ({"labels": {"region": "mars"}}, 409, "no_spoke"),
    "an unknown spoke": ({"spoke": "nobody", "count": 1}, 404, "not_found"),
    "too many": ({"count": 1001}, 400, "invalid"),
    "none": ({"count": 0}, 400, "invalid"),
    "an unknown member": ({"color": "red"}, 400, "invalid"),
}


@pytest.mark.parametrize(("members", "status", "code"), WRONG.values(), ids=WRONG.keys())
async def test_a_wrong_request_starts_nothing(
    node: HubNode, spoke: StandinSpoke, members: dict[str, Any], status: int, code: str
) -> None:
    answered, problem = await node.call("POST", PLACE, batch(**members))
    assert (answered, problem["code"]) == (status, code)
    _, listed = await node.call("GET", f"/api/v1/agents?spoke={spoke.id}")
    assert listed["agents"] == []


# --- stopping


async def kill(own: HubNode, **selector: Any) -> dict[str, Any]:
    status, answer = await own.call("POST", KILL, selector)
    assert status == 202, answer
    shown(KillManyView, answer)
    found: dict[str, Any] = answer
    return found


async def killed(agent_id: str, *spokes: StandinSpoke) -> None:
    await eventually(lambda: any(spoke.sent(agent_id, "kill") for spoke in spokes), "its kill comes")


async def test_kills_of_a_task_of_a_spoke_and_of_all(own: HubNode, three: list[StandinSpoke]) -> None:
    first, second, third = three
    of_task = [await own.spawn(each.id, taskId="T-kill") for each in (first, second)]
    of_first, of_third = await own.spawn(first.id), await own.spawn(third.id)
    ended = await own.spawn(first.id, taskId="T-kill")
    await own.until_delivery(ended, "delivered")
    await first.report(first.advance(ended, "completed"))
    answer = await kill(own, taskId="T-kill", reason="enough")
    assert {each["agentId"] for each in answer["agents"]} == set(of_task)
    assert (answer["accepted"], answer["refused"]) == (2, 0)
    for agent_id in of_task:
        await killed(agent_id, first, second)
    assert {each["agentId"] for each in (await kill(own, spoke=third.id, taskId="T-kill"))["agents"]} == set()
    assert {each["agentId"] for each in (await kill(own, spoke=third.id))["agents"]} == {of_third}
    assert of_first in {each["agentId"] for each in (await kill(own, all=True))["agents"]}
    await eventually(lambda: first.sent(of_first, "kill"), "the last one is killed")
    assert first.sent(ended, "kill") == 0


async def test_what_cannot_be_killed_is_named_and_the_others_are(own: HubNode, three: list[StandinSpoke]) -> None:
    first, second, _ = three
    agents = {each.id: await own.spawn(each.id) for each in (first, second)}
    for agent_id in agents.values():
        await own.until_delivery(agent_id, "delivered")
    own.set_state(second.id, "suspended")
    answer = await kill(own, all=True)
    assert (answer["accepted"], answer["refused"]) == (1, 1)
    by_spoke = {each["spoke"]: each for each in answer["agents"]}
    assert by_spoke[second.id]["error"]["code"] == "connection_inactive"
    assert by_spoke[first.id]["commandId"] is not None
    await eventually(lambda: first.sent(agents[first.id], "kill"), "it is killed")


async def test_more_than_a_page_is_killed(own: HubNode, three: list[StandinSpoke]) -> None:
    await three[0].down()
    for _ in range(2):
        await placed(own, spoke=three[0].id, count=600)
    answer = await kill(own, spoke=three[0].id)
    assert answer["accepted"] == 1200
    assert len({each["agentId"] for each in answer["agents"]}) == 1200
    again = await kill(own, spoke=three[0].id)
    assert {each["commandId"] for each in again["agents"]} == {each["commandId"] for each in answer["agents"]}


@pytest.mark.parametrize("selector", [{}, {"all": False}, {"all": True, "spoke": "build-1"}, {"color": 1}], ids=str)
async def test_a_kill_says_what_it_means(node: HubNode, selector: dict[str, Any]) -> None:
    status, problem = await node.call("POST", KILL, selector)
    assert (status, problem["code"]) == (400, "invalid")


# --- the command line


async def test_spawn_all_prints_each_agent_and_waits_for_all(own: HubNode, three: list[StandinSpoke]) -> None:
    own_task = asyncio.create_task(own.hub("spawn", "--label", "region=eu", *REPO, "--wait", "--task", "T-9"))
    for spoke, end in zip(three[:2], ("completed", "failed"), strict=True):
        agent_id = await until_agent(spoke)
        await spoke.report(spoke.advance(agent_id, end, reason=None if end == "completed" else "exit_nonzero"))
    done = await own_task
    assert done.returncode == 1
    assert {line.split()[1] for line in done.stdout.splitlines()} == {spoke.id for spoke in three[:2]}
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["1 of 2 ended", "2 of 2 ended"]
    assert three[2].agents == {}


async def test_spawn_count_and_kill_by_the_command_line(own: HubNode, three: list[StandinSpoke]) -> None:
    done = await own.hub("spawn", "--count", "6", *REPO, "--task", "T-8", "--json")
    assert done.returncode == 0, done.stderr
    assert on(json.loads(done.stdout)) == {spoke.id: 2 for spoke in three}
    done = await own.hub("spawn", "--all", *REPO)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 3)
    done = await own.hub("kill", "--task", "T-8")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 6)
    assert done.stderr == "6 will be stopped, 0 refused\n"
    for spoke in three[1:]:
        own.set_state(spoke.id, "suspended")
    done = await own.hub("kill", "--all", "--json")
    answer = json.loads(done.stdout)
    assert done.returncode == (1 if answer["refused"] else 0)
    assert answer["accepted"] >= 1


ASKED: dict[str, tuple[tuple[str, ...], bytes, int, int]] = {
    "no": (("kill", "--all"), b"n\n", 130, 0),
    "yes": (("kill", "--all"), b"y\n", 0, 1),
    "not asked": (("kill", "--all", "--yes"), b"", 0, 1),
    "freeze, no": (("freeze", "--all", "--kill"), b"n\n", 130, 0),
}


@pytest.mark.parametrize(("arguments", "typed", "status", "kills"), ASKED.values(), ids=ASKED.keys())
async def test_all_is_asked_for_on_a_terminal(
    own: HubNode, arguments: tuple[str, ...], typed: bytes, status: int, kills: int
) -> None:
    async with StandinSpoke(own) as spoke:
        agent_id = await own.spawn(spoke.id)
        await own.until_delivery(agent_id, "delivered")
        terminal, ours = os.openpty()
        try:
            process = await asyncio.create_subprocess_exec(
                str(HUB), "--dir", str(own.directory), *arguments, stdin=ours, stdout=PIPE, stderr=PIPE
            )
            os.write(terminal, typed)
            _, complaint = await process.communicate()
        finally:
            os.close(terminal)
            os.close(ours)
        assert process.returncode == status, complaint
        assert (b"[y/N]" in complaint) == bool(typed)
        if kills:
            await killed(agent_id, spoke)
        assert len([each for each in spoke.commands if each["command"] != "spawn"]) == kills


@pytest.mark.parametrize(
    "arguments",
    [
        ("kill",),
        ("kill", new_id(), "--all"),
        ("kill", "--all", "--task", "T-1"),
        ("kill", "--spoke", "../x"),
        ("spawn", *REPO),
        ("spawn", "build-1", "--all", *REPO),
        ("spawn", "--all", "--count", "2", *REPO),
        ("spawn", "--all", "--follow", *REPO),
        ("spawn", "--label", "region", *REPO),
        ("freeze", "../agents"),
    ],
)
async def test_usage(node: HubNode, arguments: tuple[str, ...]) -> None:
    assert (await node.hub(*arguments)).returncode == 2


async def test_a_refused_spawn_of_many_is_an_exit_of_1(own: HubNode, three: list[StandinSpoke]) -> None:
    three[0].answers["spawn"] = error("not_allowed")
    done = await own.hub("spawn", three[0].id, "--count", "1", *REPO, "--wait")
    assert (done.returncode, done.stderr.split()[-1]) == (1, "refused")
