"""`DIR/audit`: the files of an audit chain, oldest first, the lock of those who append, and the witness beside it.

`audit.jsonl` is written to; full files are `audit-NUMBER.jsonl` after their last line. The witness, `DIR/audit.head`,
remembers the last checkpoint outside the directory, so that a chain whose end was cut off is not taken for a short one.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Final

from common.audit import START, Head, digest_of, read_line
from common.errors import LocalError, Malformed

_TAIL_BYTES: Final = 256 * 1024
_LOCK_PATIENCE_S: Final = 2.0
_LOCK_PAUSE_S: Final = 0.002


class AuditUnreadable(LocalError):
    """The audit files cannot be read."""

    code = "audit"


@dataclass(frozen=True)
class AuditDirectory:
    """The audit files of the node that lives in `node`."""

    node: Path

    @cached_property
    def path(self) -> Path:
        """Where the files are."""
        return self.node / "audit"

    @cached_property
    def current(self) -> Path:
        """The file that is written to."""
        return self.path / "audit.jsonl"

    @cached_property
    def witness(self) -> Path:
        """What remembers the last checkpoint."""
        return self.node / "audit.head"

    @cached_property
    def _lock(self) -> str:
        return f"{self.path}/lock"

    def full_file(self, last: int) -> Path:
        """Return the name of a full file whose last line is `last`."""
        return self.path / f"audit-{last:012d}.jsonl"

    def full_files(self) -> list[Path]:
        """Return the full files, oldest first."""
        return sorted(self.path.glob("audit-*.jsonl"))

    def files(self) -> list[Path]:
        """Return all files that exist, oldest first."""
        return [*self.full_files(), *([self.current] if self.current.exists() else [])]

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Yield the chain and its witness as they are together at one moment; raises `AuditUnreadable`."""
        with ExitStack() as stack:
            try:
                # A copy that cannot be written to has nobody who appends.
                held = self.locked() if os.access(self.path, os.W_OK) else nullcontext()
                with held:
                    files = [stack.enter_context(path.open("rb")) for path in self.files()]
                    sizes = [os.fstat(file.fileno()).st_size for file in files]
                    witness = self.read_witness()
            except OSError as error:
                raise AuditUnreadable(f"cannot read {self.path}: {error.strerror}") from error
            yield Snapshot(tuple(zip(files, sizes, strict=True)), witness)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from appending inside the block; raises OSError when one does not let go."""
        descriptor = self._open_lock()
        try:
            _lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _open_lock(self) -> int:
        name, flags = self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(name, flags, 0o600)
        except FileNotFoundError:
            self.path.mkdir(mode=0o700, exist_ok=True)
            return os.open(name, flags, 0o600)

    def write_witness(self, head: Head) -> None:
        """Remember a checkpoint; raises OSError."""
        temporary = self.witness.with_suffix(".new")
        temporary.write_bytes(encode_witness(head))
        temporary.replace(self.witness)

    def read_witness(self) -> Head | None:
        """Return the checkpoint that is remembered; raises `AuditUnreadable` for one that cannot be read."""
        try:
            members = json.loads(self.witness.read_bytes())
            return Head(int(members["n"]), str(members["digest"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise AuditUnreadable(f"{self.witness} is damaged; restore it, or remove it knowingly") from error

    def last_head(self) -> Head:
        """Return the head of the chain as the files have it: of the newest file with a line. Raises OSError."""
        return next((head for path in reversed(self.files()) if (head := last_of(path))), START)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Open files with what of each was there at one moment, oldest first, and the witness of that moment."""

    files: tuple[tuple[BinaryIO, int], ...]
    witness: Head | None

    def lines(self) -> Iterator[tuple[str, int, bytes]]:
        """Yield every line without its newline, with its file's name and its place there."""
        for file, size in self.files:
            name, left = Path(file.name).name, size
            for place, raw in enumerate(file, 1):
                if left <= 0:
                    break
                left -= len(raw)
                yield name, place, raw.removesuffix(b"\n")


def encode_witness(head: Head) -> bytes:
    """Return a checkpoint as the witness remembers it."""
    return json.dumps({"n": head.number, "digest": head.digest}).encode() + b"\n"


def last_of(path: Path) -> Head | None:
    """Return the head that the last whole line of a file makes, None for a file without one; raises OSError."""
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
        complete, newline, _ = file.read().rpartition(b"\n")
    return _head_of(complete.split(b"\n")) if newline else None


def _lock(descriptor: int) -> None:
    give_up_at = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= give_up_at:
                raise OSError(errno.EAGAIN, "another process holds its lock") from error
            time.sleep(_LOCK_PAUSE_S)
        else:
            return


def _head_of(lines: list[bytes]) -> Head:
    """Return the head after these lines; behind damaged ones, which verification finds, the numbers go on."""
    digest = digest_of(lines[-1])
    for since, raw in enumerate(reversed(lines)):
        try:
            return Head(read_line(raw).number + since, digest)
        except Malformed:
            continue
    return Head(len(lines), digest)
