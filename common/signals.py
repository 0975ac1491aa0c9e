"""The signals of a node: SIGTERM and SIGINT stop it, SIGHUP has it read its configuration again.

A terminal that is closed sends SIGHUP, too; then there is nobody to log for and the node stops, as it always would.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self


def _on_terminal() -> bool:
    return os.isatty(sys.stderr.fileno())


@dataclass(frozen=True, slots=True)
class Signals:
    """`stop` is set once the node is to end; make it by `of` before anything that takes time."""

    had_terminal: bool
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    _hung_up: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Self:
        """Take the signals of this process from now on."""
        signals = cls(_on_terminal())
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, signals.stop.set)
        loop.add_signal_handler(signal.SIGHUP, signals._hang_up)
        return signals

    def _hang_up(self) -> None:
        if self.had_terminal and not _on_terminal():
            self.stop.set()
        else:
            self._hung_up.set()

    async def reload_by(self, reload: Callable[[], Awaitable[None]]) -> None:
        """Call `reload` for each SIGHUP, also one that came before; signals in quick succession are one."""
        while True:
            await self._hung_up.wait()
            self._hung_up.clear()
            await reload()
