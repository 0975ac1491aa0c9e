"""Makes the pictures in `docs/`: a hub with spokes as they are at night; `python -m tests.browser.screenshots`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

from common.clock import SystemClock
from common.ids import rfc3339
from tests.browser.chromium import Tab, chromium, tab
from tests.integration.hub.hub_node import HubNode
from tests.integration.hub.standin_spoke import StandinSpoke

DOCS = Path(__file__).parents[2] / "docs"
TASKS = ["T-41 login", "T-42", "T-43", "release/2.4", "T-44", "nightly:app", "T-45", "T-46"]


def at(seconds_ago: float) -> str:
    return rfc3339(int(SystemClock().now_ms() - seconds_ago * 1000))


async def _people(node: HubNode, spokes: list[StandinSpoke]) -> str:
    agents: list[str] = []
    for number in range(24):
        spoke = spokes[number % 2]
        agent_id = await node.spawn(
            spoke.id,
            taskId=TASKS[number % 8].partition(" ")[0],
            agentType=("worker", "reviewer", "tester")[number % 3],
            context={
                "workItems": ["Fix the login redirect: after a timeout it leads to a blank page."],
                "skills": ["python"],
            },
        )
        await node.until_delivery(agent_id, "delivered")
        agents.append(agent_id)
        await _live(spoke, agent_id, number)
    return agents[22]


async def _live(spoke: StandinSpoke, agent_id: str, number: int) -> None:
    started: dict[str, Any] = {"queuedAt": at(400), "startedAt": at(390)}
    result = {
        "summary": "The redirect kept its target in the session, which the timeout had removed.\n"
        "It is in the URL now, signed; two tests hold it.",
        "data": None, "branch": f"agent/{agent_id[-6:]}", "logBytes": 400,
        "commits": [{"sha": "6f1c2d9e0b7a41", "subject": "Keep the target of a login in its URL"}],
        "preservedRef": None,
        "diffStat": {"files": 3, "insertions": 48, "deletions": 12}, "usage": None,
    }  # fmt: skip
    if number % 8 in {3, 6}:
        await spoke.report(spoke.advance(agent_id, "running", **started))
    elif number == 9:
        await spoke.report(spoke.advance(agent_id, "failed", reason="attempts_exhausted", finishedAt=at(60), **started))
    elif number == 17:
        await spoke.report(spoke.advance(agent_id, "failed", reason="timeout", finishedAt=at(60), **started))
    elif number < 23:
        await spoke.report(spoke.advance(agent_id, "completed", result=result, finishedAt=at(20), **started))


async def _look(node: HubNode, view: Tab, agent_id: str, width: int, into: Path) -> None:
    await view.log_in(node.token)
    await view.reads("does not answer")
    for name, path in (
        ("page", "/"),
        ("page-agent", f"/agents/{agent_id}"),
        ("agents", "/agents"),
        ("spawn", "/spawn"),
    ):
        await view.open(path)
        await view.page.wait_for_timeout(1500)
        await view.page.screenshot(path=into / f"{name}-{width}.png", full_page=True)
    for name, path in (("spoke", "/spokes/build-eu-1"), ("pending", "/spokes/build-us-7"), ("invite", "/invite")):
        await view.open(path)
        await view.page.screenshot(path=into / f"{name}-{width}.png", full_page=True)


async def main(into: Path) -> None:
    """Make the pictures in the directory `into`."""
    with tempfile.TemporaryDirectory() as directory, HubNode(Path(directory)) as node:
        async with (
            StandinSpoke(node, "build-eu-1") as first,
            StandinSpoke(node, "build-eu-2") as second,
            StandinSpoke(node, "gpu-1") as away,
            chromium() as browser,
        ):
            first.log = b"reading src/login.py\nrunning 214 tests\n214 passed in 8.1 s\ncommitted 6f1c2d9e0b\n"
            second.log = first.log
            pending = StandinSpoke(node, "build-us-7")
            node.add_peer(pending.id, pending.key.public, None, "pending")
            await away.down()
            await node.spawn(away.id, taskId="T-47")
            agent_id = await _people(node, [first, second])
            for width, scheme in ((1100, "light"), (360, "light"), (1101, "dark")):
                async with tab(browser, node.url, width=width, color_scheme=scheme) as view:
                    await _look(node, view, agent_id, width, into)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS))
