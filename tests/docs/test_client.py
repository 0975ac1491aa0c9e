"""The examples of docs/client.md, run one after the other against a hub and a spoke whose agents complete."""

from __future__ import annotations

import ast
import asyncio
import inspect
from pathlib import Path
from typing import Any

from hub.client import HubClient, Work
from tests.docs.blocks import of_kind
from tests.docs.completing import completing
from tests.integration.hub.hub_node import HubNode


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
