"""Hub and spoke replaced by a newer release while agents run: nothing lost, nothing doubled, in either order.

The commands are those of docs/operations.md, "Upgrade". What keeps the agents that run is of the older release until
they end: the keeper that the newer spoke finds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from common.trust_tables import FORMAT
from tests.e2e.old_release import OldRelease, install
from tests.integration.hub.hub_node import HUB, HubNode, run_program
from tests.integration.link.pair import Pair, join, stay_where_it_is
from tests.integration.spoke.repositories import make_repository
from tests.spoke_node import SPOKE, Go, SpokeNode, is_alive, parent_of, processes_of, tables


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> OldRelease:
    """The older release, installed."""
    return install(tmp_path_factory.mktemp("old"))


@asynccontextmanager
async def of_old(tmp_path: Path, old: OldRelease) -> AsyncIterator[Pair]:
    """A hub and a spoke of the older release, on directories that it made; two agents run at once."""
    with HubNode(tmp_path, program=old.hub) as hub:
        stay_where_it_is(hub)
        async with SpokeNode(tmp_path, toml=tables(limits={"agents": 2}), program=old.spoke) as spoke:
            await join(hub, spoke)
            pair = Pair(hub, spoke, make_repository(tmp_path / "repository"))
            await pair.up()
            yield pair


async def upgrade_hub(pair: Pair) -> None:
    """Stop the hub and start the newer release on its directory."""
    pair.hub.program = HUB
    await pair.hub.restart()
    await pair.up()


async def upgrade_spoke(pair: Pair) -> None:
    """Stop the spoke and start the newer release on its directory."""
    pair.spoke.program = SPOKE
    await pair.spoke.restart()
    await pair.up()


@pytest.mark.slow
async def test_first_the_hub_then_the_spoke_with_agents_in_flight(tmp_path: Path, old: OldRelease) -> None:
    go = Go(tmp_path / "go")
    async with of_old(tmp_path, old) as pair:
        running = await pair.spawn(
            "print before", f"wait {go}", "print after", "commit a.txt", 'result {"summary": "x"}'
        )
        killed = await pair.spawn("sleep 60")
        pids = [await pair.spoke.started(agent_id) for agent_id in (running, killed)]
        keeper = parent_of(pids[0])
        queued = await pair.spawn("print x")
        await pair.until(queued, "queued")

        await upgrade_hub(pair)
        between = await pair.spawn("print y")
        await pair.until(between, "queued")
        await pair.spoke.terminate()
        pending = await pair.spawn("print z")
        await upgrade_spoke(pair)

        assert parent_of(pids[0]) == keeper, "the agent has the keeper that it had"
        done = await pair.hub.hub("kill", killed, "--grace", "1")
        assert done.returncode == 0, done.stderr
        ended = await pair.until(killed, "killed")
        assert (ended["receipt"]["survivors"], is_alive(pids[1])) == (0, False)
        go.now()
        ended = await pair.until(running, "completed")
        assert (ended["result"]["summary"], len(ended["result"]["commits"]), ended["attempt"]) == ("x", 1, 1)
        assert (await pair.hub.hub("logs", running)).stdout.splitlines()[:2] == ["before", "after"]
        for agent_id in (queued, between, pending):
            await pair.until(agent_id, "completed")
        assert [len(pair.spoke.executions(each)) for each in (running, killed, queued, between, pending)] == [1] * 5
        for verified in (await pair.hub.hub("audit", "verify"), await pair.spoke.spoke("audit", "verify")):
            assert verified.returncode == 0, verified.stdout


@pytest.mark.slow
async def test_a_newer_spoke_works_with_an_older_hub(tmp_path: Path, old: OldRelease) -> None:
    go = Go(tmp_path / "go")
    async with of_old(tmp_path, old) as pair:
        running = await pair.spawn("print before", f"wait {go}")
        await pair.spoke.started(running)
        await upgrade_spoke(pair)
        fresh = await pair.spawn("print x", 'result {"summary": "fresh"}')
        assert (await pair.until(fresh, "completed"))["result"]["summary"] == "fresh"
        killed = await pair.spawn("sleep 60")
        await pair.spoke.started(killed)
        assert (await pair.hub.hub("kill", killed, "--grace", "1")).returncode == 0
        await pair.until(killed, "killed")
        go.now()
        await pair.until(running, "completed")
        assert (await pair.hub.hub("logs", running)).stdout.startswith("before\n")
        await upgrade_hub(pair)
        for agent_id, status in ((running, "completed"), (fresh, "completed"), (killed, "killed")):
            assert (await pair.hub.agent(agent_id))["status"] == status
        assert [len(pair.spoke.executions(each)) for each in (running, fresh, killed)] == [1, 1, 1]


@pytest.mark.slow
async def test_what_waits_in_an_older_hub_goes_out_and_its_data_count_as_newer(tmp_path: Path, old: OldRelease) -> None:
    async with of_old(tmp_path, old) as pair:
        await pair.spoke.terminate()
        pending = [await pair.spawn("print z") for _ in range(3)]
        pair.hub.program = HUB
        await pair.hub.restart()
        await pair.spoke.restart()
        for agent_id in pending:
            await pair.until(agent_id, "completed")
        forms = {node.directory.name: _form_of(node.directory) for node in (pair.hub, pair.spoke)}
        assert forms == {pair.hub.id: FORMAT, pair.spoke.id: 1}, "what waits there a release before does not find"


def _form_of(directory: Path) -> int:
    with closing(sqlite3.connect(directory / "trust.db")) as database:
        form: int = database.execute("PRAGMA user_version").fetchone()[0]
        return form


@pytest.mark.parametrize(("program", "id"), [(HUB, "hub-eu"), (SPOKE, "build-1")], ids=["hub", "spoke"])
def test_data_of_a_newer_release_is_refused_in_one_line(tmp_path: Path, program: Path, id: str) -> None:
    directory = tmp_path / id
    assert run_program(program, "--dir", str(directory), "init", id, "--listen", "127.0.0.1:0").returncode == 0
    assert run_program(program, "--dir", str(directory), "peer", "list").returncode == 0
    with closing(sqlite3.connect(directory / "trust.db")) as database:
        database.execute(f"PRAGMA user_version = {FORMAT + 1}")
    before = (directory / "trust.db").read_bytes()
    for command in (("serve",), ("peer", "list"), ("keys", "rotate"), ("backup", str(tmp_path / "x.tar"))):
        done = run_program(program, "--dir", str(directory), *command)
        (line,) = done.stderr.splitlines()
        assert (done.returncode, done.stdout, line.startswith("error: newer_data: ")) == (1, "", True), command
    assert (directory / "trust.db").read_bytes() == before
    assert not (directory / "valkey").exists()
    assert (processes_of(directory), list(tmp_path.iterdir())) == ({}, [directory])
