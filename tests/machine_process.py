"""A real `spoke machine work` process in a directory of its own: another machine of a `SpokeNode`, for a test.

Nothing is shared with the node but its Valkey (through `valkey`, a path or a proxy's address) and the channel.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Self

from tests.process_beside import ProcessBeside
from tests.spoke_node import SpokeNode, end_agents_of, run_in_process, tables


def valkey_url_of(node: SpokeNode) -> str:
    """The URL of the node's embedded Valkey."""
    return f"unix://{node.directory / 'valkey' / 'valkey.sock'}"


class MachineProcess(ProcessBeside):
    """`async with MachineProcess(node, "m1")`: registered at the node, it works inside of the block."""

    def __init__(
        self,
        node: SpokeNode,
        name: str,
        *,
        url: str | None = None,
        valkey: str | None = None,
        agents: int = 8,
        profile: str | None = None,
    ) -> None:
        """Reach the node at `url` and the store at `valkey`, if not at their own addresses; workers of that profile."""
        directory = node.directory.parent / f"machine-{name}"
        super().__init__(node, "machine", name, "machine", "work", directory=directory)
        key = json.loads(run_in_process(node.directory, "machine", "key", "--json"))["key"]
        options = ("--spoke", node.id, "--url", url or node.url, "--key", key)
        made = json.loads(run_in_process(directory, "machine", "init", name, *options, "--json"))
        self.key: str = made["key"]
        own = (directory / "spoke.toml").read_text().partition("[valkey]")[0]
        store = {"url": valkey or valkey_url_of(node), "allow_data_loss": True}
        workers = {} if profile is None else {"agents.worker": {"profile": profile}}
        toml = tables(limits={"agents": agents}, valkey=store, policy={}, **workers)
        (directory / "spoke.toml").write_text(own + toml)

    def register(self) -> None:
        """Add it at the node."""
        run_in_process(self.node.directory, "machine", "add", self.name, self.key)

    def run_directory(self, agent_id: str) -> Path:
        """Where an agent's attempts lie here."""
        (found,) = self.directory.glob(f"runs/*/{agent_id}")
        return found

    async def __aenter__(self) -> Self:
        self.register()
        return await super().__aenter__()

    def end_agents(self) -> None:
        """Ask keepers to end their agents, and kill what does not go by itself."""
        end_agents_of(self.directory)
