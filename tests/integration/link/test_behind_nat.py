"""A spoke without a URL: everything that a hub does with spokes works over the link alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.link.pair import linked


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
