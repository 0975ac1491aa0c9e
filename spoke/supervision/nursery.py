"""The nursery: a small resident process that has a keeper ready for the next agent start.

A fork of it takes about a millisecond, where a new interpreter takes thirty; and it has one thread, so forking is safe,
as it would not be in the spoke. The next keeper is forked before it is wanted, so a start does not wait for that. A
keeper whose agent came to its end as usual offers itself for the next one. The nursery keeps no other state: it ends
when its socket does, its keepers do not notice, and a keeper without an agent ends with it. Each request carries four
descriptors (`keeper.KeeperFds`); anything else is dropped. Standard library only.
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
from spoke.supervision.execution import ignore_nothing, take_note
from spoke.supervision.keeper import KeeperFds, Kept, keep, prepare, rehearse

REQUEST: Final = b"start"
_OFFER: Final = b"free"
_FDS: Final = 4
_INT: Final = 4
"""Bytes of a descriptor in a message."""
_MOST_USES: Final = 100
"""Agents that one keeper keeps, one after the other: what little of each may stay in its memory is bounded."""
_MOST_IDLE: Final = 16
_IDLE_S: Final = 10.0
"""After so long without a start all but one of the keepers without an agent end."""
_REHEARSALS: Final = 16
"""CPython adapts code that has run about eight times."""


class Born(Exception):
    """Raised in a process that was forked to be a keeper."""

    def __init__(self, nursery: socket.socket, offers: socket.socket, home_fd: int) -> None:
        super().__init__()
        self.nursery = nursery
        self.offers = offers
        self.home_fd = home_fd
        """The directory that it is in while it keeps nobody."""


class Nursery:
    """The keepers that have no agent: those that offered themselves, and a new one where nobody did."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._offers, self._offering = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._idle: list[socket.socket] = []
        self._home_fd = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def serve(self) -> None:
        """Hand over requests until the spoke is gone; raises `Born` in each keeper."""
        self._fork([])
        while True:
            ready = _wait_for(self._requests, self._offers, at_most_s=_IDLE_S)
            if self._offers in ready:
                self._take_offer()
            if self._requests in ready:
                fds = _receive(self._requests)
                if fds is None:
                    return
                self._start(fds)
            if not ready:
                self._dismiss_but(1)

    def _take_offer(self) -> None:
        for fd in _receive(self._offers) or ():
            self._idle.append(socket.socket(fileno=fd))
        self._dismiss_but(_MOST_IDLE)

    def _dismiss_but(self, count: int) -> None:
        """Let those end that have waited longest."""
        while len(self._idle) > count:
            self._idle.pop(0).close()

    def _start(self, fds: list[int]) -> None:
        keeper = self._hand_over(fds) if len(fds) == _FDS else None
        for fd in fds:
            os.close(fd)
        if keeper is not None and not self._idle:
            with keeper:  # until its agent runs or there is more to do: a fork beside a start would only slow it down
                _wait_for(self._requests, self._offers, keeper)
            if _wait_for(self._offers, at_most_s=0):
                self._take_offer()
        elif keeper is not None:
            keeper.close()
        if not self._idle:
            self._fork([])

    def _hand_over(self, fds: list[int]) -> socket.socket | None:
        """Give an agent to the one that came last: its memory is warm. Where there is none, tell the starter."""
        is_new = False
        while not is_new:
            if is_new := not self._idle:
                self._fork(fds)  # those that died get one successor; then the starter hears of it and tries again
            if self._idle:
                keeper = self._idle.pop()
                try:
                    socket.send_fds(keeper, [REQUEST], fds)
                except OSError:
                    keeper.close()
                else:
                    return keeper
        _tell(fds[-1])
        return None

    def _fork(self, held: list[int]) -> None:
        """Fork a keeper, if we can, that holds nothing of ours; `held` is what else we have open."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        linux.set_process_name("hubspoke-spare")  # inherited: cheaper than if each had to set its own
        try:
            pid = os.fork()
        except OSError:
            ours.close()
        else:
            if pid == 0:
                for other in (self._requests, self._offers, ours, *self._idle):
                    other.close()
                for fd in held:
                    os.close(fd)
                prepare()
                raise Born(theirs, self._offering, self._home_fd)
            self._idle.append(ours)
        theirs.close()
        linux.set_process_name("hubspoke-nursery")


def main(socket_fd: int) -> int:
    """Serve start requests until the spoke's end closes; in a keeper, return when it is to end."""
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
        Nursery(socket.socket(fileno=socket_fd)).serve()
    except Born as born:
        os._exit(_keep(born))  # an interpreter that is taken down properly takes longer than all the rest
    return 0


def _keep(born: Born) -> int:
    """Keep one agent after the other, until one was unusual or nobody wants us; return our exit status."""
    nursery = born.nursery
    if not _wait_for(nursery, at_most_s=0):
        rehearse()
    for use in range(_MOST_USES):
        fds = _receive(nursery)
        if fds is None or len(fds) != _FDS:
            return 0
        kept = keep(KeeperFds(*(*fds, nursery.detach())), born.home_fd)
        if kept is not Kept.AS_NEW:
            return 1 if kept is Kept.FAILED else 0
        if use == _MOST_USES - 1:
            break
        linux.hide_memory()  # what we kept for one agent must not be read by the next
        linux.set_process_name("hubspoke-spare")
        nursery, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                socket.send_fds(born.offers, [_OFFER], [theirs.fileno()])
            except OSError:
                return 0  # the nursery is gone
    return 0


def _wait_for(*sockets: socket.socket, at_most_s: float | None = None) -> set[socket.socket]:
    """Return those that have something to read, or an end; `poll`, as `select` takes no descriptor beyond 1023."""
    poller, by_fd = select.poll(), {each.fileno(): each for each in sockets}
    for fd in by_fd:
        poller.register(fd, select.POLLIN)
    return {by_fd[fd] for fd, _ in poller.poll(None if at_most_s is None else at_most_s * 1000)}


def _tell(status_fd: int) -> None:
    """Tell the starter that there is no keeper for its agent."""
    os.write(status_fd, b"fork: no process for a keeper")


def _receive(peer: socket.socket) -> list[int] | None:
    """Return the descriptors of the next message, None when the other side is gone.

    They close at exec, which `socket.recv_fds` would not see to: it forgets its flags.
    """
    room = socket.CMSG_SPACE(_FDS * _INT)
    message, ancillary, _, _ = peer.recvmsg(len(REQUEST), room, socket.MSG_CMSG_CLOEXEC)
    return [fd for _, _, fds in ancillary for fd in memoryview(fds).cast("i")] if message else None
