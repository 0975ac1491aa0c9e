"""A second hub in Node, whose author had read docs/protocol.md and nothing else of this project, works with our spoke.

It checks what it is told as the page says a receiver must, and sends what a spoke must refuse: 88 checks of its own,
from the batch of a thousand to rotation on both sides. What its author had to ask stands in docs/protocol-questions.md.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.spoke.repositories import make_repository
from tests.interop.conftest import NODE
from tests.interop.test_node_hub import join
from tests.spoke_node import SPOKE, SpokeNode, eventually, tables

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open("new.txt", "w").write("x")
print("up", flush=True)
time.sleep(60)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(stage: Path, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    with log.open("w") as output:
        return subprocess.Popen(
            [str(NODE), "second_hub.mjs", *arguments],
            cwd=stage, stdout=output, stderr=output, env={**os.environ, "SPOKE": str(SPOKE)},
        )  # fmt: skip


@pytest.mark.slow
async def test_a_hub_by_somebody_else_finds_what_the_page_says(tmp_path: Path, node_stage: Path) -> None:
    repository = make_repository(tmp_path / "repository")
    toml = tables(
        policy={
            "commands": ["spawn", "status", "kill", "logs", "diff", "send"],
            "repositories": [f"{tmp_path.as_uri()}/**"],
            "rate_per_s": 50,
        },
        **{
            "agents.worker": {"profile": "report"},
            "agents.tester": {"profile": "command", "command": [sys.executable, "-c", STUBBORN]},
        },
    )
    async with SpokeNode(tmp_path, toml=toml, env={"SPOKE_NODE__LINK": "never"}) as spoke:
        place, log = tmp_path / "second-hub", tmp_path / "second-hub.log"
        options = ["--spoke-dir", str(spoke.directory), "--repo", repository.as_uri()]
        hub = start(node_stage, log, str(place), str(free_port()), *options)
        try:
            invite = place / "invite"
            await eventually(invite.exists, "it offers an invite")
            join(spoke, invite.read_text())
            status = await asyncio.to_thread(hub.wait, 130)
        finally:
            hub.kill()
            hub.wait()
        told = log.read_text()
        different = [line for line in told.splitlines() if " DIFF " in line]
        assert not different, "\n".join(different)
        assert status == 0, told[-6000:]
        assert "done; 0 differences" in told
        assert sum(" ok   " in line for line in told.splitlines()) >= 80
