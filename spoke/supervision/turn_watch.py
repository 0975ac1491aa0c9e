"""Sees in what a program prints that it has done everything it was asked so far: then its input may be closed.

A program that takes messages as lines of JSON (`prompt_via = "stream-json"`) ends when its input does, and must not end
before it has answered. The end of a turn is a line that is a JSON object whose `type` is the one that is waited for and
that tells of no queued turns. Bounded: a line of more than 1 MiB is none. Standard library only.
"""

from __future__ import annotations

import json
from typing import Final

_LONGEST: Final = 1024 * 1024


class TurnWatch:
    """Watches a stream of bytes for lines of `turn_end`; None waits for nothing."""

    def __init__(self, turn_end: str | None) -> None:
        self._turn_end = turn_end
        # How it looks in compact JSON and in JSON with spaces; a line without it need not be parsed.
        self._hint = b"" if turn_end is None else json.dumps(turn_end).encode()
        self._line = bytearray()
        self._too_long = False

    def feed(self, chunk: bytes) -> bool:
        """Say whether a turn ended in this chunk."""
        if self._turn_end is None:
            return False
        *ends, rest = chunk.split(b"\n")
        ended = False
        for part in ends:
            self._take(part)
            ended = (not self._too_long and self._is_end()) or ended
            self._line.clear()
            self._too_long = False
        self._take(rest)
        return ended

    def _take(self, part: bytes) -> None:
        if self._too_long or len(self._line) + len(part) > _LONGEST:
            self._line.clear()
            self._too_long = True
        else:
            self._line += part

    def _is_end(self) -> bool:
        if self._hint not in self._line:
            return False
        try:
            said = json.loads(self._line)
        except (ValueError, RecursionError):
            return False
        return isinstance(said, dict) and said.get("type") == self._turn_end and not said.get("queued_turn_count")
