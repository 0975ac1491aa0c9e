"""Rotations in the trust store: our own, who of the peers knows of it, and those of peers.

A rotation of our own is decided by one row: once it is there the new key is ours, whatever the files are called. It
stays open until every peer that is not revoked has acknowledged it, because to the others the former key still signs.
"""

from __future__ import annotations

import sqlite3

from common.errors import CommandRefused, LocalError
from common.keyring import OwnedKey, PublicKey
from common.peers import OwnRotation, Peer, PeerRefused
from common.rotation import NextKey, check_rotation, next_epoch, rotated_keys, without_key
from common.trust_store import TrustStore, facts_of


class RotationOpen(LocalError):
    """The rotation before this one has not reached every peer yet."""

    code = "rotation_open"


class RotationStore:
    """Changes of keys, each one transaction of the trust store."""

    def __init__(self, store: TrustStore) -> None:
        self._store = store

    def latest(self) -> OwnRotation | None:
        """Return the latest rotation of this node's own key."""
        return self._store.current().rotation

    def check_closed(self) -> None:
        """Raise `RotationOpen` unless every peer that is not revoked knows our latest key."""
        if unaware := self._store.current().unaware():
            names = ", ".join(peer.instance for peer in unaware)
            raise RotationOpen(f"the rotation before has not reached {names}: wait for them, or revoke them")

    def begin(self, former: PublicKey, key: PublicKey, now_s: int, overlap_s: int) -> OwnRotation:
        """Make `key` the node's key from now on; raises `RotationOpen`."""
        with self._store.change() as database:
            self.check_closed()
            latest = self.latest()
            epoch = next_epoch(latest.epoch if latest else 0, now_s)
            rotation = OwnRotation(epoch, former, key, now_s, now_s + overlap_s)
            database.execute(
                "INSERT INTO rotations (epoch, former, raw, started_s, retires_at) VALUES (?, ?, ?, ?, ?)",
                (epoch, former.raw, key.raw, now_s, rotation.retires_at),
            )
            self._store.tell("key.rotated", {"epoch": epoch, "was": former.kid, "kid": key.kid})
        return rotation

    def acknowledge(self, peer: Peer, epoch: int) -> None:
        """Note that a peer knows our key of that epoch: from now on that key signs to it."""
        self._announce(peer, epoch, None)

    def note_problem(self, peer: Peer, problem: str) -> None:
        """Note why a peer refused our rotation."""
        if peer.rotation_problem != problem:
            self._announce(peer, peer.acknowledged, problem)

    def _announce(self, peer: Peer, epoch: int, problem: str | None) -> None:
        with self._store.change() as database:
            database.execute(
                # The connection may have been revoked and its number forgotten meanwhile.
                "INSERT OR REPLACE INTO announcements (connection, epoch, problem)"
                " SELECT connection, ?, ? FROM peers WHERE connection = ?",
                (epoch, problem, peer.connection),
            )

    def rotate_peer(self, peer: Peer, following: NextKey, retires_at: int) -> bool:
        """Take a peer's next key; False when it was known already. Raises `CommandRefused`."""
        with self._store.change() as database:
            present = self._find_same(peer)
            if not check_rotation(present, following):
                return False
            self._check_unused(following.key, peer.instance)
            database.execute("UPDATE peers SET epoch = ? WHERE connection = ?", (following.epoch, present.connection))
            self._write_keys(database, present, rotated_keys(present, following, retires_at))
            told = {**facts_of(present), "epoch": following.epoch, "was": present.current_key.kid}
            self._store.tell("peer.key_rotated", {**told, "kid": following.key.kid})
        return True

    def revoke_key(self, instance: str, fingerprint: str) -> Peer:
        """Stop believing a former key of a peer at once; raises `PeerRefused`."""
        with self._store.change() as database:
            peer = self._store.find(instance)
            try:
                rest = without_key(peer, fingerprint)
            except CommandRefused as error:
                raise PeerRefused(error.message, code=error.code) from error
            self._write_keys(database, peer, rest)
            self._store.tell("peer.key_revoked", {**facts_of(peer), "revoked": fingerprint})
        return self._store.find(instance)

    def _find_same(self, peer: Peer) -> Peer:
        present = self._store.current().find(peer.instance)
        if present is None or present.tenant != peer.tenant or present.state != "active":
            raise CommandRefused("not_allowed", "the connection has ended meanwhile")
        return present

    def _check_unused(self, key: PublicKey, instance: str) -> None:
        trust = self._store.current()
        ours = {each for rotation in trust.rotations for each in (rotation.former, rotation.key)}
        others = {owned.key for peer in trust.peers() if peer.instance != instance for owned in peer.keys}
        if key in others | ours | {self._store.own_key}:
            raise CommandRefused("conflict", "another instance has that key already; make one of your own")

    def _write_keys(self, database: sqlite3.Connection, peer: Peer, keys: tuple[OwnedKey, ...]) -> None:
        database.execute("DELETE FROM keys WHERE connection = ?", (peer.connection,))
        database.executemany(
            "INSERT INTO keys (connection, position, raw, retires_at) VALUES (?, ?, ?, ?)",
            [(peer.connection, position, owned.key.raw, owned.retires_at) for position, owned in enumerate(keys)],
        )
