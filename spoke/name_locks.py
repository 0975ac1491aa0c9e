"""Names that are locked against every process of the machine: byte ranges of one file, one file description each.

A lock of the kernel goes with the process that holds it, whatever ends that process: nobody has to guess from a clock
whether a holder still lives. Two descriptions exclude each other within one process as well.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Final

_FLOCK: Final = struct.Struct("hhqqi4x")
"""`struct flock` of 64-bit Linux: type, whence, start, length, process (fcntl(2))."""
_OFFSET_BITS: Final = 62


class NameLocks:
    """The locks in the file `path`, which is made when the first is taken. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def trying(self, name: str, shared: str) -> Iterator[bool]:
        """Lock `name` alone and `shared` with others, until the block ends; yields False where somebody has `name`."""
        descriptor = self._open()
        try:
            yield _lock(descriptor, name, fcntl.F_WRLCK) and _lock(descriptor, shared, fcntl.F_RDLCK)
        finally:
            os.close(descriptor)

    def is_shared(self, name: str) -> bool:
        """Say whether anybody holds `name` at this moment, in whatever way."""
        descriptor = self._open()
        try:
            asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _offset(name), 1, 0)
            answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked)
        finally:
            os.close(descriptor)
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _lock(descriptor: int, name: str, kind: int) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, _offset(name), 1, 0))
    except BlockingIOError:
        return False
    return True


def _offset(name: str) -> int:
    """Give each name a byte of its own; two that shared one would only wait for each other."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest()) >> (64 - _OFFSET_BITS)
