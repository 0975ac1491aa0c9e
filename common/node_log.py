"""Where a node's log goes: stderr, which a service manager or a container collects, or a file of its own.

Decides that a file is opened anew at every reload, so that whoever rotates logs may rename it and send SIGHUP, and that
every line is written whole to the end of the file, so that it may as well be copied and truncated. A line that cannot
be written, on a full disk say, is lost: it must not take the node along.
"""

from __future__ import annotations

import io
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, Protocol

from common.errors import LocalError
from common.logs import configure

Level = Literal["debug", "info", "warning", "error"]
_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class _LogFile(io.StringIO):
    """Collects what is printed and writes it at each flush, so that a line goes to the file in one piece."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._fd = _append(path)

    def reopen(self, path: Path) -> None:
        """Go on in another file, or in a new one of that name; raises OSError and goes on as before."""
        fd = _append(path)
        # The number stays: a logger that was bound before writes there, and must not meet a closed or another's file.
        os.dup2(fd, self._fd, inheritable=False)
        os.close(fd)

    def flush(self) -> None:
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        with suppress(OSError):
            os.write(self._fd, text.encode("utf-8", "backslashreplace"))


def _append(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


class _Section(Protocol):
    """`[log]`."""

    @property
    def level(self) -> Level: ...

    def path(self, directory: Path) -> Path | None: ...


class Logged(Protocol):
    """What of a node's settings says how it logs."""

    @property
    def log(self) -> _Section:
        """`[log]`."""


class NodeLog:
    """The log of this process; `open` it with the settings, and again whenever they or the file may have changed."""

    def __init__(self) -> None:
        self._file: _LogFile | None = None

    def open(self, path: Path | None, level: Level) -> None:
        """Log to the file, or to stderr; raises `LocalError` `log_file` and goes on as before."""
        if path is not None:
            try:
                if self._file is None:
                    self._file = _LogFile(path)
                else:
                    self._file.reopen(path)
            except OSError as error:
                raise LocalError(f"cannot write the log to {path}: {error.strerror}", code="log_file") from error
        configure(None if path is None else self._file, _LEVELS[level])

    def follow(self, directory: Path, settings: Logged) -> None:
        """Do what the settings of the node in `directory` say."""
        self.open(settings.log.path(directory), settings.log.level)
