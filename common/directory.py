"""A node's directory: one running node at a time, one worker of each name, and where the others find the node.

Locks are advisory locks of the kernel, gone with the process whatever ends it. The URL file says where the node listens
and is believed only while the node holds a lock on it: whoever calls the node shows a token, and when the node is down
anybody on the machine may listen on its port.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from common.errors import LocalError

_NODE: Final = "node"
_BACKUP: Final = "backup"
_URL: Final = "node.url"


@contextmanager
def exclusive(directory: Path, role: str = _NODE) -> Iterator[None]:
    """Be the only process of its role in the directory until the block ends; raises `LocalError` `already_running`."""
    refusal = LocalError(f"a {role} is running on {directory} already; stop that one first", code="already_running")
    with _held(directory, role, refusal):
        yield


@contextmanager
def backing_up(directory: Path) -> Iterator[None]:
    """Be the only one who backs the directory up until the block ends; raises `LocalError` `backup_running`."""
    refusal = LocalError("another backup of this node is being made; wait for it", code="backup_running")
    with _held(directory, _BACKUP, refusal):
        yield


@contextmanager
def _held(directory: Path, role: str, refusal: LocalError) -> Iterator[None]:
    try:
        descriptor = os.open(directory / f"{role}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LocalError(f"cannot use {directory}: {error.strerror}; run init first", code="directory") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise refusal from error
        yield
    finally:
        os.close(descriptor)


@contextmanager
def announced(directory: Path, url: str) -> Iterator[None]:
    """Leave the node's URL in its directory for the command line until the block ends."""
    path = directory / _URL
    temporary = directory / f"{_URL}.new"
    with temporary.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # before anybody can find it under its name
        file.write(f"{url}\n")
        file.flush()
        temporary.replace(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def announced_url(directory: Path) -> str | None:
    """Return the URL that the node running on this directory announced, or None when none runs."""
    try:
        with (directory / _URL).open() as file:
            return (file.readline().strip() or None) if _is_locked(file) else None
    except OSError:
        return None


def _is_locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
