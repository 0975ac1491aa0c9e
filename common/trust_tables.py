"""The tables of the trust store: opening the SQLite file, and reading all of it as a `Trust`.

Refuses a file that others can change, and one that holds what no peer is: nothing of it is believed in part.
"""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from collections.abc import Iterable
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from common.errors import LocalError
from common.keyring import KeyRefused, OwnedKey, PublicKey
from common.peers import OwnRotation, Peer, Trust

_BUSY_TIMEOUT_S: Final = 10
FORMAT: Final = 2
"""The newest form of a node's data that this release reads, all of it: these tables, what its Valkey holds, its run
directories. A node that writes what a release before would misread counts up what is in its file, by
`TrustStore.raise_format`. 2: a hub whose waiting spawns are in their agents' records."""
_FIRST_FORMAT: Final = 1
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS peers (
    connection INTEGER PRIMARY KEY AUTOINCREMENT,
    instance TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, state TEXT NOT NULL, url TEXT,
    epoch INTEGER NOT NULL DEFAULT 0, labels TEXT NOT NULL DEFAULT '{}', policy TEXT, created_s INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS keys (
    connection INTEGER NOT NULL REFERENCES peers(connection) ON DELETE CASCADE,
    position INTEGER NOT NULL, raw BLOB NOT NULL, retires_at INTEGER,
    PRIMARY KEY (connection, position)
) STRICT;
CREATE TABLE IF NOT EXISTS invites (
    invite TEXT PRIMARY KEY, expires_s INTEGER NOT NULL, labels TEXT NOT NULL DEFAULT '{}',
    used_by TEXT, used_kid TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS rotations (
    epoch INTEGER PRIMARY KEY, former BLOB NOT NULL, raw BLOB NOT NULL, started_s INTEGER NOT NULL,
    retires_at INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS announcements (
    connection INTEGER PRIMARY KEY REFERENCES peers(connection) ON DELETE CASCADE,
    epoch INTEGER NOT NULL DEFAULT 0, problem TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS machines (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE, raw BLOB NOT NULL, added_s INTEGER NOT NULL
) STRICT;
"""
_MISSING: Final = """
SELECT count(*) < 6 FROM sqlite_master
WHERE type = 'table' AND name IN ('peers', 'keys', 'invites', 'rotations', 'announcements', 'machines')
"""
_PRIMARY: Final = 0xFF
"""What of an extended result code of SQLite is the primary one."""
_CIRCUMSTANCES: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    }
)
"""Results that say nothing against the file: its content must not be given up for them."""
# One statement, so that a commit by another process between two reads cannot part a peer from its keys.
_PEERS: Final = """
SELECT connection, instance, kind, state, url, peers.epoch, labels, policy, created_s,
    coalesce(announcements.epoch, 0), problem, raw, retires_at
FROM peers LEFT JOIN announcements USING (connection) LEFT JOIN keys USING (connection) ORDER BY connection, position
"""
_ROTATIONS: Final = "SELECT epoch, former, raw, started_s, retires_at FROM rotations ORDER BY epoch"


class TrustStoreError(LocalError):
    """The file of the trust store cannot be used."""

    code = "trust_store"


def open_tables(path: Path) -> sqlite3.Connection:
    """Open the file, making it when there is none; raises `TrustStoreError`."""
    try:
        _make_private(path)
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            raise TrustStoreError(f"{path} is not a regular file; put the trust store itself there")
        if mode & 0o022:
            raise TrustStoreError(f"{path} can be changed by others; compare its peers, then run: chmod 600 {path}")
        database = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
    except (OSError, sqlite3.Error) as error:
        raise TrustStoreError(f"cannot open {path}: {error}; run init first, or check the directory") from error
    try:
        found = _refuse_newer(database, path)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA foreign_keys = ON")
        # Only when something is missing: opening writes nothing then, so that a full disk can still be read from.
        if database.execute(_MISSING).fetchone()[0]:
            database.executescript(_SCHEMA)
            database.execute(f"PRAGMA user_version = {max(found, _FIRST_FORMAT)}")
    except TrustStoreError:
        database.close()
        raise
    except sqlite3.Error as error:
        database.close()
        if error.sqlite_errorcode & _PRIMARY in _CIRCUMSTANCES:
            raise TrustStoreError(f"{path} cannot be used now: {error}; see to the disk, it may be full") from error
        raise TrustStoreError(f"{path} is no trust store: {error}; restore it from its backup") from error
    return database


def _refuse_newer(database: sqlite3.Connection, path: Path) -> int:
    found: int
    (found,) = database.execute("PRAGMA user_version").fetchone()
    if found > FORMAT:
        raise TrustStoreError(
            f"{path.parent} was used by a newer release, whose data this one would misread; install that one again, or "
            "restore the backup from before the upgrade",
            code="newer_data",
        )
    return found


def _make_private(path: Path) -> None:
    # Only when there is none: to close a file that this process has open through SQLite drops SQLite's locks on it, and
    # another process would remove the log that we still write to.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def read_trust(database: sqlite3.Connection) -> Trust:
    """Read all peers and our own rotations; raises `TrustStoreError` for what cannot be one of them."""
    peers = database.execute(_PEERS)
    rotations = database.execute(_ROTATIONS)
    try:
        return Trust([_peer_of(group) for _, group in groupby(peers, itemgetter(0))], map(_rotation_of, rotations))
    except (KeyRefused, ValueError) as error:
        raise TrustStoreError(f"the trust store holds what no peer is: {error}; restore its backup") from error


def _peer_of(rows: Iterable[tuple[Any, ...]]) -> Peer:
    """Build one peer of its rows in `_PEERS`, one per key."""
    listed = list(rows)
    connection, instance, kind, state, url, epoch, labels, policy, created_s, acknowledged, problem = listed[0][:-2]
    return Peer(
        instance=instance,
        kind=kind,
        state=state,
        connection=connection,
        keys=tuple(OwnedKey(instance, PublicKey(raw or b""), retires_at) for *_, raw, retires_at in listed),
        url=url,
        epoch=epoch,
        labels=json.loads(labels),
        policy=None if policy is None else json.loads(policy),
        created_s=created_s,
        acknowledged=acknowledged,
        rotation_problem=problem,
    )


def _rotation_of(row: tuple[Any, ...]) -> OwnRotation:
    epoch, former, raw, started_s, retires_at = row
    return OwnRotation(epoch, PublicKey(former), PublicKey(raw), started_s, retires_at)
