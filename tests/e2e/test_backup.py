"""A hub, and a spoke, lost with their disk and restored from a backup that is older than what happened since.

The commands are those of docs/operations.md, "Backup".
"""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.hub.hub_node import HubNode
from tests.integration.link.pair import Pair, join, stay_where_it_is
from tests.integration.spoke.repositories import make_repository
from tests.spoke_node import Go, SpokeNode, eventually, tables


@asynccontextmanager
async def joined(tmp_path: Path, toml: str | None = None) -> AsyncIterator[Pair]:
    """A pair that takes envelopes a second after a loss, and finds each other again after a restart."""
    with HubNode(tmp_path, toml="skew_s = 0\n") as hub:
        stay_where_it_is(hub)
        async with SpokeNode(tmp_path, toml=toml, env={"SPOKE_NODE__SKEW_S": "0"}) as spoke:
            await join(hub, spoke)
            pair = Pair(hub, spoke, make_repository(tmp_path / "repository"))
            await pair.up()
            yield pair


async def done(command: Any, *arguments: str) -> Any:
    """Run a command of a node and return what it printed as JSON."""
    ran = await command(*arguments, "--json")
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def starts(pair: Pair, *agent_ids: str) -> list[int]:
    """How often each agent was started."""
    return [len(pair.spoke.executions(agent_id)) for agent_id in agent_ids]


async def known(pair: Pair, agent_id: str) -> dict[str, Any]:
    """Wait until the hub knows an agent that it had forgotten, and return it."""
    agent: dict[str, Any] = await eventually(lambda: pair.hub.agent(agent_id), "the hub learns of it")
    return agent


async def lose_and_restore(pair: Pair, backup: Path, *options: str) -> Any:
    """Kill the hub, remove its directory, and restore it where it was; returns what that printed."""
    await pair.hub.kill9()
    shutil.rmtree(pair.hub.directory)
    return await done(pair.hub.hub, "restore", str(backup), *options)


@pytest.mark.slow
@pytest.mark.fault(31)
async def test_a_hub_comes_back_with_agents_in_flight(tmp_path: Path) -> None:
    backup = tmp_path / "hub.tar"
    first, second = Go(tmp_path / "first"), Go(tmp_path / "second")
    async with joined(tmp_path) as pair:
        running = await pair.spawn(f"wait {first}", 'result {"summary": "first"}')
        await pair.until(running, "running")
        await pair.spoke.terminate()
        waiting = await pair.spawn("print x")
        made = await done(pair.hub.hub, "backup", str(backup))
        assert (made["hub"], made["valkey"], backup.stat().st_mode & 0o777) == ("hub-eu", True, 0o600)
        # What happens from here on is not in the backup.
        await pair.spoke.restart()
        await pair.until(waiting, "completed")
        later = await pair.spawn(f"wait {second}", 'result {"summary": "second"}')
        await pair.until(later, "running")

        await lose_and_restore(pair, backup)
        pair.hub.start()
        assert [line["cause"] for line in pair.hub.log_lines("store.lost")] == ["foreign"], "replays are refused"
        await pair.up()
        # In the outbox of the backup, and delivered since: sent again, it is the same agent.
        assert (await pair.until(waiting, "completed"))["delivery"]["state"] == "delivered"
        first.now()
        second.now()
        assert (await pair.until(running, "completed"))["result"]["summary"] == "first"
        await known(pair, later)
        assert (await pair.until(later, "completed"))["result"]["summary"] == "second"
        await pair.until(await pair.spawn("print z"), "completed")
        assert starts(pair, running, waiting, later) == [1, 1, 1]


@pytest.mark.slow
async def test_what_was_revoked_since_the_backup_is_named_and_an_invite_is_good_once(tmp_path: Path) -> None:
    backup = tmp_path / "hub.tar"
    async with joined(tmp_path) as pair:
        hub = pair.hub
        token = (await done(hub.hub, "token", "create", "ci", "--scope", "operate"))["token"]
        invite = (await hub.hub("invite")).stdout
        made = await done(hub.hub, "backup", str(backup))
        await done(hub.hub, "token", "revoke", "ci")
        restored = await lose_and_restore(pair, backup)
        assert (restored["spokes"], restored["tokens"]) == (["build-1"], ["ci"])
        await done(hub.hub, "token", "revoke", "ci")
        hub.start()
        assert (await hub.call("GET", "/api/v1/peers", headers={"Authorization": f"Bearer {token}"}))[0] == 401
        refused = await pair.spoke.spoke("join", "-", stdin=invite)
        assert (refused.returncode, "invite" in refused.stderr) == (1, True)
        assert (await done(hub.hub, "audit", "verify"))["findings"] == []
        (line,) = (await hub.hub("audit", "show", "--event", "backup.restored", "--json")).stdout.splitlines()
        assert json.loads(line)["made_at"] == made["madeAt"]


@pytest.mark.slow
async def test_a_hub_that_trusts_nobody_after_a_restore_loses_nothing(tmp_path: Path) -> None:
    backup, go = tmp_path / "hub.tar", Go(tmp_path / "go")
    async with joined(tmp_path) as pair:
        hub = pair.hub
        running = await pair.spawn(f"wait {go}")
        await pair.until(running, "running")
        await done(hub.hub, "token", "create", "ci", "--scope", "operate")
        before = hub.token
        await done(hub.hub, "backup", str(backup))
        restored = await lose_and_restore(pair, backup, "--distrust")
        assert (restored["spokes"], restored["tokens"], hub.token != before) == ([], [], True)
        hub.start()
        go.now()
        await pair.spoke.until(running, "completed")
        assert (await pair.peer())["state"] == "suspended"
        assert (await hub.agent(running))["status"] == "running", "nothing is taken from a suspended spoke"
        await done(hub.hub, "peer", "resume", pair.spoke.id)
        await pair.until(running, "completed")


@pytest.mark.slow
@pytest.mark.fault(31)
@pytest.mark.parametrize("whose", ["hub", "spoke"])
async def test_after_a_rotation_that_the_backup_does_not_know_the_two_join_again(tmp_path: Path, whose: str) -> None:
    backup = tmp_path / "hub.tar"
    async with joined(tmp_path) as pair:
        hub, spoke = pair.hub, pair.spoke
        await done(hub.hub, "backup", str(backup))
        rotated, other, rotated_id = (
            (hub.hub, spoke.spoke, hub.id) if whose == "hub" else (spoke.spoke, hub.hub, spoke.id)
        )
        await done(rotated, "keys", "rotate")

        async def told() -> bool:
            return all(peer["acknowledged"] for peer in (await done(rotated, "keys", "show"))["peers"])

        await eventually(told, "the other side knows the new key")
        await lose_and_restore(pair, backup)
        hub.start()
        await done(other, "peer", "revoke", rotated_id)
        await spoke.restart()  # it dials at once then
        await join(hub, spoke)
        await pair.up()
        await pair.until(await pair.spawn("print x"), "completed")


@pytest.mark.slow
@pytest.mark.fault(14)
async def test_a_spoke_comes_back_without_its_agents_and_its_hub_sends_again_what_waited(tmp_path: Path) -> None:
    backup = tmp_path / "spoke.tar"
    async with joined(tmp_path, tables(limits={"agents": 1})) as pair:
        spoke = pair.spoke
        running = await pair.spawn("sleep 60")
        await pair.until(running, "running")
        made = await done(spoke.spoke, "backup", str(backup))
        assert (made["spoke"], made["valkey"]) == ("build-1", False)
        waiting = await pair.spawn("print x")
        await pair.until(waiting, "queued")
        # The machine is gone with everything that ran there.
        assert spoke.end_everything() == {}
        shutil.rmtree(spoke.directory)

        restored = await done(spoke.spoke, "restore", str(backup))
        assert restored["hubs"] == [pair.hub.id]
        spoke.start()
        assert [line["cause"] for line in spoke.log_lines("store.lost")] == ["emptied"], "replays are refused"
        await pair.up()
        await pair.until(waiting, "completed")
        assert starts(pair, running, waiting) == [1, 1]
        assert (await pair.until(running, "failed"))["reason"] == "lost", "nobody will ever tell more of it"


@pytest.mark.slow
@pytest.mark.fault(14)
async def test_what_runs_on_at_a_spoke_that_lost_its_store_is_not_taken_for_lost(tmp_path: Path) -> None:
    go = Go(tmp_path / "go")
    async with joined(tmp_path) as pair:
        hub, spoke = pair.hub, pair.spoke
        running = await pair.spawn(f"wait {go}", 'result {"summary": "x"}')
        await pair.until(running, "running")
        await spoke.terminate()
        shutil.rmtree(spoke.directory / "valkey")
        await spoke.restart()
        await pair.up()
        asked = {"peer": spoke.id, "answered": 1, "unknown": 0, "lost": 0}
        await eventually(lambda: hub.log_lines("reconcile.asked", **asked), "the spoke has answered", 200)
        assert (await hub.agent(running))["status"] == "running"
        go.now()
        assert (await pair.until(running, "completed"))["result"]["summary"] == "x"
        assert starts(pair, running) == [1]
