"""The examples of docs/client.md, run one after the other against a hub and a spoke whose agents complete."""

from __future__ import annotations

import ast
import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from hub.client import HubClient, Work
from tests.docs.blocks import of_kind
from tests.integration.hub.hub_node import HubNode
from tests.integration.hub.standin_spoke import StandinSpoke


@asynccontextmanager
async def completing(node: HubNode) -> AsyncIterator[StandinSpoke]:
    """A spoke `build-1` whose agents complete as soon as they were asked for."""

    async def complete(spoke: StandinSpoke) -> None:
        while True:
            for agent_id, agent in list(spoke.agents.items()):
                if agent["status"] == "queued":
                    await spoke.report(spoke.advance(agent_id, "running"))
                    await spoke.report(spoke.advance(agent_id, "completed", result={"summary": "done"}))
            await asyncio.sleep(0.02)

    async with StandinSpoke(node, id="build-1", log=b"a line\n") as spoke:
        task = asyncio.create_task(complete(spoke))
        yield spoke
        task.cancel()


async def run(source: str, names: dict[str, Any]) -> None:
    code = compile(source, "docs/client.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:
        await eval(code, names)  # noqa: S307  # our own page
    else:
        await asyncio.to_thread(eval, code, names)  # a program with a loop of its own


async def test_every_example_runs(tmp_path: Path, capsys: Any) -> None:
    first, *others = (block.text for block in of_kind("python"))
    assert len(others) >= 8
    with HubNode(tmp_path) as node:
        async with completing(node), HubClient(node.url, node.token) as hub:
            async with asyncio.timeout(50):
                await run(first.replace("http://127.0.0.1:8700", node.url).replace("TOKEN", node.token), {})
                names: dict[str, Any] = {"hub": hub, "Work": Work, "print": print}
                for example in others:
                    await run(example, names)
    printed = capsys.readouterr().out
    assert "completed {'summary': 'done'}" in printed
    assert "2 ['build-1', 'build-1']" in printed
    assert printed.endswith("not_found\n")
