"""A real process of a spoke's command line that works beside a `SpokeNode`: a worker, or another machine."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from pathlib import Path
from typing import Any, Final, Self

from tests.spoke_node import SPOKE, SpokeNode, until

_STOP_S: Final = 20


class ProcessBeside:
    """`async with` it: it works inside of the block; what it says is `log_lines(event)`."""

    def __init__(self, node: SpokeNode, kind: str, name: str, *arguments: str, directory: Path | None = None) -> None:
        """Run `arguments` on `directory`, if not the node's own; it is ready when it prints `ready NAME`."""
        self.node = node
        self.name = name
        self.directory = directory or node.directory
        self._kind = kind
        self._arguments = arguments
        self._output = node.directory.parent / f"{kind}-{name}.output"
        self._log = node.directory.parent / f"{kind}-{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        """Start it and wait until it is ready."""
        self._output.write_bytes(b"")
        with self._output.open("ab") as output, self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(SPOKE), "--dir", str(self.directory), *self._arguments],
                cwd=self.directory,
                env=self.node.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
            )
        if wait:
            until(lambda: self.is_ready() or self.has_ended(), f"the {self._kind} is ready")
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

    def log_lines(self, event: str) -> list[dict[str, Any]]:
        """Return its log entries of one event, over all its lives."""
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it by a signal, agents go on; returns its exit status."""
        assert self.process is not None
        self.send(number)
        return await asyncio.to_thread(self.process.wait, _STOP_S)

    async def __aenter__(self) -> Self:
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
        """End what belongs to it alone: nothing, where it shares the directory of the node."""
