"""The spoke's end of the nursery: starts it, hands it requests, replaces it when it has died.

Requests go over an inherited socket pair, so no path can be too long and nobody else can connect, and the nursery sees
the end of the spoke as the end of its socket, whatever killed the spoke.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from spoke.supervision.nursery import REQUEST

DEFAULT_ENV: Final = MappingProxyType({"PATH": os.defpath, "LC_ALL": "C.UTF-8"})
"""Agents run as our user and could read their keeper's environment: it must hold none of our secrets (attack 53)."""
_ROOT: Final = Path(__file__).resolve().parents[2]
STOP_S: Final = 5.0


class NurseryClient:
    """At most one living nursery; every method is short and blocks only for milliseconds."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """The process id of the nursery, None while there is none."""
        return None if self._process is None else self._process.pid

    def ensure(self) -> socket.socket:
        """Return the socket of a nursery that has not ended, a new one if need be. Raises OSError."""
        if self._process is not None and self._process.poll() is not None:
            self.stop()
        if self._socket is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._process = self._spawn(theirs.fileno())
            self._socket = ours
        return self._socket

    def request(self, fds: Sequence[int]) -> None:
        """Hand over a start; when the nursery is just dying the descriptors are closed unused and it is replaced."""
        try:
            socket.send_fds(self.ensure(), [REQUEST], fds)
        except (BrokenPipeError, ConnectionResetError):
            self.stop()

    def stop(self) -> None:
        """End the nursery and reap it; keepers go on. Safe to call twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _spawn(self, fd: int) -> subprocess.Popen[bytes]:
        # -I: neither environment nor working directory decides what is imported. Our root comes after the standard
        # library, which nothing may shadow, and before site packages, where another version of us may be installed.
        code = (
            f"import site, sys; sys.path.append({str(_ROOT)!r}); site.main(); "
            f"from spoke.supervision.nursery import main; sys.exit(main({fd}))"
        )
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", code],
            env=dict(self._env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(fd,),
            start_new_session=True,  # a Ctrl-C for the spoke is none for the nursery
        )
