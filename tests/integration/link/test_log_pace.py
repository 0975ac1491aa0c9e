"""A long log is read at a pace that leaves room, on a spoke with the usual `rate_per_s`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.integration.hub.hub_node import HubNode
from tests.integration.link.pair import Pair, join
from tests.integration.spoke.repositories import make_repository
from tests.integration.spoke.test_node_wire import metrics_of
from tests.spoke_node import SpokeNode, tables

MIB = 24
WRITES = f"import sys; [sys.stdout.write('x' * (1 << 20)) for _ in range({MIB})]"


async def test_a_long_log_does_not_use_up_what_the_spoke_takes_of_its_hub(tmp_path: Path) -> None:
    agent = {"profile": "command", "command": [sys.executable, "-I", "-S", "-c", WRITES], "env": []}
    toml = tables(**{"agents.worker": agent, "policy": {"rate_per_s": 50}})
    with HubNode(tmp_path) as hub:
        async with SpokeNode(tmp_path, toml=toml) as spoke:
            await join(hub, spoke)
            pair = Pair(hub, spoke, make_repository(tmp_path / "repository"))
            await pair.up()
            agent_id = await pair.spawn("x")
            await pair.until(agent_id, "completed")
            log = await hub.hub("logs", agent_id, "--raw")
            assert (log.returncode, len(log.stdout)) == (0, MIB << 20)
            assert 'code="rate_limited"' not in await metrics_of(spoke)
