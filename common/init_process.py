"""The first process of a container: signals passed on, orphans reaped, and the node's exit status as its own.

A kernel gives every orphan to process 1 and sends it no signal that it does not wait for. The node itself waits for its
own children only, so as process 1 it forks once: the child is the node, and the parent does this and nothing else.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Final

_PASSED_ON: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
_SIGNALLED: Final = 128
"""Added to the number of the signal that ended the node, as shells do."""


def split_off_init(*, is_first: bool | None = None) -> None:
    """Return in a child when this is process 1, and at once otherwise. Before any thread or event loop is made."""
    if not (os.getpid() == 1 if is_first is None else is_first):
        return
    # Blocked before the fork, so that none is lost between; a blocked signal reaches process 1, too.
    former = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON | {signal.SIGCHLD})
    node = os.fork()
    if node:
        os._exit(_look_after(node))
    signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _look_after(node: int) -> int:
    """Work until the node ends; returns its exit status."""
    while True:
        number = signal.sigwait(_PASSED_ON | {signal.SIGCHLD})
        if number != signal.SIGCHLD:
            os.kill(node, number)  # not reaped yet, so it is still its number
        elif (status := _reap(node)) is not None:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else _SIGNALLED - code


def _reap(node: int) -> int | None:
    """Reap everybody who has ended; returns the node's wait status when it was among them."""
    found = None
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == node:
                found = ended[1]
    return found
