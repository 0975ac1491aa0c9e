"""The form of a backup: a plain tar of files, of which the last, `manifest.json`, names all others with their SHA-256.

Decides what is read: an archive comes from elsewhere, so every header is looked at before anything is done with it.
Refused are links, devices, extended headers, paths that lead out, a file twice, what the manifest does not name, and
any other content. Nothing is compressed: what an archive unpacks to is no larger than itself, so there are no bombs;
whoever wants it smaller or encrypted pipes it. The digests find damage; they are no signature: whoever can change an
archive holds the node's key, which is in it.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from common.errors import LocalError

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
_MAX_FILES: Final = 10_000
_MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024
_MAX_NAME: Final = 100  # of one header
_BLOCK: Final = tarfile.BLOCKSIZE
_CHUNK: Final = 1024 * 1024
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,7}\Z")


class BackupRefused(LocalError):
    """A backup that cannot be made, or one that is not restored."""

    code = "backup"


@dataclass(frozen=True, slots=True)
class Content:
    """What the manifest says of one file."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup is of: `kind` hub or spoke, the node's id and key; when (RFC 3339) and by what version it was made.

    `valkey` says whether the content of its Valkey is in it.
    """

    kind: str
    node: str
    fingerprint: str
    made_at: str
    version: str
    valkey: bool
    files: Mapping[str, Content]

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(content.size for content in self.files.values())

    def encode(self) -> bytes:
        """Return the manifest as it lies in the archive."""
        files = {name: [content.size, content.sha256] for name, content in self.files.items()}
        told = {name: getattr(self, name) for name in _TOLD}
        return json.dumps({"format": FORMAT, **told, "files": files}, indent=1).encode() + b"\n"

    @classmethod
    def decode(cls, content: bytes) -> Manifest:
        """Read what `encode` wrote; raises `BackupRefused`."""
        try:
            members: dict[str, Any] = json.loads(content)
            if members.pop("format") != FORMAT:
                raise BackupRefused("it was made by a newer version; restore it with that one, or a newer one")
            files = {
                str(name): Content(int(size), str(digest)) for name, (size, digest) in members.pop("files").items()
            }
            told = {name: members.pop(name) for name in _TOLD}
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise BackupRefused("its manifest cannot be read: it is damaged, or no backup") from error
        if members or {name: type(value) for name, value in told.items()} != _TOLD:
            raise BackupRefused("its manifest says what none does: it is damaged, or no backup")
        return cls(files=files, **told)


_TOLD: Final[Mapping[str, type]] = {
    "kind": str,
    "node": str,
    "fingerprint": str,
    "made_at": str,
    "version": str,
    "valkey": bool,
}


def is_storable(name: str) -> bool:
    """Whether a file of that path, relative to the node's directory, can lie in a backup."""
    return len(name) <= _MAX_NAME and _NAME.match(name) is not None


class ArchiveWriter:
    """Writes an archive from its beginning to its end, into a pipe as well; any write may raise OSError."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.files: dict[str, Content] = {}

    def add(self, name: str, size: int, source: BinaryIO) -> None:
        """Append `size` bytes of `source`; raises `BackupRefused` when there are fewer."""
        self.files[name] = self._append(name, size, source)

    def _append(self, name: str, size: int, source: BinaryIO) -> Content:
        header = tarfile.TarInfo(name)
        header.size, header.mode = size, 0o600
        self._file.write(header.tobuf(tarfile.GNU_FORMAT, "ascii", "strict"))
        digest, left = hashlib.sha256(), size
        while left:
            chunk = source.read(min(left, _CHUNK))
            if not chunk:
                raise BackupRefused(f"{name} was cut while it was read; make the backup again")
            digest.update(chunk)
            self._file.write(chunk)
            left -= len(chunk)
        self._file.write(bytes(-size % _BLOCK))
        return Content(size, digest.hexdigest())

    def finish(self, manifest: Manifest) -> None:
        """Append the manifest and the end."""
        content = manifest.encode()
        self._append(MANIFEST, len(content), io.BytesIO(content))
        self._file.write(bytes(2 * _BLOCK))
        self._file.flush()


class Archive:
    """An archive that was checked from its beginning to its end; `file` can be sought. Raises `BackupRefused`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._places: dict[str, int] = {}
        found: dict[str, Content] = {}
        file.seek(0)
        for name, size in self._headers():
            if name in self._places:
                raise BackupRefused(f"{name} is in it twice")
            self._places[name] = file.tell()
            if name == MANIFEST:
                self.manifest = self._read_manifest(size)
                break
            found[name] = self._copy(size, lambda _: None)
        else:
            raise BackupRefused("its end is missing: it was cut, or is no backup")
        if found != self.manifest.files:
            wrong = min(name for name, _ in found.items() ^ self.manifest.files.items())
            raise BackupRefused(f"{wrong} is not what the manifest says: it is damaged")
        if file.read(2 * _BLOCK + 1) != bytes(2 * _BLOCK):
            raise BackupRefused("something follows its end: it is damaged")

    def _headers(self) -> Iterator[tuple[str, int]]:
        while (block := self._file.read(_BLOCK)) and len(self._places) <= _MAX_FILES:
            try:
                header = tarfile.TarInfo.frombuf(block, "ascii", "strict")
            except (tarfile.TarError, ValueError) as error:
                raise BackupRefused("it is damaged, or no backup") from error
            if header.type != tarfile.REGTYPE or header.size < 0 or not is_storable(header.name):
                raise BackupRefused("it holds what no backup does: a link, a device, or a path that leads out")
            yield header.name, header.size

    def _read_manifest(self, size: int) -> Manifest:
        if size > _MAX_MANIFEST_BYTES:
            raise BackupRefused("its manifest is too large")
        content = bytearray()
        self._copy(size, content.extend)
        return Manifest.decode(bytes(content))

    def _copy(self, size: int, write: Callable[[bytes], object]) -> Content:
        digest, left = hashlib.sha256(), size
        while left:
            chunk = self._file.read(min(left, _CHUNK))
            if not chunk:
                raise BackupRefused("its end is missing: it was cut")
            digest.update(chunk)
            write(chunk)
            left -= len(chunk)
        if self._file.read(-size % _BLOCK).strip(b"\0"):
            raise BackupRefused("something lies between its files: it is damaged")
        return Content(size, digest.hexdigest())

    def extract(self, name: str, write: Callable[[bytes], object]) -> None:
        """Copy a file of the manifest; raises `BackupRefused` when it changed since it was checked."""
        expected = self.manifest.files[name]
        self._file.seek(self._places[name])
        if self._copy(expected.size, write) != expected:
            raise BackupRefused(f"{name} was changed while it was restored")
