"""What survives when parts of a spoke die, with real kills: each acknowledged agent starts at most once per attempt.

The record of executions is written by the agents themselves, outside of everything that is killed here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.valkey import connect
from tests.peer import HubPeer
from tests.spoke_node import (
    Go,
    SpokeNode,
    eventually,
    is_alive,
    parent_of,
    processes_of,
    run_in_process,
    tables,
)

NewHub = Callable[[SpokeNode], HubPeer]
NONE_AT_ONCE = tables(limits={"agents": 0})


@pytest.fixture
def hub(node: SpokeNode, new_hub: NewHub) -> HubPeer:
    return new_hub(node)


async def test_the_processes_of_a_spoke_are_found_and_all_end(node: SpokeNode, hub: HubPeer, origin: Path) -> None:
    await hub.ask(node, spawn := hub.spawn(origin, "sleep 60"))
    await node.started(spawn["id"])
    ours = ["hubspoke-keeper", "hubspoke-nurser", "hubspoke-spare", "python3", "spoke", "valkey-server"]
    await eventually(lambda: names_of(node) == ours, "the next keeper waits")
    status = await node.terminate()
    assert status == 0
    await eventually(lambda: names_of(node) == ["hubspoke-keeper", "python3"], "all but the agent ended")


def names_of(node: SpokeNode) -> list[str]:
    names = []
    for pid in node.processes():
        with contextlib.suppress(FileNotFoundError):
            names.append(linux_name(pid))
    return sorted(names)


def linux_name(pid: int) -> str:
    name = Path(f"/proc/{pid}/comm").read_text().strip()
    return "python3" if name.startswith("python") else name


@pytest.mark.fault(5)
@pytest.mark.fault(6)
async def test_kill_9_right_after_the_reply_forgets_nothing(
    node: SpokeNode, hub: HubPeer, origin: Path, tmp_path: Path
) -> None:
    spawns = [hub.spawn(origin, "print done", maxAttempts=3) for _ in range(6)]
    results = await hub.send(node, *spawns)
    await node.kill9()
    assert [result["agent"]["status"] for result in results] == ["queued"] * 6
    await node.restart()
    # A hub that got no reply sends the same commands again.
    again = await hub.send(node, *spawns)
    assert [result["agent"]["agentId"] for result in again] == [spawn["id"] for spawn in spawns]
    for spawn in spawns:
        agent = await node.until_ended(spawn["id"])
        assert agent["status"] == "completed"
        starts = [start["attempt"] for start in node.executions(spawn["id"])]
        assert len(starts) == len(set(starts)) <= agent["attempt"]
        assert starts[-1] == agent["attempt"]


@pytest.mark.fault(5)
@pytest.mark.fault(6)
@pytest.mark.fault(7)
@pytest.mark.slow
async def test_kill_9_at_any_moment_of_many_starts(node: SpokeNode, hub: HubPeer, origin: Path) -> None:
    spawns = [hub.spawn(origin, "commit new.txt", maxAttempts=10) for _ in range(12)]
    await hub.send(node, *spawns)
    for pause_s in (0.02, 0.11, 0.23, 0.05, 0.3):
        await asyncio.sleep(pause_s)  # the point is that nothing is waited for
        await node.kill9()
        await node.restart()
    for spawn in spawns:
        agent = await node.until_ended(spawn["id"])
        assert (agent["status"], len(agent["result"]["commits"])) == ("completed", 1)
        starts = [start["attempt"] for start in node.executions(spawn["id"])]
        assert len(starts) == len(set(starts)), "at most one start for each attempt"
        assert len(starts) == 1, "an agent that was started is adopted, and not started again"
    events = await stored_events(node, spawns[0]["id"])
    assert events.count("completed") == 1


async def stored_events(node: SpokeNode, agent_id: str) -> list[str]:
    """The states of the events that nobody has fetched, straight from Valkey."""
    async with connect(node.directory / "valkey") as client:
        (key,) = await client.keys(f"hs:{{{node.id}}}:events:*")
        entries: Any = await client.xrange(key)
    return [entry[b"status"].decode() for _, entry in entries if entry[b"id"].decode() == agent_id]


@pytest.mark.fault(8)
async def test_an_agent_goes_on_while_its_spoke_is_dead_and_is_adopted(
    node: SpokeNode, hub: HubPeer, origin: Path, go: Go
) -> None:
    spawn = hub.spawn(origin, "print before", f"wait {go}", "print after", "commit new.txt", "exit 0")
    await hub.ask(node, spawn)
    pid = await node.started(spawn["id"])
    await node.kill9()
    assert is_alive(pid)
    await node.restart()
    assert (await node.until(spawn["id"], "running"))["attempt"] == 1
    go.now()
    agent = await node.until_ended(spawn["id"])
    assert (agent["status"], agent["exitCode"], agent["attempt"]) == ("completed", 0, 1)
    assert [commit["subject"] for commit in agent["result"]["commits"]] == ["add new.txt"]
    log = (await hub.ask(node, hub.about("logs", spawn["id"])))["log"]
    assert (log["data"], log["eof"]) == ("before\nafter\n", True)
    assert [start["pid"] for start in node.executions()] == [pid]


@pytest.mark.fault(8)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
async def test_an_agent_that_ends_while_its_spoke_is_away_keeps_its_result(
    node: SpokeNode, hub: HubPeer, origin: Path, go: Go, number: signal.Signals
) -> None:
    spawn = hub.spawn(origin, f"wait {go}", "commit new.txt", 'result {"summary":"alone"}', "exit 3")
    await hub.ask(node, spawn)
    await node.started(spawn["id"])
    await (node.kill9() if number is signal.SIGKILL else node.terminate())
    go.now()
    await eventually(lambda: not processes_of(node.directory), "the agent and its keeper end by themselves")
    await node.restart()
    agent = await node.until_ended(spawn["id"])
    assert (agent["status"], agent["reason"], agent["exitCode"]) == ("failed", "exit_nonzero", 3)
    assert (agent["result"]["summary"], len(agent["result"]["commits"])) == ("alone", 1)
    assert len(node.executions()) == 1


@pytest.mark.fault(8)
async def test_a_kill_reaches_an_agent_that_was_adopted(node: SpokeNode, hub: HubPeer, origin: Path) -> None:
    await hub.ask(node, spawn := hub.spawn(origin, "sleep 60"))
    await node.started(spawn["id"])
    await node.kill9()
    await node.restart()
    await hub.ask(node, hub.about("kill", spawn["id"], graceS=0))
    agent = await node.until_ended(spawn["id"])
    assert (agent["status"], agent["receipt"]["survivors"]) == ("killed", 0)


PROGRESS = {"claimed": "workspaces/mirrors", "prepared": "workspaces/agents/*/*", "started": "runs/*/*/*/keeper.json"}


@pytest.mark.fault(33)
@pytest.mark.parametrize("progress", PROGRESS)
async def test_sigterm_ends_the_spoke_at_once_and_gives_back_what_was_not_started(
    node: SpokeNode, hub: HubPeer, origin: Path, go: Go, progress: str
) -> None:
    spawns = [hub.spawn(origin, f"wait {go}") for _ in range(6)]
    await hub.send(node, *spawns)
    reached = {
        "claimed": "workspaces/mirrors",
        "prepared": "workspaces/agents/*/*",
        "started": "runs/*/*/*/keeper.json",
    }
    await eventually(lambda: list(node.directory.glob(reached[progress])), "the first one is there")
    started = time.monotonic()
    assert await node.terminate() == 0
    assert time.monotonic() - started < 10
    await node.restart()
    go.now()
    for spawn in spawns:
        agent = await node.until_ended(spawn["id"])
        assert (agent["status"], agent["attempt"]) == ("completed", 1), agent
    assert sorted(start["agentId"] for start in node.executions()) == sorted(spawn["id"] for spawn in spawns)


@pytest.mark.fault(9)
@pytest.mark.parametrize(("attempts", "status", "reason"), [(1, "failed", "lost"), (2, "completed", None)])
async def test_an_agent_that_is_gone_with_its_keeper(
    node: SpokeNode, hub: HubPeer, origin: Path, go: Go, attempts: int, status: str, reason: str | None
) -> None:
    spawn = hub.spawn(origin, "write half.txt", f"wait {go}", maxAttempts=attempts)
    await hub.ask(node, spawn)
    pid = await node.started(spawn["id"])
    keeper = parent_of(pid)
    os.kill(keeper, signal.SIGKILL)
    go.now()
    agent = await node.until_ended(spawn["id"])
    assert (agent["status"], agent["reason"], agent["attempt"]) == (status, reason, attempts)
    assert not is_alive(pid)
    await eventually(lambda: not list(node.directory.glob("workspaces/agents/*/*/tree")), "its workspace is cleared")


@pytest.mark.fault(9)
@pytest.mark.parametrize(("attempts", "status", "reason"), [(1, "failed", "lost"), (2, "completed", None)])
async def test_an_agent_of_which_a_power_cut_left_no_record(
    node: SpokeNode, hub: HubPeer, origin: Path, go: Go, attempts: int, status: str, reason: str | None
) -> None:
    await hub.ask(node, spawn := hub.spawn(origin, f"wait {go}", maxAttempts=attempts))
    pid = await node.started(spawn["id"])
    keeper = parent_of(pid)
    await node.kill9()
    for each in (keeper, pid):
        os.kill(each, signal.SIGKILL)
    await eventually(lambda: not is_alive(pid), "the power is off")
    shutil.rmtree(node.directory / "runs")  # what the disk did not have yet when the power went
    go.now()
    await node.restart()
    agent = await node.until_ended(spawn["id"])
    assert (agent["status"], agent["reason"], agent["attempt"]) == (status, reason, attempts)
    assert [start["attempt"] for start in node.executions()] == list(range(1, attempts + 1)), "none started twice"


@pytest.mark.fault(9)
async def test_an_agent_that_a_shutdown_ended_gets_its_next_attempt(
    node: SpokeNode, hub: HubPeer, origin: Path, go: Go
) -> None:
    spawn = hub.spawn(origin, f"wait {go}", maxAttempts=2)
    await hub.ask(node, spawn)
    pid = await node.started(spawn["id"])
    keeper = parent_of(pid)
    os.kill(keeper, signal.SIGTERM)  # as everything gets when a machine goes down
    await eventually(lambda: not is_alive(pid), "the keeper ends its agent")
    go.now()
    agent = await node.until_ended(spawn["id"])
    assert (agent["status"], agent["attempt"]) == ("completed", 2)


@pytest.mark.fault(10)
async def test_an_agent_that_is_killed_from_outside(node: SpokeNode, hub: HubPeer, origin: Path) -> None:
    await hub.ask(node, spawn := hub.spawn(origin, "sleep 60"))
    pid = await node.started(spawn["id"])
    os.kill(pid, signal.SIGKILL)
    agent = await node.until_ended(spawn["id"])
    assert (agent["status"], agent["signal"]) == ("failed", "SIGKILL")
    assert (await node.call("GET", "/queue"))[1] == {"queued": 0, "active": 0, "paused": False, "draining": False}


@pytest.mark.fault(22)
@pytest.mark.slow
async def test_a_spoke_that_stood_still_past_its_leases_takes_its_agents_up_again(
    node: SpokeNode, hub: HubPeer, origin: Path, go: Go
) -> None:
    spawn = hub.spawn(origin, f"wait {go}", maxAttempts=1)
    await hub.ask(node, spawn)
    await node.started(spawn["id"])
    async with connect(node.directory / "valkey") as client:
        os.kill(node.pid, signal.SIGSTOP)
        await client.zadd(f"hs:{{{node.id}}}:leases", {f"{hub.id}_1 {spawn['id']}": 1})  # as after 15 s
        # What another worker would do now: take the lease, with a new token.
        token = await client.incr(f"hs:{{{node.id}}}:fence")
        await client.hset(f"hs:{{{node.id}}}:agent:{hub.id}_1:{spawn['id']}", "token", str(token))
        os.kill(node.pid, signal.SIGCONT)
        await eventually(lambda: node.log_lines("agent.lease_lost"), "it notices that it holds nothing any more", 30)
        go.now()
    agent = await node.until(spawn["id"], "completed")
    assert agent["attempt"] == 1
    assert len(node.executions()) == 1


# --- Valkey


@pytest.mark.fault(11)
async def test_a_valkey_killed_while_nothing_runs(node: SpokeNode, hub: HubPeer, origin: Path) -> None:
    os.kill(valkey_of(node), signal.SIGKILL)
    await eventually(lambda: accepts(node, hub), "it takes envelopes again")
    await hub.ask(node, spawn := hub.spawn(origin))
    assert (await node.until_ended(spawn["id"]))["status"] == "completed"


@pytest.mark.fault(11)
async def test_a_valkey_killed_while_agents_wait_run_and_end(
    node: SpokeNode, hub: HubPeer, origin: Path, go: Go
) -> None:
    spawns = [hub.spawn(origin, f"wait {go}", maxAttempts=3) for _ in range(6)]
    await hub.send(node, *spawns)
    await eventually(lambda: len(node.executions()) == 4, "four run")
    os.kill(valkey_of(node), signal.SIGKILL)
    go.now()
    await eventually(lambda: accepts(node, hub), "it takes envelopes again")
    for spawn in spawns:
        assert (await node.until_ended(spawn["id"]))["status"] == "completed"
    starts = [start["agentId"] for start in node.executions()]
    assert sorted(starts) == sorted(spawn["id"] for spawn in spawns)
    assert node.log_lines("valkey.ended")


@pytest.mark.fault(11)
@pytest.mark.slow
async def test_without_valkey_nothing_is_promised(node: SpokeNode, hub: HubPeer, origin: Path) -> None:
    os.kill(valkey_of(node), signal.SIGSTOP)
    try:
        spawn = hub.spawn(origin)
        answer, ready, healthy = await asyncio.gather(
            hub.post(node, hub.seal(node, spawn)), node.call("GET", "/readyz"), node.call("GET", "/healthz")
        )
    finally:
        os.kill(valkey_of(node), signal.SIGCONT)
    assert (answer.status, answer.code) == (503, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    assert (ready[0], healthy[0]) == (503, 200)
    assert (await hub.ask(node, spawn))["agent"]["agentId"] == spawn["id"]
    await node.until_ended(spawn["id"])
    assert len(node.executions(spawn["id"])) == 1


def valkey_of(node: SpokeNode) -> int:
    (pid,) = [pid for pid in node.processes() if linux_name(pid) == "valkey-server"]
    return pid


async def accepts(node: SpokeNode, hub: HubPeer) -> bool:
    answer = await hub.post(node, hub.seal(node, hub.about("status", "01a1ee56-5e00-7000-8000-000000000001")))
    assert answer.code in {"accepted", "unavailable"}
    return answer.code == "accepted"


# --- a queue that somebody else wrote to


def other_envelope(node: SpokeNode, hub: HubPeer, origin: Path, spawn: dict[str, Any]) -> bytes:
    return hub.seal(node, {**hub.spawn(origin, "print other"), "id": spawn["id"]})


Change = Callable[[SpokeNode, HubPeer, Path, dict[str, Any]], dict[str, bytes | str]]
RECORDS: dict[str, Change] = {
    "another agent's index": lambda *_: {"index": "1"},
    "an index out of range": lambda *_: {"index": "7"},
    "no number for an index": lambda *_: {"index": "x"},
    "another hash": lambda *_: {"hash": "0" * 64},
    "another envelope's id": lambda *_: {"env": "01a1ee56-5e00-7000-8000-000000000001"},
    "another time": lambda *_: {"queued_at": "1"},
    "no time": lambda *_: {"queued_at": "soon"},
    "no attempt": lambda *_: {"attempt": "0x"},
}
ONLY_DROPPED = {"no time", "no attempt"}
"""Records that the scripts themselves cannot work with any more: nothing is started, and nobody else is held up."""
ENVELOPES: dict[str, Change] = {
    "not signed": lambda *_: {"raw": b"a.b.c"},
    "nothing": lambda *_: {"raw": b""},
    "other content of the same peer": lambda node, hub, origin, spawn: {
        "raw": other_envelope(node, hub, origin, spawn)
    },
    "another peer's": lambda node, hub, origin, spawn: {
        "raw": HubPeer("hub-other", seed=250).seal(node, spawn, {**spawn, "id": spawn["id"]})
    },
}


@pytest.mark.attack(61)
async def test_nothing_is_started_from_a_queue_that_was_tampered_with(tmp_path: Path, origin: Path) -> None:
    async with SpokeNode(tmp_path, toml=NONE_AT_ONCE) as node:
        hub, other = HubPeer(), HubPeer("hub-other", seed=250)
        hub.register(node)
        other.register(node)
        spawns = {name: hub.spawn(origin) for name in (*RECORDS, *ENVELOPES, "untouched")}
        neighbours = {name: hub.spawn(origin) for name in spawns}
        for name, spawn in spawns.items():
            await hub.send(node, spawn, neighbours[name])
        async with connect(node.directory / "valkey") as client:
            prefix = f"hs:{{{node.id}}}:"
            for name, change in {**RECORDS, **ENVELOPES}.items():
                spawn = spawns[name]
                key = f"{prefix}agent:{hub.id}_1:{spawn['id']}"
                if name in ENVELOPES:
                    jti = await client.hget(key, "env")
                    assert jti is not None
                    key = f"{prefix}env:{hub.id}_1:{jti.decode() if isinstance(jti, bytes) else jti}"
                await client.hset(key, mapping=change(node, hub, origin, spawn))  # type: ignore[arg-type]
        await node.restart(tables())
        for name, spawn in spawns.items():
            if name in ONLY_DROPPED:
                continue
            agent = await node.until_ended(spawn["id"])
            expected = ("completed", None) if name == "untouched" else ("failed", "tampered")
            assert (agent["status"], agent["reason"]) == expected, name
        for name, neighbour in neighbours.items():
            agent = await node.until_ended(neighbour["id"])
            assert agent["status"] == ("failed" if name in ENVELOPES else "completed"), name
        started = {start["agentId"] for start in node.executions()}
        assert started & {spawn["id"] for spawn in spawns.values()} == {spawns["untouched"]["id"]}


@pytest.mark.attack(61)
async def test_the_agents_of_a_peer_that_is_not_active_any_more_are_not_started(tmp_path: Path, origin: Path) -> None:
    async with SpokeNode(tmp_path, toml=NONE_AT_ONCE) as node:
        hub, other = HubPeer(), HubPeer("hub-other", seed=250)
        hub.register(node)
        other.register(node)
        await hub.ask(node, spawn := hub.spawn(origin))
        await other.ask(node, later := other.spawn(origin))
        run_in_process(node.directory, "peer", "suspend", hub.id)
        await node.restart(tables())
        await node.until_ended(later["id"])
        assert (await node.agent(spawn["id"]))["status"] == "queued"
        run_in_process(node.directory, "peer", "resume", hub.id)
        assert (await node.until_ended(spawn["id"]))["status"] == "completed"
