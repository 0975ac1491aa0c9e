"""What a service manager such as systemd is told: that the node takes requests, still lives, and stops.

The protocol of sd_notify(3): datagrams to the socket that `NOTIFY_SOCKET` names. The event loop itself says that it
lives, twice in the time that `WATCHDOG_USEC` gives: a node that hangs is silent and is started anew.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import structlog

_log: Final = structlog.get_logger("service")
_ABSTRACT: Final = "@"


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """`address` is None where nobody listens; `period_s` is 0 where nobody watches."""

    address: str | None
    period_s: float = 0.0

    @classmethod
    def of(cls, environment: Mapping[str, str], pid: int | None = None) -> Self:
        """Read what the manager has put into the environment for the process `pid`, this one."""
        watched = environment.get("WATCHDOG_PID", str(pid or os.getpid())) == str(pid or os.getpid())
        usec = environment.get("WATCHDOG_USEC", "")
        period_s = int(usec) / 1_000_000 / 2 if watched and usec.isascii() and usec.isdecimal() else 0.0
        return cls(environment.get("NOTIFY_SOCKET") or None, period_s)

    async def run(self) -> None:
        """Say that the node is ready, then that it lives, and when this is cancelled that it stops."""
        self._tell("READY=1")
        try:
            while True:
                await asyncio.sleep(self.period_s or 3600)
                self._tell("WATCHDOG=1")
        finally:
            self._tell("STOPPING=1")

    def extend(self, more_s: int) -> None:
        """Say that the start goes on and takes up to so many seconds more: it is not to be given up meanwhile."""
        self._tell(f"EXTEND_TIMEOUT_USEC={more_s * 1_000_000}")

    def _tell(self, state: str) -> None:
        if self.address is None:
            return
        address = f"\0{self.address[1:]}" if self.address.startswith(_ABSTRACT) else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as told:
                told.sendto(state.encode(), address)
        except OSError as error:
            _log.warning("service.not_told", state=state, reason=error.strerror)
