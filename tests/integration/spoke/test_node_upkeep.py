"""What the operator of a spoke does about it: dead letters, pause, drain, stop, sweep; with the real command line."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from spoke.supervision import linux
from tests.peer import HubPeer
from tests.spoke_node import SpokeNode, eventually, processes_of, tables

NewHub = Callable[[SpokeNode], HubPeer]


async def run(node: SpokeNode, *arguments: str) -> Any:
    """Run a command that succeeds and return its JSON."""
    done = await node.spoke(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def refused(node: SpokeNode, *arguments: str) -> str:
    """Run a command that is refused and return its code."""
    done = await node.spoke(*arguments)
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.startswith("error: ")
    return done.stderr.split(": ")[1]


def pids_named(node: SpokeNode, name: str) -> list[int]:
    return [pid for pid in processes_of(node.directory) if Path(f"/proc/{pid}/comm").read_text().strip() == name]


# --- dead letters


async def exhausted(node: SpokeNode, hub: HubPeer, origin: Path, *items: str) -> str:
    """Run an agent into `attempts_exhausted`: each attempt loses its keeper."""
    spawn = hub.spawn(origin, *items, maxAttempts=2)
    await hub.ask(node, spawn)
    for attempt in (1, 2):
        await eventually(lambda attempt=attempt: len(node.executions(spawn["id"])) == attempt, f"attempt {attempt}")  # type: ignore[misc]
        (keeper,) = pids_named(node, "hubspoke-keeper")
        os.kill(keeper, signal.SIGKILL)
    agent = await node.until_ended(spawn["id"])
    assert (agent["status"], agent["reason"]) == ("failed", "attempts_exhausted")
    return str(spawn["id"])


@pytest.mark.fault(23)
async def test_a_dead_letter_is_found_and_requeued_by_hand(
    node: SpokeNode, origin: Path, new_hub: NewHub, tmp_path: Path
) -> None:
    hub = HubPeer("hub-dead", seed=9)
    async with hub.taking_events(node):
        hub.register(node)
        go_on = tmp_path / "go-on"
        dead = await exhausted(node, hub, origin, f"wait {go_on}", "commit done.txt")
        go_on.touch()
        other = hub.spawn(origin, "exit 3", taskId="T-2")
        await hub.ask(node, other)
        await node.until_ended(other["id"])

        listed = await run(node, "agent", "list", "--status", "failed", "--reason", "attempts_exhausted")
        assert [row["agentId"] for row in listed] == [dead]
        before = await hub.ask(node, hub.about("status", dead))
        again = await run(node, "agent", "requeue", dead)
        assert (again["origin"], again["taskId"], again["peer"]) == (dead, "T-1", hub.id)
        assert again["agentId"] != dead

        # The hub hears of the new agent, and of the old one nothing that it did not know.
        told = await hub.saw(again["agentId"], "completed")
        assert [commit["subject"] for commit in told["result"]["commits"]] == ["add done.txt"]
        after = (await hub.ask(node, hub.about("status", dead)))["agent"]
        assert after == before["agent"]
        assert (await node.agent(dead))["requeuedAs"] == again["agentId"]
        assert len(node.executions(again["agentId"])) == 1

        assert await refused(node, "agent", "requeue", dead) == "conflict"
        assert await refused(node, "agent", "requeue", again["agentId"]) == "invalid"
        log = await hub.ask(node, hub.about("logs", again["agentId"]))
        assert "error" not in log


async def test_the_coordinator_s_own_agents_are_requeued_too(node: SpokeNode, origin: Path, tmp_path: Path) -> None:
    context = {"repository": f"file://{origin}", "branch": "main", "workItems": [f"wait {tmp_path / 'x'}"]}
    body = {"taskId": "T-9", "agentType": "worker", "context": context}
    status, spawned = await node.call("POST", "/agents/spawn", body)
    assert status == 201
    await node.until(spawned["agentId"], "running")
    assert await refused(node, "agent", "requeue", spawned["agentId"]) == "invalid"
    await run(node, "agent", "kill", spawned["agentId"], "--grace", "0")
    await node.until(spawned["agentId"], "killed")
    (tmp_path / "x").touch()
    again = await run(node, "agent", "requeue", spawned["agentId"])
    assert (await node.until_ended(again["agentId"]))["status"] == "completed"


async def test_requeueing_what_is_not_there(node: SpokeNode) -> None:
    absent = "0199a0b1-0000-7000-8000-000000000001"
    assert await refused(node, "agent", "requeue", absent) == "not_found"


async def test_the_work_of_a_hub_that_is_gone_is_not_requeued(node: SpokeNode, origin: Path, new_hub: NewHub) -> None:
    hub = new_hub(node)
    spawn = hub.spawn(origin, "exit 3")
    await hub.ask(node, spawn)
    await node.until_ended(spawn["id"])
    await run(node, "peer", "revoke", hub.id)
    hub.register(node)
    assert await refused(node, "agent", "requeue", spawn["id"]) == "conflict"
    assert len(await node.agents()) == 1


LISTED = {
    "status=failed": ["T-fail"],
    "reason=exit_nonzero": ["T-fail"],
    "type=reviewer": ["T-review"],
    "task=T-fine": ["T-fine"],
    "status=completed&type=worker": ["T-fine"],
    "peer=nobody": [],
    "limit=1": ["T-review"],
    "": ["T-review", "T-fail", "T-fine"],
}


async def test_agents_are_listed_by_what_they_are(node: SpokeNode, origin: Path, new_hub: NewHub) -> None:
    hub = new_hub(node)
    work = [("T-fine", "print x", "worker"), ("T-fail", "exit 3", "worker"), ("T-review", "look", "reviewer")]
    for task, item, agent_type in work:
        spawn = hub.spawn(origin, item, taskId=task, agentType=agent_type)
        await hub.ask(node, spawn)
        await node.until_ended(spawn["id"])
    found = {query: (await node.call("GET", f"/agents?{query}"))[1]["agents"] for query in LISTED}
    assert {query: [agent["taskId"] for agent in agents] for query, agents in found.items()} == LISTED
    for query in ("status=gone", "reason=bad-luck", "type=cook"):
        status, problem = await node.call("GET", f"/agents?{query}")
        assert (status, problem["code"]) == (400, "invalid"), query


# --- pause and drain


async def test_a_paused_queue_takes_spawns_and_starts_none_until_it_is_resumed(
    node: SpokeNode, origin: Path, new_hub: NewHub
) -> None:
    hub = new_hub(node)
    assert (await run(node, "queue", "pause"))["paused"] is True
    spawn = hub.spawn(origin, "print x")
    answer = await hub.ask(node, spawn)
    assert answer["agent"]["queue"] == {"position": 1, "waitingFor": "paused"}
    await node.restart()
    assert await run(node, "queue") == {"queued": 1, "active": 0, "paused": True, "draining": False}
    assert (await node.agent(spawn["id"]))["queue"] == {"position": 1, "waitingFor": "paused"}
    assert (await run(node, "queue", "resume"))["paused"] is False
    assert (await node.until_ended(spawn["id"]))["status"] == "completed"


async def test_draining_with_a_deadline(node: SpokeNode, origin: Path, new_hub: NewHub, tmp_path: Path) -> None:
    hub = new_hub(node)
    spawn = hub.spawn(origin, f"wait {tmp_path / 'go-on'}")
    await hub.ask(node, spawn)
    await node.until(spawn["id"], "running")
    assert await refused(node, "drain", "--wait", "0") == "still_running"
    late = await hub.ask(node, hub.spawn(origin))
    assert (late["error"]["code"], late["error"]["retryable"]) == ("draining", True)
    (tmp_path / "go-on").touch()
    assert (await run(node, "drain", "--wait", "20"))["active"] == 0
    assert (await run(node, "drain", "--off"))["draining"] is False
    after = hub.spawn(origin)
    await hub.ask(node, after)
    assert (await node.until_ended(after["id"]))["status"] == "completed"
    both = await node.spoke("drain", "--off", "--wait", "1")
    assert both.returncode == 2


async def test_the_operator_sees_which_quota_an_agent_waits_for(tmp_path: Path, origin: Path, new_hub: NewHub) -> None:
    async with SpokeNode(tmp_path, toml=tables(policy={"agents": 1})) as node:
        hub = new_hub(node)
        first = hub.spawn(origin, f"wait {tmp_path / 'go-on'}")
        await hub.ask(node, first)
        await node.until(first["id"], "running")
        second = hub.spawn(origin)
        await hub.ask(node, second)
        for seen in (await node.agent(second["id"]), (await node.agents())[0]):
            assert seen["queue"] == {"position": 1, "waitingFor": "peer_quota"}
        (tmp_path / "go-on").touch()
        await node.until_ended(second["id"])


# --- stopping


@asynccontextmanager
async def silent_server() -> AsyncIterator[str]:
    """Listen and never say a word: whoever fetches from there hangs."""

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/app.git"


@pytest.mark.fault(33)
async def test_a_stop_gives_back_what_was_not_started_and_leaves_what_runs(
    tmp_path: Path, origin: Path, new_hub: NewHub
) -> None:
    async with (
        silent_server() as url,
        SpokeNode(tmp_path, toml=tables(policy={"repositories": ["file:///**", url]})) as node,
    ):
        hub = new_hub(node)
        running = hub.spawn(origin, f"wait {tmp_path / 'go-on'}", "commit done.txt")
        preparing = hub.spawn(url, maxAttempts=1)
        for spawn in (running, preparing):
            await hub.ask(node, spawn)
        await node.until(running["id"], "running")
        await node.until(preparing["id"], "spawning")
        (agent,) = await eventually(lambda: node.executions(running["id"]), "the agent has begun")
        stopping_since = time.monotonic()
        assert await node.terminate() == 0
        assert time.monotonic() - stopping_since < 10
        assert not [line for line in processes_of(node.directory).values() if line.startswith("git")]
        assert linux.stat_of(agent["pid"]) is not None

        await node.restart(tables(limits={"agents": 1}))
        given_back = await node.agent(preparing["id"])
        assert (given_back["status"], given_back["attempt"]) == ("queued", 0)
        (tmp_path / "go-on").touch()
        ended = await node.until_ended(running["id"])
        assert [commit["subject"] for commit in ended["result"]["commits"]] == ["add done.txt"]
        assert len(node.executions(running["id"])) == 1
        await run(node, "agent", "kill", preparing["id"])


@pytest.mark.slow
@pytest.mark.fault(33)
async def test_a_stop_that_something_holds_up_is_cut_off_after_ten_seconds(
    tmp_path: Path, origin: Path, new_hub: NewHub
) -> None:
    async with SpokeNode(tmp_path) as node:
        hub = new_hub(node)
        spawn = hub.spawn(origin, f"wait {tmp_path / 'go-on'}")
        await hub.ask(node, spawn)
        await node.until(spawn["id"], "running")
        (server,) = pids_named(node, "valkey-server")
        os.kill(server, signal.SIGSTOP)
        stopping_since = time.monotonic()
        try:
            await node.terminate()
        finally:
            took_s = time.monotonic() - stopping_since
            os.kill(server, signal.SIGCONT)
        assert took_s < 15
        await node.restart()
        (tmp_path / "go-on").touch()
        assert (await node.until_ended(spawn["id"]))["status"] == "completed"
        assert len(node.executions(spawn["id"])) == 1


# --- sweeping


async def test_gc_removes_what_is_over_and_says_so(node: SpokeNode, origin: Path, new_hub: NewHub) -> None:
    hub = new_hub(node)
    spawn = hub.spawn(origin, "print x")
    await hub.ask(node, spawn)
    await node.until_ended(spawn["id"])
    (agent,) = node.directory.glob("runs/*/*")
    old = agent.parent / "0199a0b1-0000-7000-8000-000000000001"
    (old / "1").mkdir(parents=True)
    for path in (old / "1", old):
        os.utime(path, (1, 1))
    foretold = await run(node, "gc", "--dry-run")
    assert [(row["kind"], row["reason"]) for row in foretold] == [("run", "expired")]
    assert old.exists()
    assert await run(node, "gc") == foretold
    assert not old.exists()
    assert agent.exists()
    assert [line["kind"] for line in node.log_lines("janitor.removed")] == ["run"]
    assert await run(node, "gc") == []
