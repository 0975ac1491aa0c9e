"""An agent that takes messages while it runs: its input is fed from a file and closed when everything was answered.

Without the end of a turn to wait for, the input is closed as soon as the last message was passed on. Standard library
only: the keeper imports it.
"""

from __future__ import annotations

import math
import os
import select
from contextlib import suppress
from typing import Final

from spoke.supervision.input_feed import InputFeed
from spoke.supervision.run_dir import STDIN
from spoke.supervision.turn_watch import TurnWatch

_RETRY_S: Final = 0.05


class Conversation:
    """The input of one agent; `stdin_fd` is the agent's end. Raises OSError; used in the run directory."""

    def __init__(self, turn_end: str | None) -> None:
        file_fd = os.open(STDIN, os.O_RDWR | os.O_NOFOLLOW)
        self.stdin_fd, write_fd = os.pipe()
        self._feed = InputFeed(file_fd, write_fd)
        self._pipe_fd = write_fd
        self._turns = TurnWatch(turn_end)
        self._waits_for_turns = turn_end is not None

    def watch(self, chunk: bytes) -> None:
        """Take note of what the agent prints."""
        if self._turns.feed(chunk):
            self._feed.unanswered = False

    def go_on(self, poller: select.poll) -> float:
        """Pass messages on and close what needs no more; returns after how many seconds to ask again at the latest.

        The poller is told of the pipe only while the agent must read before anything can go on.
        """
        if self._feed.pass_on():
            poller.register(self._pipe_fd, select.POLLOUT)
            return math.inf
        with suppress(KeyError):
            poller.unregister(self._pipe_fd)
        if not self._waits_for_turns:
            self._feed.unanswered = False
        if self._feed.closed or self._feed.unanswered or self._feed.finish():
            return math.inf
        return _RETRY_S

    def close(self) -> None:
        """Close the agent's input, whatever waits: the first step of ending it."""
        self._feed.close()
