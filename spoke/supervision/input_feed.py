"""What an agent is told while it runs: a file of messages that only grows, and the pipe that the keeper feeds from it.

A line of the file is `ID MESSAGE`: the id makes a message that is sent twice one message, and is not passed on. Whoever
adds one holds the file's lock; the keeper holds it to write the last line, `closed`, so no message can be promised that
nobody reads any more. A line without its end is a sender's that died; the next one removes it. Standard library only.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from typing import Final

from spoke.supervision.run_dir import STDIN

_CLOSED: Final = b"closed\n"
_CHUNK: Final = 65536


class InputClosed(Exception):
    """The agent reads no more input."""


class MessageConflict(Exception):
    """Another message was added under this id."""


def message_line(message_id: str, message: bytes) -> bytes:
    """Return one line of the file; `message` is one line without its end."""
    return message_id.encode() + b" " + message + b"\n"


def add_message(run_fd: int, message_id: str, message: bytes, *, is_over: bool = False) -> None:
    """Add a message for the agent of a run directory, once however often; durable.

    Raises InputClosed, also for a run that `is_over`, unless the message was added before; MessageConflict; OSError.
    """
    fd = os.open(STDIN, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=run_fd)
    with os.fdopen(fd, "r+b") as file:
        fcntl.flock(fd, fcntl.LOCK_EX)
        content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        line = message_line(message_id, message)
        for known in whole.splitlines(keepends=True):
            if known.partition(b" ")[0] == message_id.encode():
                if known != line:
                    raise MessageConflict
                return
        if is_over or whole.endswith(_CLOSED):
            raise InputClosed
        file.seek(len(whole))
        file.truncate()
        file.write(line)
        file.flush()
        os.fsync(fd)


class InputFeed:
    """Passes messages from the file to the pipe of a running agent; owns both descriptors, the pipe is non-blocking."""

    def __init__(self, file_fd: int, pipe_fd: int) -> None:
        os.set_blocking(pipe_fd, False)
        self._file_fd = file_fd
        self.pipe_fd = pipe_fd
        self._position = 0
        self._waiting = b""
        self.unanswered = False
        """Whether something was passed on since the last answer; whoever sees the answers says so."""
        self.closed = False

    def pass_on(self) -> bool:
        """Write what the pipe takes now; says whether there is more for it."""
        while not self.closed and (self._waiting or self._read()):
            try:
                self._waiting = self._waiting[os.write(self.pipe_fd, self._waiting) :]
                self.unanswered = True
            except BlockingIOError:
                return True
            except BrokenPipeError:
                self.close()
        return False

    def finish(self) -> bool:
        """Close the agent's input unless a message waits; says whether it is closed."""
        with suppress(BlockingIOError):  # somebody is just adding one
            fcntl.flock(self._file_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self.pass_on() and not self.unanswered and not self.closed:
                os.pwrite(self._file_fd, _CLOSED, self._position)
                self.close()
            fcntl.flock(self._file_fd, fcntl.LOCK_UN)
        return self.closed

    def close(self) -> None:
        """Close the agent's input, whatever waits."""
        if not self.closed:
            self.closed = True
            os.close(self.pipe_fd)

    def _read(self) -> bool:
        """Take the next whole lines from the file, without their ids."""
        content = b""
        while b"\n" not in content and (piece := os.pread(self._file_fd, _CHUNK, self._position + len(content))):
            content += piece
        whole = content[: content.rfind(b"\n") + 1]
        self._position += len(whole)
        self._waiting = b"".join(line.partition(b" ")[2] for line in whole.splitlines(keepends=True))
        return bool(self._waiting)
