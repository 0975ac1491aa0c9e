"""A hub learns by itself what it missed: it asks the spokes about agents that have not ended as far as it knows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.integration.hub.hub_node import HubNode
from tests.integration.hub.standin_spoke import StandinSpoke, error
from tests.integration.link.bare_spoke import BareSpoke
from tests.spoke_node import eventually


def _no_sockets(directory: str, names: list[str]) -> set[str]:
    return {name for name in names if (Path(directory) / name).is_socket()}


async def until_shown(node: HubNode, agent_id: str, status: str) -> dict[str, Any]:
    async def reached() -> dict[str, Any] | None:
        agent = await node.agent(agent_id)
        return agent if agent.get("status") == status else None

    found: dict[str, Any] = await eventually(reached, f"{agent_id} is {status}")
    return found


@pytest.mark.slow
@pytest.mark.fault(31)
async def test_restored_from_an_old_copy_it_asks_about_what_it_shows_as_running(tmp_path: Path) -> None:
    with HubNode(tmp_path) as own:
        async with StandinSpoke(own) as spoke:
            agent_id = await own.spawn(spoke.id)
            await own.until_delivery(agent_id, "delivered")
            await spoke.report(spoke.advance(agent_id, "running"))
            await own.terminate()
            store, copy = own.directory / "valkey", tmp_path / "copy"
            shutil.copytree(store, copy, ignore=_no_sockets)
            await own.restart()
            # Acknowledged, so the spoke never says it again.
            await spoke.report(spoke.advance(agent_id, "completed", result={"summary": "done"}))
            await own.terminate()
            shutil.rmtree(store)
            shutil.copytree(copy, store)
            await own.restart()
            healed = await until_shown(own, agent_id, "completed")
            assert (healed["seq"], healed["result"]) == (3, {"summary": "done"})
            assert own.log_lines("store.lost")


@pytest.mark.slow
async def test_a_spoke_that_is_away_at_the_start_is_asked_when_it_opens_a_link(tmp_path: Path) -> None:
    with HubNode(tmp_path) as own:
        spoke = BareSpoke.registered_at(own)
        async with spoke.linked() as socket:
            agent_id = await own.spawn(spoke.id)
            await spoke.serve(socket)
            await own.until_delivery(agent_id, "delivered")
        await own.restart()
        await eventually(lambda: own.log_lines("reconcile.unanswered", peer=spoke.id), "it cannot be asked")
        spoke.advance(agent_id, "completed")
        async with spoke.linked() as socket:
            (command,) = await spoke.serve(socket)
            assert (command["command"], command["agentId"]) == ("status", agent_id)
            await until_shown(own, agent_id, "completed")


@pytest.mark.slow
async def test_what_the_spoke_does_not_know_or_will_not_tell_stays_as_it_is(tmp_path: Path) -> None:
    with HubNode(tmp_path) as own:
        async with StandinSpoke(own) as spoke, StandinSpoke(own) as silent:
            kept = [await own.spawn(spoke.id), await own.spawn(silent.id)]
            for agent_id in kept:
                await own.until_delivery(agent_id, "delivered")
            before = [await own.agent(agent_id) for agent_id in kept]
            spoke.agents.clear()
            silent.answers["status"] = error("not_allowed")
            own.set_state(spoke.id, "suspended")
            await own.restart()
            await eventually(lambda: own.log_lines("reconcile.asked", peer=silent.id, answered=0, unknown=0), "asked")
            assert [await own.agent(agent_id) for agent_id in kept] == before
            assert spoke.sent(kept[0], "status") == 0
            own.set_state(spoke.id, "active")
            await own.restart()
            await eventually(lambda: own.log_lines("reconcile.asked", peer=spoke.id, answered=0, unknown=1), "asked")
            assert [await own.agent(agent_id) for agent_id in kept] == before
