"""Floods of bad envelopes: good peers are served meanwhile, and the audit stays small (attack row 64)."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.peer import HubPeer, new_id
from tests.spoke_node import SpokeNode, eventually

FLOODER = Path(__file__).parent / "flooder.py"
COUNT = 10_000
GOOD = 60


async def p99_s(hub: HubPeer, node: SpokeNode) -> float:
    """Ask for something GOOD times, one after the other; return nearly the longest it took."""
    took = []
    for _ in range(GOOD):
        started = time.monotonic()
        result = await hub.ask(node, hub.about("status", new_id()))
        took.append(time.monotonic() - started)
        assert result["error"]["code"] == "not_found"
    return sorted(took)[-1]


def counted(node: SpokeNode) -> int:
    lines = map(json.loads, (node.directory / "audit" / "audit.jsonl").read_text().splitlines())
    return sum(line["count"] for line in lines if line["event"] == "envelope.refused")


@pytest.mark.slow
@pytest.mark.attack(64)
async def test_a_good_peer_is_served_while_bad_signatures_pour_in(tmp_path: Path) -> None:
    async with SpokeNode(tmp_path) as node:
        hub = HubPeer()
        hub.register(node)
        quiet_s = await p99_s(hub, node)
        good = hub.seal(node, hub.about("status", new_id()))
        # The right key, so that each costs a verification.
        bad = good[:-20] + (b"A" if good[-20:-19] != b"A" else b"B") + good[-19:]
        audit = node.directory / "audit" / "audit.jsonl"
        size = audit.stat().st_size
        url = urlsplit(node.url)
        flooder = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", str(FLOODER), str(url.hostname), str(url.port), str(COUNT),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        answered = asyncio.create_task(flooder.communicate(bad))
        await eventually(lambda: "bad_signature" in node.log(), "the flood has begun")
        flooded_s = await p99_s(hub, node)
        assert not answered.done(), "the flood was over too soon to say anything"
        answers, _ = await answered
        assert json.loads(answers) == {"401": COUNT}
        assert flooded_s < max(1.0, quiet_s * 30), f"{quiet_s:.3f} s in quiet, {flooded_s:.3f} s in the flood"
        await eventually(lambda: counted(node) == COUNT, "every refusal is counted")
        assert audit.stat().st_size - size < GOOD * 600 + 5000
        checked = await node.spoke("audit", "verify")
        assert checked.returncode == 0, checked.stdout
