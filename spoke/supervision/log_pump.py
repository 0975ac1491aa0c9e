"""Moves what an agent prints into its log, up to a cap; the agent is never held up and never dies of it (fault 28).

After the cap, or when the disk refuses, one marker line is written and the rest is read, counted and dropped, but for
its last 256 KiB, which go into a file of their own: how it ended is told last. Secrets are masked; all other bytes
arrive as they were, invalid UTF-8 and escape sequences too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from spoke.supervision.masking import Masker

_CHUNK: Final = 65536
_DRAIN_CHUNKS: Final = 64
"""More than any pipe holds: after its writers are gone, one drain gets everything."""
TAIL_BYTES: Final = 256 * 1024


def _nobody(chunk: bytes) -> None:
    """Watches nothing."""


class LogPump:
    """Reads `pipe_fd` (non-blocking), writes `log_fd`; owns both."""

    def __init__(
        self,
        pipe_fd: int,
        log_fd: int,
        cap_bytes: int,
        masker: Masker | None = None,
        watch: Callable[[bytes], None] = _nobody,
    ) -> None:
        """Take also what `watch` is told of each chunk, as the agent printed it."""
        self._masker = masker or Masker(())
        self._watch = watch
        self.tail = bytearray()
        """The last of what was dropped."""
        self._pipe_fd = pipe_fd
        self._log_fd = log_fd
        self._cap_bytes = cap_bytes
        self.kept = 0
        self.dropped = 0
        self.problem: str | None = None
        """Why the log ends early although the cap was not reached."""

    def pump(self) -> int | None:
        """Move one chunk; returns its size, 0 at the end of output, None when nothing is there yet."""
        try:
            chunk = os.read(self._pipe_fd, _CHUNK)
        except BlockingIOError:
            return None
        self._watch(chunk)
        self._keep(self._masker.feed(chunk))
        return len(chunk)

    def finish(self) -> None:
        """Take what is left in the pipe, without waiting for anybody who still holds it, and close the log durably."""
        for _ in range(_DRAIN_CHUNKS):
            if not self.pump():
                break
        self._keep(self._masker.flush())
        try:
            if self.kept or self.dropped:
                os.fsync(self._log_fd)
        except OSError as error:
            self.problem = self.problem or f"log: {error.strerror}"
        os.close(self._log_fd)
        os.close(self._pipe_fd)

    def _keep(self, chunk: bytes) -> None:
        room = 0 if self.dropped else self._cap_bytes - self.kept
        written = self._write(chunk[:room]) if room else 0
        self.kept += written
        if written < len(chunk):
            if not self.dropped:
                self._write(self._marker())
            self.dropped += len(chunk) - written
            self.tail += chunk[written:]
            del self.tail[:-TAIL_BYTES]

    def _marker(self) -> bytes:
        reason = self.problem or f"capped at {self._cap_bytes} bytes"
        return f"\n[hubspoke: {reason}; the rest of the output is dropped]\n".encode()

    def _write(self, content: bytes) -> int:
        """Write as much as the disk takes; returns how much that was."""
        written = 0
        try:
            while written < len(content):
                written += os.write(self._log_fd, content[written:])
        except OSError as error:
            self.problem = self.problem or f"log: {error.strerror}"
        return written
