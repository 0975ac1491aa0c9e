"""The file at the end of an audit chain, and appending to it: whole lines or nothing, beside other processes.

A write that fails leaves no half line. Whatever happened to the file meanwhile is noticed before the next line: lines
of another process of this node are taken over; a file that was cut, removed or changed is told in a line of its own,
and the chain goes on from what this process knows, so that verification finds the hole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from common.audit import START, Entry, Head, digest_of, read_line, write_line
from common.audit_directory import AuditDirectory, AuditUnreadable
from common.errors import Malformed

TAMPERED: Final = "audit.tampered"
TORN: Final = "audit.torn"
_TAIL_BYTES: Final = 1024 * 1024
_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class ChainFile:
    """The open file of a chain. Not safe for threads; every method may raise OSError, and then nothing was appended."""

    def __init__(self, directory: AuditDirectory) -> None:
        self._directory = directory
        self._file: int | None = None
        self._size = 0
        self._is_known = False
        self.head = START

    def append(self, at_ms: int, entries: Sequence[Entry], seal: Callable[[Head], Entry] | None = None) -> None:
        """Write a line for each entry and, with `seal`, one more for what it makes of the head then."""
        with self._directory.locked():
            file, noticed = self._catch_up()
            lines, head = bytearray(), self.head
            for entry in [*noticed, *entries]:
                line, head = write_line(head, at_ms, entry)
                lines += line + b"\n"
            if seal is not None:
                line, head = write_line(head, at_ms, seal(head))
                lines += line + b"\n"
            self._write(file, bytes(lines))
            self.head = head
            if seal is not None:
                self._directory.write_witness(head)

    def duplicate(self) -> int:
        """Return another descriptor of the open file, for `fdatasync` in a thread; close it when done."""
        return os.dup(self._open()[0])

    @property
    def size(self) -> int:
        """The bytes of the file."""
        return self._size

    def cut_over(self) -> None:
        """Put the full file away under its name and begin the next one."""
        with self._directory.locked():
            file, _ = self._open()
            os.fdatasync(file)
            self._directory.current.rename(self._directory.full_file(self.head.number))
            self.close()
            self._reopen()

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._file is not None:
            os.close(self._file)
        self._file = None

    def _reopen(self) -> int:
        path = self._directory.current
        self._file = file = os.open(path, _FLAGS, 0o600)
        _sync_directory(path.parent)
        self._size = os.fstat(file).st_size
        return file

    def _open(self) -> tuple[int, list[Entry]]:
        if self._file is not None:
            return self._file, []
        file = self._reopen()
        noticed = self._drop_torn(file, 0)
        if not self._is_known:
            noticed += self._learn()
        return file, noticed

    def _learn(self) -> list[Entry]:
        """Find the head that the files end with; what the witness saw behind it is missing and stays so."""
        self.head = self._directory.last_head()
        noticed = []
        try:
            witness = self._directory.read_witness()
        except AuditUnreadable as error:
            witness = None
            noticed.append(Entry(TAMPERED, {"what": error.message}))
        if witness is not None and witness.number > self.head.number:
            noticed.append(Entry(TAMPERED, {"what": "sealed lines are missing", "first": self.head.number + 1}))
            self.head = witness
        self._is_known = True
        return noticed

    def _catch_up(self) -> tuple[int, list[Entry]]:
        """Return the open file and what is to be said of what happened to it."""
        file, noticed = self._open()
        here = os.fstat(file)
        if not _is_at(self._directory.current, here):
            self.close()
            file = self._reopen()
            noticed.append(Entry(TAMPERED, {"what": "the file was removed or replaced"}))
            noticed += self._drop_torn(file, 0)
            here = os.fstat(file)
        size = here.st_size
        if size == self._size:
            return file, noticed
        if size < self._size:
            noticed.append(Entry(TAMPERED, {"what": "the file was cut", "bytes": self._size - size}))
            noticed += self._drop_torn(file, 0)
        else:
            noticed += self._drop_torn(file, self._size)
            noticed += self._take_over(file, self._size)
        self._size = os.fstat(file).st_size
        return file, noticed

    def _drop_torn(self, file: int, start: int) -> list[Entry]:
        """Cut off half a line at the end, left by a write that the machine did not survive."""
        size = os.fstat(file).st_size
        tail = _read(file, max(start, size - _TAIL_BYTES), size)
        torn = len(tail) - (tail.rfind(b"\n") + 1)
        if torn == 0:
            return []
        os.ftruncate(file, size - torn)
        self._size = min(self._size, size - torn)
        return [Entry(TORN, {"bytes": torn, "digest": digest_of(tail[-torn:])})]

    def _take_over(self, file: int, start: int) -> list[Entry]:
        """Follow the lines that another process appended."""
        head = self.head
        for raw in _read(file, start, os.fstat(file).st_size).splitlines():
            try:
                line = read_line(raw)
            except Malformed:
                return [Entry(TAMPERED, {"what": "somebody wrote what is no line"})]
            if (line.number, line.previous) != (head.number + 1, head.digest):
                return [Entry(TAMPERED, {"what": "somebody wrote a line that does not follow"})]
            head = Head(line.number, digest_of(raw))
        self.head = head
        return []

    def _write(self, file: int, lines: bytes) -> None:
        try:
            written = os.write(file, lines)
            if written < len(lines):
                # A disk that is full takes a part first and says so at the next write.
                os.write(file, lines[written:])
        except OSError:
            os.ftruncate(file, self._size)
            raise
        self._size += len(lines)


def _read(file: int, start: int, end: int) -> bytes:
    return os.pread(file, end - start, start)


def _is_at(path: Path, here: os.stat_result) -> bool:
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
