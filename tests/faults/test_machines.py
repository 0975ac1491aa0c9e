"""Workers on other machines: directories of their own that share nothing with the node but its Valkey and a channel."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from tests.faults.agents import TAKEN_OVER_S, agents_in, ended, send
from tests.faults.conftest import kill_valkey, valkey_of
from tests.faults.proxy import Proxy
from tests.machine_process import MachineProcess
from tests.peer import HubPeer, new_id
from tests.process_beside import ProcessBeside
from tests.spoke_node import Go, SpokeNode, eventually, is_alive, tables
from tests.worker_process import WorkerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[SpokeNode]:
    """A spoke that starts no agents itself."""
    commands = {"commands": ["spawn", "status", "kill", "logs", "diff", "send", "resume"]}
    toml = tables(limits={"agents": 8}, policy=commands)
    async with SpokeNode(tmp_path, toml=toml, options=["--no-worker"]) as running:
        yield running


async def log_of(node: SpokeNode, agent_id: str) -> str:
    status, piece = await node.call("GET", f"/agents/{agent_id}/logs")
    assert status == 200, piece
    data: str = piece["data"]
    return data


async def test_two_machines_and_the_node_share_what_waits_and_each_agent_is_started_once(
    node: SpokeNode, hub: HubPeer, repository: Path
) -> None:
    async with MachineProcess(node, "m1", agents=2) as first, MachineProcess(node, "m2", agents=2) as second:
        agents = await send(node, hub, repository, "commit made.txt", count=16)
        found = [await ended(node, agent) for agent in agents]
        assert [each["status"] for each in found] == ["completed"] * len(agents), found
        assert all(len(each["result"]["commits"]) == 1 for each in found)
        by_first, by_second = agents_in(first.log_lines("agent.started")), agents_in(second.log_lines("agent.started"))
        assert by_first
        assert by_second
        assert not by_first & by_second
        assert {each["machine"].partition("_")[0] for each in found} == {"m1", "m2"}
    assert sorted(start["agentId"] for start in node.executions()) == sorted(agents)
    assert not list((node.directory / "runs").glob("*/*")), "nothing of them lies at the node"


async def _doctor(machine: MachineProcess) -> list[dict[str, Any]]:
    command = [str(machine.node.program), "--dir", str(machine.directory), "doctor", "--json"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    findings: list[dict[str, Any]] = json.loads(done.stdout)
    return findings


async def test_a_copy_of_a_machine_starts_nothing_while_the_machine_works(
    node: SpokeNode, hub: HubPeer, repository: Path
) -> None:
    async with MachineProcess(node, "m1") as machine:
        await eventually(lambda: machine.log_lines("machine.link_up"), "it has a link")
        other = machine.directory.with_name("copy-of-m1")
        shutil.copytree(machine.directory, other)
        async with ProcessBeside(node, "copy", "m1", "machine", "work", directory=other) as copy:
            await eventually(lambda: copy.log_lines("machine.refused"), "the copy is refused")
            assert "spoke machine init" in copy.log_lines("machine.refused")[0]["reason"]
            assert node.log_lines("machine.copied")[0]["machine"] == "m1_1"
            agents = await send(node, hub, repository, "print here", count=6)
            assert {(await ended(node, agent))["status"] for agent in agents} == {"completed"}
            assert agents_in(machine.log_lines("agent.started")) == set(agents)
            assert not copy.log_lines("agent.started")
            assert not machine.log_lines("machine.link_down"), "nothing disturbed it"
            machine.send(signal.SIGSTOP)  # a host that has gone, and whose connection nobody closed
            await eventually(lambda: copy.log_lines("machine.link_up"), "who answers is the machine", 40)
            machine.send(signal.SIGCONT)
            await eventually(lambda: machine.log_lines("machine.replaced"), "the other hears of it")


async def test_metric_and_doctor_tell_which_machine_has_a_link(node: SpokeNode) -> None:
    async def told() -> tuple[str, str]:
        findings = json.loads((await node.spoke("doctor", "--json")).stdout)
        (finding,) = [each for each in findings if each["check"] == "machine m1"]
        async with aiohttp.ClientSession() as session, session.get(f"{node.url}/metrics") as response:
            lines = (await response.text()).splitlines()
        (is_up,) = [line for line in lines if line.startswith("hubspoke_spoke_machine_up{")]
        return finding["state"], is_up

    async with MachineProcess(node, "m1") as machine:
        assert await told() == ("ok", 'hubspoke_spoke_machine_up{machine="m1_1"} 1.0')
        states = {each["check"]: each["state"] for each in await _doctor(machine)}
        assert (states["node"], states["valkey"], states["git"]) == ("ok", "ok", "ok")
        assert not {"policy", "hubs", "store"} & states.keys(), "these are the node's"
    assert await told() == ("warn", 'hubspoke_spoke_machine_up{machine="m1_1"} 0.0')


@pytest.mark.parametrize(
    ("before", "after", "check", "state", "said"),
    [
        ('spoke = "build-1"', 'spoke = "build-2"', "node", "bad", "is build-1, not build-2"),
        ("node_url = ", "node_url = ", "node", "warn", "has not let this machine in yet"),
        ('url = "unix', 'url = "embedded" # ', "valkey", "bad", "a machine has no queue of its own"),
    ],
    ids=["another node", "never let in", "no store"],
)
async def test_the_doctor_of_a_machine_that_was_set_up_wrongly(
    node: SpokeNode, before: str, after: str, check: str, state: str, said: str
) -> None:
    machine = MachineProcess(node, "m1")
    settings = machine.directory / "spoke.toml"
    settings.write_text(settings.read_text().replace(before, after))
    found = await _doctor(machine)
    assert [(each["state"], said in each["detail"]) for each in found if each["check"] == check] == [(state, True)]


async def test_an_agent_on_a_machine_is_told_more(node: SpokeNode, hub: HubPeer, repository: Path) -> None:
    async with MachineProcess(node, "m1", profile="fake"):
        (agent,) = await send(node, hub, repository, "listen")
        await node.until(agent, "running")

        async def listens() -> bool:
            return "listening" in await log_of(node, agent)

        await eventually(listens, "it waits for a message")
        told = hub.about("send", agent, text="commit told.txt")
        for _ in range(2):  # the same message twice is one
            (message,) = await hub.send(node, told)
            assert message["agent"]["agentId"] == agent
        found = await ended(node, agent)
        assert (found["status"], len(found["result"]["commits"])) == ("completed", 1), found


async def test_hub_and_operator_read_what_lies_on_a_machine_and_see_no_difference(
    node: SpokeNode, hub: HubPeer, repository: Path, tmp_path: Path
) -> None:
    go = Go(tmp_path / "go")
    async with MachineProcess(node, "m1") as machine:
        (agent,) = await send(node, hub, repository, "print begins", f"wait {go}", "print ends", "commit made.txt")
        await node.started(agent)

        async def begun() -> bool:
            return "begins" in await log_of(node, agent)

        await eventually(begun, "its log is read while it runs")
        (message,) = await hub.send(node, hub.about("send", agent, text="hello"))
        assert message["error"]["code"] == "not_allowed", "this agent takes none, and its machine says so"
        go.now()
        assert (await ended(node, agent))["status"] == "completed"
        logs, diff = await hub.send(
            node,
            hub.about("logs", agent, offset=0, limit=65_536),
            hub.about("diff", agent, offset=0, limit=65_536),
        )
        assert (logs["log"]["data"], logs["log"]["eof"]) == ("begins\nends\n", True)
        assert "+written by the agent" in diff["diff"]["data"]
        assert machine.run_directory(agent).is_dir()
        shown = await node.spoke("machine", "list")
        assert "yes" in shown.stdout
    status, problem = await node.call("GET", f"/agents/{agent}/logs")
    assert (status, problem["code"]) == (503, "unavailable")
    (logs,) = await hub.send(node, hub.about("logs", agent, offset=0, limit=65_536))
    assert (logs["error"]["code"], logs["error"]["retryable"]) == ("not_found", True)
    assert "m1" in logs["error"]["detail"]


@pytest.mark.fault(24)
async def test_a_kill_ends_it_and_says_so_only_then(node: SpokeNode, hub: HubPeer, repository: Path) -> None:
    async with MachineProcess(node, "m1"):
        (agent,) = await send(node, hub, repository, "ignore SIGTERM", "sleep 60")
        pid = await node.started(agent)
        await hub.send(node, hub.about("kill", agent, graceS=0))
        found = await ended(node, agent)
        assert (found["status"], found["reason"]) == ("killed", "killed_by_peer")
        assert not is_alive(pid)
        assert found["receipt"] is None or not found["receipt"].get("survivors")


@pytest.mark.fault(8)
async def test_the_node_may_be_killed_and_come_back(
    node: SpokeNode, hub: HubPeer, repository: Path, tmp_path: Path
) -> None:
    go = Go(tmp_path / "go")
    async with Proxy(lambda: address_of(node)) as proxy, MachineProcess(node, "m1", url=proxy.url):
        (agent,) = await send(node, hub, repository, f"wait {go}", "commit made.txt")
        await node.started(agent)
        await node.kill9()
        await node.restart()
        go.now()
        found = await ended(node, agent)
        assert (found["status"], found["attempt"], len(found["result"]["commits"])) == ("completed", 1, 1)
        (another,) = await send(node, hub, repository, "exit 0")
        assert (await ended(node, another))["status"] == "completed"
    assert len(node.executions()) == 2


def address_of(node: SpokeNode) -> tuple[str, int]:
    """Where the node listens; nowhere while it does not run."""
    host, _, port = node.url.removeprefix("http://").partition(":")
    return (host, int(port)) if port else ("127.0.0.1", 1)


@pytest.mark.fault(8)
async def test_a_machine_s_worker_may_be_killed_and_only_that_machine_takes_its_agents_back(
    node: SpokeNode, hub: HubPeer, repository: Path, tmp_path: Path
) -> None:
    go = Go(tmp_path / "go")
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(MachineProcess(node, "m1"))
        agents = await send(node, hub, repository, f"wait {go}", "commit made.txt", count=3)
        for agent in agents:
            await node.started(agent)
        await first.end(signal.SIGKILL)
        second = await stack.enter_async_context(MachineProcess(node, "m2"))
        await stack.enter_async_context(WorkerProcess(node, "a"))
        (other,) = await send(node, hub, repository, "exit 0")
        assert (await ended(node, other))["status"] == "completed"
        await outlive_a_lease(node)
        assert {(await node.agent(agent))["status"] for agent in agents} == {"running"}, "nobody else takes them"
        go.now()
        await asyncio.to_thread(first.start)
        found = [await ended(node, agent) for agent in agents]
        assert not {*agents} & agents_in(second.log_lines("agent.adopted"))
    assert {(each["status"], each["attempt"], len(each["result"]["commits"])) for each in found} == {
        ("completed", 1, 1)
    }
    assert len(node.executions()) == len(agents) + 1


async def outlive_a_lease(node: SpokeNode) -> None:
    """Wait until a lease of before has run out, by the store's clock, and its observers have seen it."""
    store = Redis(unix_socket_path=str(node.directory / "valkey" / "valkey.sock"))
    async with store:
        seconds, _ = await store.time()

        async def later() -> bool:
            now, _ = await store.time()
            return bool(now > seconds + 22)

        await eventually(later, "the lease has run out")


@pytest.mark.fault(11)
async def test_the_store_may_be_killed_meanwhile(
    node: SpokeNode, hub: HubPeer, repository: Path, tmp_path: Path
) -> None:
    go = Go(tmp_path / "go")
    async with MachineProcess(node, "m1"):
        (agent,) = await send(node, hub, repository, f"wait {go}", "commit made.txt")
        await node.started(agent)
        await kill_valkey(node)
        go.now()
        found = await ended(node, agent)
        assert (found["status"], found["attempt"]) == ("completed", 1)
        (another,) = await send(node, hub, repository, "exit 0")
        assert (await ended(node, another))["status"] == "completed"


@pytest.mark.fault(15)
async def test_while_the_channel_is_cut_nothing_starts_there_and_what_runs_ends_as_ever(
    node: SpokeNode, hub: HubPeer, repository: Path, tmp_path: Path
) -> None:
    go = Go(tmp_path / "go")
    async with Proxy(lambda: address_of(node)) as proxy, MachineProcess(node, "m1", url=proxy.url) as machine:
        (agent,) = await send(node, hub, repository, f"wait {go}", "commit made.txt")
        await node.started(agent)
        proxy.cut()
        await eventually(lambda: machine.log_lines("machine.link_down"), "the machine knows")
        (waits,) = await send(node, hub, repository, "exit 0")
        go.now()
        assert (await ended(node, agent))["status"] == "completed", "its end needs no channel"
        assert (await node.call("GET", f"/agents/{agent}/logs"))[0] == 503
        (killed,) = await send(node, hub, repository, "exit 0")
        await hub.send(node, hub.about("kill", killed))
        assert (await ended(node, killed))["status"] == "killed"
        assert node.executions(waits) == []
        proxy.mend()
        assert (await ended(node, waits))["status"] == "completed"
        assert await log_of(node, agent) == ""
    assert len(node.executions()) == 2


@pytest.mark.fault(15)
async def test_a_channel_that_is_cut_at_any_moment_of_many_starts_loses_and_doubles_nothing(
    node: SpokeNode, hub: HubPeer, repository: Path
) -> None:
    async with Proxy(lambda: address_of(node)) as proxy, MachineProcess(node, "m1", url=proxy.url):
        agents = await send(node, hub, repository, "commit made.txt", count=12, attempts=3)
        for _ in range(8):
            before = proxy.connections
            proxy.cut()
            proxy.mend()
            await eventually(partial(more_than, proxy, before), "it dialed again", 30)
        found = [await ended(node, agent) for agent in agents]
    assert {each["status"] for each in found} == {"completed"}, found
    starts = [(start["agentId"], start["attempt"]) for start in node.executions()]
    assert len(starts) == len({*starts})
    assert sorted({agent for agent, _ in starts}) == sorted(agents)
    assert {agent: each["attempt"] for agent, each in zip(agents, found, strict=True)} == dict(starts)


def more_than(proxy: Proxy, connections: int) -> bool:
    return proxy.connections > connections


async def test_a_start_that_nobody_can_decide_is_given_back_and_does_not_count(
    node: SpokeNode, hub: HubPeer, repository: Path
) -> None:
    async with MachineProcess(node, "m1") as machine:
        await node.call("POST", "/queue/pause", {"on": True})
        (agent,) = await send(node, hub, repository, "exit 0")
        os.kill(node.pid, signal.SIGSTOP)
        try:
            async with Redis(unix_socket_path=str(node.directory / "valkey" / "valkey.sock")) as store:
                await store.delete(f"hs:{{{node.id}}}:paused")
            await eventually(lambda: machine.log_lines("agent.given_back"), "others may have it")
            assert node.executions(agent) == []
        finally:
            os.kill(node.pid, signal.SIGCONT)
        found = await ended(node, agent)
    assert (found["status"], found["attempt"]) == ("completed", 1)


@pytest.mark.fault(22)
async def test_a_machine_that_stands_still_past_its_lease_goes_on_with_what_it_had(
    node: SpokeNode, hub: HubPeer, repository: Path, tmp_path: Path
) -> None:
    go = Go(tmp_path / "go")
    async with MachineProcess(node, "m1") as machine, WorkerProcess(node, "a") as other:
        (agent,) = await started_at(node, hub, repository, machine, f"wait {go}", "commit made.txt")
        machine.send(signal.SIGSTOP)
        await outlive_a_lease(node)
        assert agent not in agents_in(other.log_lines("agent.adopted"))
        machine.send(signal.SIGCONT)
        go.now()
        found = await ended(node, agent)
    assert (found["status"], found["attempt"]) == ("completed", 1)
    assert len(node.executions(agent)) == 1


async def started_at(
    node: SpokeNode, hub: HubPeer, repository: Path, machine: MachineProcess, *items: str
) -> list[str]:
    """Spawn agents until one runs at the machine; returns that."""
    while True:
        (agent,) = await send(node, hub, repository, *items)
        await node.started(agent)
        if agent in agents_in(machine.log_lines("agent.started")):
            return [agent]
        await hub.send(node, hub.about("kill", agent, graceS=0))
        await ended(node, agent)


@pytest.mark.fault(9)
@pytest.mark.fault(22)
async def test_one_that_is_cut_off_for_too_long_is_given_up_and_ends_its_agents_when_it_comes_back(
    tmp_path: Path, repository: Path
) -> None:
    toml = tables(limits={"agents": 8, "machine_lost_s": 3})
    async with SpokeNode(tmp_path, toml=toml, options=["--no-worker"]) as node:
        hub = HubPeer()
        hub.register(node)
        store = Proxy(lambda: str(node.directory / "valkey" / "valkey.sock"))
        link = Proxy(lambda: address_of(node))
        async with store, link:
            # Only its own Valkey is reached by a password-less socket; over TCP it needs the proxy.
            machine = MachineProcess(node, "m1", url=link.url, valkey=f"redis://127.0.0.1:{store.port}")
            async with machine:
                (agent,) = await send(node, hub, repository, "sleep 60", attempts=3)
                pid = await node.started(agent)
                store.cut()
                link.cut()
                found = await ended(node, agent)
                assert (found["status"], found["reason"]) == ("failed", "lost")
                assert "nothing was heard of its machine m1" in found["detail"]
                assert is_alive(pid), "nobody could tell it"
                store.mend()
                link.mend()
                await eventually(lambda: not is_alive(pid), "it ends what is not its any more")
                await eventually(lambda: machine.log_lines("run.stray_ended"), "and says so")
                found = await node.agent(agent)
                assert (found["status"], found["reason"]) == ("failed", "lost"), "its late word changes nothing"
                (another,) = await send(node, hub, repository, "exit 0")
                assert (await ended(node, another))["status"] == "completed", "and it works again"
        assert len(node.executions(agent)) == 1


@pytest.mark.fault(9)
async def test_one_that_was_given_up_and_is_resumed_ends_its_former_attempt_before_the_next(
    tmp_path: Path, repository: Path
) -> None:
    commands = {"commands": ["spawn", "status", "kill", "resume"]}
    toml = tables(limits={"agents": 8, "machine_lost_s": 6}, policy=commands)
    async with SpokeNode(tmp_path, toml=toml, options=["--no-worker"]) as node:
        hub, go = HubPeer(), Go(tmp_path / "go")
        hub.register(node)
        store = Proxy(lambda: str(node.directory / "valkey" / "valkey.sock"))
        link = Proxy(lambda: address_of(node))
        async with store, link:
            address = f"redis://127.0.0.1:{store.port}"
            async with MachineProcess(node, "m1", url=link.url, valkey=address) as machine:
                (agent,) = await send(node, hub, repository, "write made.txt", f"wait {go}")
                former = await node.started(agent)
                # It cannot look for strays while its worker stands still.
                machine.send(signal.SIGSTOP)
                store.cut()
                link.cut()
                assert (await ended(node, agent))["reason"] == "lost"
                (resumed,) = await hub.send(node, hub.about("resume", agent))
                assert resumed["agent"]["status"] == "queued"
                assert is_alive(former)
                store.mend()
                link.mend()
                machine.send(signal.SIGCONT)
                await eventually(lambda: len(node.executions(agent)) == 2, "the next attempt begins", TAKEN_OVER_S)
                assert not is_alive(former)
                go.now()
                found = await ended(node, agent)
        assert (found["status"], found["attempt"]) == ("completed", 2)


async def test_one_that_is_forgotten_starts_nothing_and_its_agents_are_lost(
    node: SpokeNode, hub: HubPeer, repository: Path
) -> None:
    async with MachineProcess(node, "m1") as machine:
        (agent,) = await send(node, hub, repository, "sleep 60")
        pid = await node.started(agent)
        assert (await node.spoke("machine", "forget", "m1")).returncode == 0
        found = await ended(node, agent)
        assert (found["status"], found["reason"]) == ("failed", "lost")
        await eventually(lambda: not is_alive(pid), "it ends it")
        (resumed,) = await hub.send(node, hub.about("resume", agent))
        assert resumed["error"]["code"] == "not_allowed"
        assert "forgotten" in resumed["error"]["detail"]
        (waits,) = await send(node, hub, repository, "exit 0")
        await eventually(lambda: machine.log_lines("machine.cannot_reach_node"), "it is refused")
        assert (await node.agent(waits))["status"] == "queued"
        assert node.executions(waits) == []


async def test_a_resume_goes_to_where_its_work_lies(
    node: SpokeNode, hub: HubPeer, repository: Path, tmp_path: Path
) -> None:
    async with MachineProcess(node, "m1") as machine:
        (agent,) = await send(node, hub, repository, "write made.txt")
        assert (await ended(node, agent))["status"] == "completed"
        await machine.end()
        async with WorkerProcess(node, "a"), MachineProcess(node, "m2"):
            (resumed,) = await hub.send(node, hub.about("resume", agent))
            assert resumed["agent"]["status"] == "queued"
            # Whatever came later passes it by.
            others = await send(node, hub, repository, "exit 0", count=4)
            assert {(await ended(node, other))["status"] for other in others} == {"completed"}
            assert (await node.agent(agent))["status"] == "queued"
            await asyncio.to_thread(machine.start)
            found = await ended(node, agent)
        assert (found["status"], found["attempt"], found["machine"]) == ("completed", 2, "m1_1")
        assert agent in agents_in(machine.log_lines("agent.started"))
    assert len(node.executions(agent)) == 2


@pytest.mark.fault(14)
async def test_what_runs_there_while_the_store_is_emptied_is_put_back_and_seen_to_its_end(
    tmp_path: Path, repository: Path
) -> None:
    go, toml = Go(tmp_path / "go"), tables(limits={"agents": 8})
    # Fresh envelopes are taken two seconds after a loss.
    async with SpokeNode(tmp_path, toml=toml, env={"SPOKE_NODE__SKEW_S": "1"}) as node:
        hub = HubPeer()
        hub.register(node)
        async with MachineProcess(node, "m1") as machine:
            spawn = hub.spawn(repository, f"wait {go}", "commit made.txt")
            while True:
                await hub.send(node, spawn)
                await node.started(spawn["id"])
                if spawn["id"] in agents_in(machine.log_lines("agent.started")):
                    break
                await hub.send(node, hub.about("kill", spawn["id"], graceS=0))
                spawn = {**spawn, "id": new_id()}
            await empty(node)
            await eventually(lambda: machine.log_lines("run.restored"), "its machine puts it back")
            await node.until(spawn["id"], "running")
            go.now()
            found = await ended(node, spawn["id"])
            assert (found["status"], found["attempt"], len(found["result"]["commits"])) == ("completed", 1, 1)
            assert found["machine"] == "m1_1"
        assert len(node.executions(spawn["id"])) == 1


@pytest.mark.fault(14)
async def test_what_was_started_there_is_not_started_again_here_though_the_store_forgot_it(
    tmp_path: Path, repository: Path
) -> None:
    toml = tables(limits={"agents": 8})
    env = {"SPOKE_NODE__SKEW_S": "1"}
    async with SpokeNode(tmp_path, toml=toml, env=env, options=["--no-worker"]) as node:
        hub = HubPeer()
        hub.register(node)
        async with MachineProcess(node, "m1"):
            spawn = hub.spawn(repository, "exit 0")
            await hub.send(node, spawn)
            assert (await ended(node, spawn["id"]))["status"] == "completed"
        await empty(node)

        async def taken() -> bool:
            answer = await hub.post(node, hub.seal(node, spawn))
            return answer.code == "accepted"

        await eventually(taken, "its hub asks for it again")
        async with WorkerProcess(node, "a"):
            found = await ended(node, spawn["id"])
        assert (found["status"], found["reason"]) == ("failed", "lost")
        assert "it was started on the machine m1_1 before" in found["detail"]
        assert len(node.executions(spawn["id"])) == 1


async def empty(node: SpokeNode) -> None:
    """Take everything away from the node's Valkey while it runs."""
    shutil.rmtree(node.directory / "valkey" / "appendonlydir")
    os.kill(valkey_of(node), signal.SIGKILL)
    await eventually(lambda: node.log_lines("store.lost"), "the node notices")
