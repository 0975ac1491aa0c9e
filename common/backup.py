"""Making a backup of a node, while it runs or not: what it is, whom it trusts, what it decided, what its Valkey holds.

Decides the order, for every file is of another moment: first Valkey, then trust and keys in one moment, then the audit.
So trust is never older than what waits for a peer, and the audit knows every change of trust that is in the backup.
`store.mark` is left out: a store that comes back is an old copy, and must be taken for one (ADR 0009).
"""

from __future__ import annotations

import io
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO, Final

from common.audit_directory import AuditDirectory, encode_witness
from common.audit_file import Audit
from common.backup_archive import ArchiveWriter, BackupRefused, Manifest, is_storable
from common.clock import SystemClock
from common.configuration import NodeDirectory, TlsSection
from common.directory import announced_url, backing_up, exclusive
from common.embedded_valkey import EmbeddedValkey
from common.ids import rfc3339
from common.keyfiles import read_private
from common.own_keys import KeyFiles, OwnKeys
from common.trust_store import TrustStore
from common.trust_tables import open_tables
from common.valkey_snapshot import take_snapshot

SNAPSHOT: Final = "valkey.rdb"


@dataclass(frozen=True, slots=True)
class BackedUp:
    """What is backed up of a node: `private` are files of at most 16 KiB, those that exist; `further` others.

    `embedded` says whether the content of an embedded Valkey belongs into it.
    """

    kind: str
    node: str
    directory: NodeDirectory
    keys: KeyFiles
    private: Sequence[Path]
    further: Sequence[Path]
    embedded: bool


def tls_files(directory: Path, tls: TlsSection) -> list[Path]:
    """Return the files of `[tls]` that lie in the node's directory."""
    named = (tls.certificate, tls.key, tls.ca)
    paths = [directory / path for path in named if path is not None]
    return [path for path in paths if path.is_relative_to(directory)]


async def write_backup(subject: BackedUp, audit: Audit, trust: TrustStore, file: BinaryIO) -> Manifest:
    """Write a backup to `file`; raises `BackupRefused`, `LocalError`, `Unavailable`, OSError."""
    place, writer, made_at = subject.directory, ArchiveWriter(file), rfc3339(SystemClock().now_ms())
    with backing_up(place.path):
        if subject.embedded:
            await _add_snapshot(place, writer)
        with _unchanged(place.trust_file) as copy:
            fingerprint = OwnKeys(subject.keys, trust).current.public.fingerprint
            found = [(place.trust_file.name, copy), *_private_files(subject)]
        for name, content in found:
            writer.add(name, len(content), io.BytesIO(content))
        await audit.note("backup.made", made_at=made_at)
        _add_audit(place.audit, writer)
    manifest = Manifest(
        kind=subject.kind,
        node=subject.node,
        fingerprint=fingerprint,
        made_at=made_at,
        version=version("hubspoke"),
        valkey=subject.embedded,
        files=writer.files,
    )
    writer.finish(manifest)
    return manifest


async def _add_snapshot(place: NodeDirectory, writer: ArchiveWriter) -> None:
    async with _running_valkey(place):
        with await take_snapshot(place.valkey) as snapshot:
            size = os.fstat(snapshot.fileno()).st_size
            writer.add(SNAPSHOT, size, snapshot)


@asynccontextmanager
async def _running_valkey(place: NodeDirectory) -> AsyncIterator[None]:
    """Have the embedded server run until the block ends: the running node's, or one of our own."""
    if announced_url(place.path) is not None:
        yield
        return
    with exclusive(place.path):
        async with EmbeddedValkey(place.valkey):
            yield


def _private_files(subject: BackedUp) -> Iterator[tuple[str, bytes]]:
    """Read keys and configuration; while nobody changes trust, so that keys and rotations agree."""
    directory = subject.directory.path
    # In the order of `KeyFiles.load`: a rotation that was decided may be renaming them.
    keys = (subject.keys.following, subject.keys.current, subject.keys.former)
    for path in (*keys, *subject.private):
        if path.exists():
            yield _name_of(path, directory), read_private(path)
    for path in subject.further:
        yield _name_of(path, directory), path.read_bytes()


def _name_of(path: Path, directory: Path) -> str:
    name = str(path.relative_to(directory))
    if not is_storable(name):
        raise BackupRefused(f"{path} cannot be backed up under that name; use letters, digits, '.', '-' and '_'")
    return name


@contextmanager
def _unchanged(path: Path) -> Iterator[bytes]:
    """Yield a copy of a trust store that stays as it is until the block ends."""
    with (
        closing(open_tables(path)) as guard,
        closing(open_tables(path)) as source,
        closing(sqlite3.connect(":memory:")) as copy,
    ):
        try:
            guard.execute("BEGIN IMMEDIATE")
            source.backup(copy)
            yield copy.serialize()
        except sqlite3.Error as error:
            raise BackupRefused(f"the trust store cannot be read now: {error}; try again") from error
        finally:
            guard.rollback()


def _add_audit(audit: AuditDirectory, writer: ArchiveWriter) -> None:
    with audit.snapshot() as snapshot:
        for file, size in snapshot.files:
            writer.add(f"audit/{Path(file.name).name}", size, file)
        if snapshot.witness is not None:
            witness = encode_witness(snapshot.witness)
            writer.add(audit.witness.name, len(witness), io.BytesIO(witness))
