"""A spoke without a URL: everything that a hub does with spokes works over the link alone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.integration.link.pair import Pair, linked
from tests.spoke_node import eventually


@pytest.mark.slow
async def test_spawn_status_logs_and_kill_go_over_the_link(tmp_path: Path) -> None:
    async with linked(tmp_path) as pair:
        view = await pair.peer()
        assert view["url"] is None
        assert view["told"]["capacity"] == {"agents": 4, "running": 0, "queued": 0}
        short = await pair.spawn("print hello from behind", 'result {"summary": "done"}')
        agent = await pair.until(short, "completed")
        assert (agent["delivery"]["state"], agent["result"]["summary"]) == ("delivered", "done")
        _, log = await pair.hub.call("GET", f"/api/v1/agents/{short}/logs")
        assert (log["data"], log["eof"]) == ("hello from behind\n", True)
        long = await pair.spawn("sleep 60")
        await pair.until(long, "running", live=True)
        await pair.hub.call("POST", f"/api/v1/agents/{long}/kill", {})
        agent = await pair.until(long, "killed")
        assert agent["receipt"]["survivors"] == 0
        received = pair.hub.log_lines("envelope.received")
        assert {line["transport"] for line in received} == {"link"}
        shown = await pair.hub.hub("peer", "show", pair.spoke.id)
        assert "up since" in shown.stdout
        assert "4 agents at once" in shown.stdout


@pytest.mark.slow
async def test_a_spoke_that_was_killed_comes_back_with_its_agents(tmp_path: Path) -> None:
    async with linked(tmp_path) as pair:
        agent_id = await pair.spawn("sleep 60")
        await pair.until(agent_id, "running")
        await pair.spoke.kill9()
        await eventually(lambda: is_down(pair), "the hub has noticed")
        waiting = await pair.spawn("print too late")
        await pair.spoke.restart()
        await pair.up()
        await pair.until(waiting, "completed")
        # The agent outlived the spoke; the hub can still reach it.
        await pair.hub.call("POST", f"/api/v1/agents/{agent_id}/kill", {})
        agent = await pair.until(agent_id, "killed")
        assert agent["receipt"]["survivors"] == 0
        assert len(pair.spoke.executions(agent_id)) == 1


async def is_down(pair: Pair) -> bool:
    return (await pair.peer())["link"] is None


@pytest.mark.slow
async def test_a_hub_that_was_killed_is_dialed_again_and_told_what_it_missed(tmp_path: Path) -> None:
    async with linked(tmp_path) as pair:
        listen = pair.hub.url.removeprefix("http://")
        agent_id = await pair.spawn(f"wait {tmp_path / 'go-on'}")
        await pair.until(agent_id, "running")
        await pair.hub.kill9()
        (tmp_path / "go-on").touch()
        await eventually(lambda: ended(pair, agent_id), "the agent ended while the hub was away")
        text = pair.hub.place.settings_file.read_text()
        pair.hub.place.settings_file.write_text(text.replace("127.0.0.1:0", listen))
        await pair.hub.restart()
        started = time.monotonic()
        await pair.until(agent_id, "completed")
        assert time.monotonic() - started < 20
        assert len(pair.spoke.executions(agent_id)) == 1


async def ended(pair: Pair, agent_id: str) -> bool:
    return (await pair.spoke.agent(agent_id)).get("status") == "completed"


@pytest.mark.slow
async def test_a_hub_that_says_goodbye_is_dialed_at_once(tmp_path: Path) -> None:
    async with linked(tmp_path) as pair:
        listen = pair.hub.url.removeprefix("http://")
        text = pair.hub.place.settings_file.read_text()
        pair.hub.place.settings_file.write_text(text.replace("127.0.0.1:0", listen))
        await pair.hub.restart()
        view = await pair.up()
        assert view["told"]["capacity"]["agents"] == 4
        assert [line["code"] for line in pair.spoke.log_lines("link.down")] == [1001]
