"""The nursery: a small resident process that has a keeper ready for the next agent start.

A fork of it takes about a millisecond, where a new interpreter takes thirty; and it has one thread, so forking is safe,
as it would not be in the spoke. The next keeper is forked before it is wanted, so a start does not wait for that. It
keeps no state: it ends when its socket does, its keepers do not notice, and a keeper without an agent ends with it.
Each request carries four descriptors (`keeper.KeeperFds`); anything else is dropped. Standard library only.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import socket
from typing import Final

from spoke.supervision import linux
from spoke.supervision.agent_process import Understudy, ignore_nothing, take_note
from spoke.supervision.keeper import KeeperFds, keep, prepare, rehearse

REQUEST: Final = b"start"
_FDS: Final = 4
_REHEARSALS: Final = 16
"""CPython adapts code that has run about eight times."""


class Wanted(Exception):
    """Raised in a process that was forked to keep an agent, with what it is to keep, None for nothing."""

    def __init__(self, fds: KeeperFds | None, understudy: Understudy | None) -> None:
        super().__init__()
        self.fds = fds
        self.understudy = understudy


class Spare:
    """A keeper that was forked and waits for its agent; where none could be forked, `hand_over` tells."""

    def __init__(self, requests: socket.socket) -> None:
        """Fork one; raises `Wanted` in it as soon as it knows what to keep."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        linux.set_process_name("hubspoke-spare")  # inherited: cheaper than if each had to set its own
        with theirs:
            try:
                pid = os.fork()
            except OSError:
                self._socket.close()
            else:
                if pid == 0:
                    requests.close()
                    self._socket.close()
                    understudy = prepare()
                    if not select.select([theirs], [], [], 0)[0]:
                        rehearse()
                    fds = _receive(theirs)
                    if fds is None or len(fds) != _FDS:
                        raise Wanted(None, understudy)
                    raise Wanted(KeeperFds(*(*fds, theirs.detach())), understudy)

        linux.set_process_name("hubspoke-nursery")

    def hand_over(self, fds: list[int]) -> bool:
        """Give it an agent to keep; false when it is gone."""
        try:
            socket.send_fds(self._socket, [REQUEST], fds)
        except OSError:
            self._socket.close()
            return False
        return True

    def let_start(self, requests: socket.socket) -> None:
        """Wait until its agent runs or the next one is wanted: a fork beside a start would only slow it down."""
        with self._socket:
            select.select([requests, self._socket], [], [])


def main(socket_fd: int) -> int:
    """Serve start requests until the spoke's end closes; in a keeper, return when its agent has ended."""
    os.umask(0o077)
    linux.set_process_name("hubspoke-nursery")
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, take_note)
    ignore_nothing()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended keepers are reaped by the kernel
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # of nobody here, agents included: a core is full of secrets
    for _ in range(_REHEARSALS):
        rehearse()
    gc.collect()
    gc.freeze()  # collections in a keeper must not copy the pages it shares with us
    try:
        _serve(socket.socket(fileno=socket_fd))
    except Wanted as wanted:
        status = 0 if wanted.fds is None else keep(wanted.fds, wanted.understudy)
        os._exit(status)  # an interpreter that is taken down properly takes longer than all the rest
    return 0


def _serve(requests: socket.socket) -> None:
    spare = Spare(requests)
    while (fds := _receive(requests)) is not None:
        if len(fds) == _FDS:
            # One that died, or could not be forked, gets one successor; then the starter hears of it and tries again.
            is_kept = spare.hand_over(fds) or (spare := Spare(requests)).hand_over(fds)
            if not is_kept:
                _tell(fds[-1])
            for fd in fds:
                os.close(fd)
            fds.clear()
            if is_kept:
                spare.let_start(requests)
            spare = Spare(requests)
        for fd in fds:
            os.close(fd)
    requests.close()


def _tell(status_fd: int) -> None:
    """Tell the starter that there is no keeper for its agent."""
    os.write(status_fd, b"fork: no process for a keeper")


def _receive(requests: socket.socket) -> list[int] | None:
    """Return the descriptors of the next request, None when the spoke is gone."""
    message, fds, _, _ = socket.recv_fds(requests, len(REQUEST), _FDS, socket.MSG_CMSG_CLOEXEC)
    return fds if message else None
