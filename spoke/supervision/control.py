"""Asking a run to end: a line for its keeper, which needs neither a spoke nor a store to act on it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from spoke.supervision.run_dir import CONTROL, KillRequest, encode_kill


def ask_to_end(run_dir: Path, grace_s: float, cause: str) -> None:
    """Ask for SIGTERM now and SIGKILL after `grace_s`; asking again may shorten the grace.

    The request is kept if the agent is just being started. Nothing happens when the run has ended or never began.
    """
    line = encode_kill(KillRequest(grace_s, cause))
    try:
        fd = os.open(run_dir / CONTROL, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # ENOENT: never started; ENXIO: nobody reads, it has ended
        return
    try:
        with suppress(BlockingIOError, BrokenPipeError):  # full of requests already; ended just now
            os.write(fd, line)
    finally:
        os.close(fd)
