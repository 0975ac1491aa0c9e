"""Asking a run to end, or telling it more: lines for its keeper, which needs neither a spoke nor a store for either."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from spoke.supervision.adoption import opened
from spoke.supervision.input_feed import InputClosed, MessageConflict, add_message
from spoke.supervision.run_dir import (
    CONTROL,
    EXIT,
    INPUT_ADDED,
    LAUNCH,
    KillRequest,
    decode_launch,
    encode_kill,
    read_file,
)

__all__ = ["InputClosed", "MessageConflict", "ask_to_end", "tell"]


def ask_to_end(run_dir: Path, grace_s: float, cause: str) -> None:
    """Ask for SIGTERM now and SIGKILL after `grace_s`; asking again may shorten the grace.

    The request is kept if the agent is just being started. Nothing happens when the run has ended or never began.
    """
    _write_line(run_dir, encode_kill(KillRequest(grace_s, cause)))


def tell(run_dir: Path, message_id: str, message: bytes) -> None:
    """Give a running agent a message, once however often; durable, and passed on as soon as the agent reads.

    Raises InputClosed when it takes none, or none any more, MessageConflict for an id of another message, and OSError.
    """
    with opened(run_dir) as run_fd:
        launch = read_file(LAUNCH, run_fd)
        if launch is None or not decode_launch(launch)[0].stream:
            raise InputClosed
        add_message(run_fd, message_id, message, is_over=read_file(EXIT, run_fd) is not None)
    _write_line(run_dir, INPUT_ADDED)


def _write_line(run_dir: Path, line: bytes) -> None:
    try:
        fd = os.open(run_dir / CONTROL, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # ENOENT: never started; ENXIO: nobody reads, it has ended
        return
    try:
        with suppress(BlockingIOError, BrokenPipeError):  # full of requests already; ended just now
            os.write(fd, line)
    finally:
        os.close(fd)
