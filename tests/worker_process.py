"""A real `spoke worker` process beside a `SpokeNode`, for a test."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from typing import Any, Final, Self

from tests.spoke_node import SPOKE, SpokeNode, until

_STOP_S: Final = 20


class WorkerProcess:
    """`async with WorkerProcess(node, "a")`: it works inside of the block; what it says is `log_lines(event)`."""

    def __init__(self, node: SpokeNode, name: str) -> None:
        self._node = node
        self._name = name
        self._output = node.directory.parent / f"worker-{name}.output"
        self._log = node.directory.parent / f"worker-{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self._output.write_bytes(b"")
        with self._output.open("ab") as output, self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(SPOKE), "--dir", str(self._node.directory), "worker", self._name],
                env=self._node.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
            )
        until(lambda: self._output.read_text() == f"ready {self._name}\n" or self._has_ended(), "the worker is ready")
        assert not self._has_ended(), self._log.read_text()

    def _has_ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it by a signal; returns its exit status."""
        assert self.process is not None
        self.send(number)
        return await asyncio.to_thread(self.process.wait, _STOP_S)

    def log_lines(self, event: str) -> list[dict[str, Any]]:
        """Return its log entries of one event, over all its lives."""
        lines = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        status = 0
        if not self._has_ended():
            self.send(signal.SIGCONT)
            status = await self.end(signal.SIGKILL if kind else signal.SIGTERM)
        assert kind or status == 0, self._log.read_text()
