"""Making a node of a backup: in a directory beside the one that is wanted, which gets its name when all is done.

Decides what comes back and what does not. A restored store is one that lost something, so envelopes that it may have
accepted are refused (ADR 0009). Open invites are void: one that was used since would be good a second time. No number
of a connection is used again. Refuses a directory that holds anything, and a backup that makes no node.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from common.backup import SNAPSHOT
from common.backup_archive import Archive, BackupRefused
from common.clock import SystemClock
from common.store_guard import MarkFile
from common.store_mark import StoreMark
from common.trust_tables import open_tables
from common.valkey_snapshot import adopt_snapshot, place_of_snapshot

_NUMBERS_SKIPPED: Final = 10_000
"""More connections than were made since any backup."""


@contextmanager
def seekable(file: BinaryIO, beside: Path) -> Iterator[BinaryIO]:
    """Yield what a pipe brings as a file without a name, for `Archive`; raises OSError when the disk is too small."""
    if file.seekable():
        yield file
        return
    with tempfile.TemporaryFile(dir=_existing(beside)) as copy:
        shutil.copyfileobj(file, copy)
        yield copy


def _existing(path: Path) -> Path:
    return next(each for each in path.absolute().parents if each.is_dir())


def check_free(target: Path) -> None:
    """Raise `BackupRefused` unless nothing is in `target`, whether it exists or not."""
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise BackupRefused(f"{target} is in use; name an empty directory, or one that is not there yet, with --dir")


def restore(archive: Archive, target: Path, complete: Callable[[Path], None]) -> None:
    """Make the directory `target` of a checked archive, durably and all at once.

    `complete` gets the directory before it has its name, to prove that a node can begin in it. Raises `BackupRefused`,
    OSError, and what `complete` raises; then nothing is left.
    """
    check_free(target)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        for name in archive.manifest.files:
            _extract(archive, name, staging)
        if archive.manifest.valkey:
            adopt_snapshot(staging / "valkey")
        _forget(staging / "trust.db")
        # Of another store than whatever the node finds: its first look notes a loss.
        MarkFile(staging).write(StoreMark(SystemClock().new_id(), accepted=1))
        complete(staging)
        _sync_all(staging)
        _give_name(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _extract(archive: Archive, name: str, staging: Path) -> None:
    path = place_of_snapshot(staging / "valkey") if name == SNAPSHOT else staging / name
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(path, "xb", opener=lambda file, flags: os.open(file, flags | os.O_NOFOLLOW, 0o600)) as file:
        archive.extract(name, file.write)


def _forget(trust: Path) -> None:
    try:
        with closing(open_tables(trust)) as database:
            if database.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                raise BackupRefused("its trust store is damaged")
            database.execute("BEGIN IMMEDIATE")
            database.execute("DELETE FROM invites WHERE used_by IS NULL")
            database.execute("UPDATE sqlite_sequence SET seq = seq + ? WHERE name = 'peers'", (_NUMBERS_SKIPPED,))
            database.execute("COMMIT")
    except sqlite3.Error as error:
        raise BackupRefused(f"its trust store is damaged: {error}") from error


def _sync_all(directory: Path) -> None:
    for place, _, names in os.walk(directory, topdown=False):
        for name in (*names, "."):
            descriptor = os.open(Path(place, name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _give_name(staging: Path, target: Path) -> None:
    try:
        staging.rename(target)  # takes the place of an empty directory, and of nothing else
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            raise BackupRefused(f"{target} is in use by now; nothing was restored") from error
        raise
    descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
