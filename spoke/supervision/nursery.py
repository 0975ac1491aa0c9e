"""The nursery: a small resident process that forks a keeper for each agent start.

A fork of it takes about a millisecond, where a new interpreter takes thirty; and it has one thread, so forking is safe,
as it would not be in the spoke. It keeps no state: it ends when its socket does, and its keepers do not notice.
Each request carries four descriptors (`keeper.KeeperFds`); anything else is dropped. Standard library only.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
from typing import Final

from spoke.supervision import linux
from spoke.supervision.keeper import KeeperFds, keep

REQUEST: Final = b"start"
_FDS: Final = 4


def main(socket_fd: int) -> int:
    """Serve start requests until the spoke's end closes; in a forked keeper, return when its agent has ended."""
    os.umask(0o077)
    linux.set_process_name("hubspoke-nursery")
    for signum in (signal.SIGCHLD, signal.SIGINT, signal.SIGHUP):  # ended keepers are reaped by the kernel
        signal.signal(signum, signal.SIG_IGN)
    gc.collect()
    gc.freeze()  # collections in a keeper must not copy the pages it shares with us
    requests = socket.socket(fileno=socket_fd)
    while (fds := _receive(requests)) is not None:
        if len(fds) == _FDS and _fork(fds[-1]) == 0:
            requests.close()
            return keep(KeeperFds(*fds))
        for fd in fds:
            os.close(fd)
    requests.close()
    return 0


def _receive(requests: socket.socket) -> list[int] | None:
    """Return the descriptors of the next request, None when the spoke is gone."""
    message, fds, _, _ = socket.recv_fds(requests, len(REQUEST), _FDS, socket.MSG_CMSG_CLOEXEC)
    return fds if message else None


def _fork(status_fd: int) -> int:
    """Fork, or tell the starter why not; returns 0 in the child, -1 when there is none."""
    try:
        return os.fork()
    except OSError as error:
        os.write(status_fd, f"fork: {error.strerror}".encode())
        return -1
