"""A real `spoke machine work` process in a directory of its own: another machine of a `SpokeNode`, for a test.

Nothing is shared with the node but its Valkey (through `valkey`, a path or a proxy's address) and the channel.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any, Final, Self

from tests.spoke_node import SPOKE, SpokeNode, processes_of, run_in_process, tables, until

_STOP_S: Final = 20


def valkey_of(node: SpokeNode) -> str:
    """The URL of the node's embedded Valkey."""
    return f"unix://{node.directory / 'valkey' / 'valkey.sock'}"


class MachineProcess:
    """`async with MachineProcess(node, "m1")`: registered at the node, it works inside of the block."""

    def __init__(
        self, node: SpokeNode, name: str, *, url: str | None = None, valkey: str | None = None, agents: int = 8
    ) -> None:
        """Reach the node at `url` and the store at `valkey`, if not at their own addresses."""
        self.node = node
        self.name = name
        self.directory = node.directory.parent / f"machine-{name}"
        self._output = node.directory.parent / f"machine-{name}.output"
        self._log = node.directory.parent / f"machine-{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        key = json.loads(run_in_process(node.directory, "machine", "key", "--json"))["key"]
        options = ("--spoke", node.id, "--url", url or node.url, "--key", key)
        made = json.loads(run_in_process(self.directory, "machine", "init", name, *options, "--json"))
        self.key: str = made["key"]
        own = (self.directory / "spoke.toml").read_text().partition("[valkey]")[0]
        store = {"url": valkey or valkey_of(node), "allow_data_loss": True}
        (self.directory / "spoke.toml").write_text(own + tables(limits={"agents": agents}, valkey=store, policy={}))

    def register(self) -> None:
        """Add it at the node."""
        run_in_process(self.node.directory, "machine", "add", self.name, self.key)

    def start(self, *, wait: bool = True) -> None:
        """Start it and wait until it is ready."""
        self._output.write_bytes(b"")
        with self._output.open("ab") as output, self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(SPOKE), "--dir", str(self.directory), "machine", "work"],
                cwd=self.directory,
                env=self.node.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
            )
        if wait:
            until(lambda: self.is_ready() or self.has_ended(), "the machine is ready")
            assert not self.has_ended(), self.log()

    def is_ready(self) -> bool:
        """Whether it said so."""
        return self._output.read_text() == f"ready {self.name}\n"

    def has_ended(self) -> bool:
        """Whether its process is gone."""
        return self.process is None or self.process.poll() is not None

    def log(self) -> str:
        """What it wrote to stderr, over all its lives."""
        return self._log.read_text() if self._log.exists() else ""

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it by a signal, agents go on; returns its exit status."""
        assert self.process is not None
        self.send(number)
        return await asyncio.to_thread(self.process.wait, _STOP_S)

    def log_lines(self, event: str) -> list[dict[str, Any]]:
        """Return its log entries of one event, over all its lives."""
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def run_directory(self, agent_id: str) -> Path:
        """Where an agent's attempts lie here."""
        (found,) = self.directory.glob(f"runs/*/{agent_id}")
        return found

    async def __aenter__(self) -> Self:
        self.register()
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        status = 0
        if not self.has_ended():
            self.send(signal.SIGCONT)
            status = await self.end(signal.SIGKILL if kind else signal.SIGTERM)
        self.end_agents()
        assert kind or status == 0, self.log()

    def end_agents(self) -> None:
        """Ask keepers to end their agents, and kill what does not go by itself."""
        for control in self.directory.glob("runs/*/*/*/control"):
            with contextlib.suppress(OSError):  # nobody reads there any more
                fd = os.open(control, os.O_WRONLY | os.O_NONBLOCK)
                os.write(fd, b'{"kill": {"grace_s": 0, "cause": "test_over"}}\n')
                os.close(fd)
        with contextlib.suppress(AssertionError):
            until(lambda: not processes_of(self.directory), "its processes end", 10)
        for pid in processes_of(self.directory):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
