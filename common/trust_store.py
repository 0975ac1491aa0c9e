"""Peers, their keys and open invites in one SQLite file: trust lies outside the queue, which is not trusted (ADR 0004).

Every change is one transaction, durable before it returns, and seen by every process of the node at its next envelope:
`current` asks SQLite's `data_version`, which costs microseconds, and reads the tables only after a change by anybody.
Secrets are not in here: an invite's secret is derived from the node's key.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from common.errors import HubspokeError, Unavailable
from common.introduction import Introduction
from common.invites import InviteRefused
from common.keyring import OwnedKey, PublicKey
from common.peers import ConnectionState, Kind, Peer, PeerRefused, Trust
from common.trust_tables import TrustStoreError, open_tables, read_trust

__all__ = ["MAX_PENDING", "NewPeer", "OpenInvite", "TrustStore", "TrustStoreError", "facts_of"]

MAX_PENDING: Final = 100


@dataclass(frozen=True, slots=True)
class NewPeer:
    """What is known of a peer that is about to be added."""

    instance: str
    kind: Kind
    key: PublicKey
    url: str | None
    labels: Mapping[str, str]

    @classmethod
    def introduced(cls, introduction: Introduction, labels: Mapping[str, str]) -> NewPeer:
        """Take what an introduction says."""
        return cls(introduction.instance, introduction.kind, introduction.key, introduction.url, labels)


@dataclass(frozen=True, slots=True)
class OpenInvite:
    """An invite that nobody has used yet; its secret is stored nowhere."""

    invite: str
    expires_s: int
    labels: Mapping[str, str]


def _tell_nobody(_event: str, _fields: Mapping[str, object]) -> None:
    pass


class TrustStore:
    """The trust of the node `instance`; close it when done. Use it from one thread.

    `tell` hears of each change before it is committed: what it raises undoes the change (the audit file, fault 29).
    """

    def __init__(
        self,
        path: Path,
        instance: str,
        own_key: PublicKey,
        tell: Callable[[str, Mapping[str, object]], None] = _tell_nobody,
    ) -> None:
        self._instance = instance
        self.own_key = own_key
        self.tell = tell
        self._database = open_tables(path)
        self._version: int | None = None
        self._trust = Trust(())
        try:
            self.current()
        except HubspokeError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def current(self) -> Trust:
        """Return the trust as last committed by any process; raises `Unavailable` when it cannot be read."""
        try:
            (version,) = self._database.execute("PRAGMA data_version").fetchone()
            if version != self._version:
                self._trust = self._read()
                self._version = version
        except sqlite3.Error as error:
            raise Unavailable(f"the trust store cannot be read: {error}") from error
        return self._trust

    def _read(self) -> Trust:
        return read_trust(self._database)

    def read(self, query: str, *values: str | int | bytes) -> list[tuple[Any, ...]]:
        """Return the rows of a query; raises `Unavailable`."""
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise Unavailable(f"the trust store cannot be read: {error}") from error

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """Change the tables in one transaction, undone by any error; raises `Unavailable`."""
        try:
            self._database.execute("BEGIN IMMEDIATE")
            yield self._database
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            raise Unavailable(f"the trust store cannot be written: {error}") from error
        finally:
            # Also after a COMMIT that failed: SQLite leaves it open, and every later change would fail.
            self._database.rollback()
            # data_version only tells of other connections' commits.
            self._version = None

    def raise_format(self, form: int) -> None:
        """Note that this node's data have at least that form, so that no release reads them that does not know it.

        Raises `Unavailable`.
        """
        ((found,),) = self.read("PRAGMA user_version")
        if found < form:
            with self.change() as database:
                database.execute(f"PRAGMA user_version = {form}")

    def find(self, instance: str) -> Peer:
        """Return the peer of that id; raises `PeerRefused` with `not_found`."""
        peer = self.current().find(instance)
        if peer is None:
            raise PeerRefused(f"there is no peer {instance!r}; see peer list", code="not_found")
        return peer

    def add(self, new: NewPeer, state: ConnectionState, now_s: int) -> Peer:
        """Register a peer; the same peer with the same key is left as it is. Raises `PeerRefused`.

        A revoked peer's place is taken by a new connection with a new number.
        """
        with self.change():
            return self._find_or_insert(new, state, now_s)

    def _find_or_insert(self, new: NewPeer, state: ConnectionState, now_s: int) -> Peer:
        trust = self._read()
        self._check_new(new, trust)
        present = trust.find(new.instance)
        if present is not None and present.state != "revoked":
            if present.current_key != new.key or present.kind != new.kind:
                raise PeerRefused(f"{new.instance} is a peer with another key; revoke that one first")
            return present
        self._database.execute("DELETE FROM peers WHERE instance = ?", (new.instance,))
        cursor = self._database.execute(
            "INSERT INTO peers (instance, kind, state, url, labels, created_s) VALUES (?, ?, ?, ?, ?, ?)",
            (new.instance, new.kind, state, new.url, json.dumps(dict(new.labels)), now_s),
        )
        connection = cast(int, cursor.lastrowid)
        self._database.execute(
            "INSERT INTO keys (connection, position, raw) VALUES (?, 0, ?)", (connection, new.key.raw)
        )
        acknowledged = trust.rotation.epoch if trust.rotation else 0
        self._database.execute(
            # Who is told our key now is told the latest one.
            "INSERT INTO announcements (connection, epoch) VALUES (?, ?)",
            (connection, acknowledged),
        )
        peer = Peer(
            instance=new.instance,
            kind=new.kind,
            state=state,
            connection=connection,
            keys=(OwnedKey(new.instance, new.key),),
            url=new.url,
            labels=dict(new.labels),
            created_s=now_s,
            acknowledged=acknowledged,
        )
        self.tell("peer.added", facts_of(peer))
        return peer

    def _check_new(self, new: NewPeer, trust: Trust) -> None:
        own = {self.own_key, *(key for rotation in trust.rotations for key in (rotation.former, rotation.key))}
        if new.instance == self._instance or new.key in own:
            raise PeerRefused("a peer has an id and a key of its own, not this node's")
        for peer in trust.peers():
            if peer.instance != new.instance and any(owned.key == new.key for owned in peer.keys):
                raise PeerRefused(f"{peer.instance} has that key already; every instance has its own")

    def set_state(self, instance: str, state: ConnectionState) -> Peer:
        """Take a connection to `state`, in effect when this returns; raises `PeerRefused`."""
        with self.change():
            self._move(self.find(instance), state)
        return self.find(instance)

    def _move(self, peer: Peer, state: ConnectionState) -> None:
        peer.check_transition(state)
        self._database.execute("UPDATE peers SET state = ? WHERE instance = ?", (state, peer.instance))
        self.tell("peer.changed", {**facts_of(peer), "was": peer.state, "state": state})

    def approve(self, instance: str, fingerprint: str) -> Peer:
        """Make a pending peer active when its fingerprint is the one the admin names; raises `PeerRefused`."""
        with self.change():
            peer = self.find(instance)
            if peer.current_key.fingerprint != fingerprint:
                raise PeerRefused(f"{instance} has another fingerprint; compare it with its operator again")
            self._move(peer, "active")
        return self.find(instance)

    def set_url(self, instance: str, url: str | None) -> Peer:
        """Look for a peer elsewhere from now on, None for nowhere; who it is stays. Raises `PeerRefused`."""
        with self.change():
            peer = self.find(instance)
            if peer.state == "revoked":
                raise PeerRefused(f"{instance} is revoked and is not looked for; joining again is a new connection")
            self._move_to(peer, url)
        return self.find(instance)

    def _move_to(self, peer: Peer, url: str | None) -> None:
        if url != peer.url:
            self._database.execute("UPDATE peers SET url = ? WHERE connection = ?", (url, peer.connection))
            self.tell("peer.url_changed", {**facts_of(peer), "was": peer.url, "url": url})

    def _follow(self, peer: Peer, introduction: Introduction) -> None:
        """Look for a peer where its JOIN says it is now; one that names no place says nothing of where it is."""
        if introduction.url is not None and peer.state in {"pending", "active"}:
            self._move_to(peer, introduction.url)

    def set_policy(self, instance: str, policy: Mapping[str, Any] | None) -> Peer:
        """Give a peer rules of its own, or with None the general ones; in force when this returns."""
        with self.change():
            peer = self.find(instance)
            stored = None if policy is None else json.dumps(dict(policy))
            self._database.execute("UPDATE peers SET policy = ? WHERE connection = ?", (stored, peer.connection))
            self.tell(
                "peer.policy_changed", {**facts_of(peer), "policy": "the general one" if policy is None else "own"}
            )
        return self.find(instance)

    def add_invite(self, invite: str, expires_s: int, labels: Mapping[str, str]) -> None:
        """Note an open invite."""
        with self.change():
            self._database.execute(
                "INSERT INTO invites (invite, expires_s, labels) VALUES (?, ?, ?)",
                (invite, expires_s, json.dumps(dict(labels))),
            )
            self.tell("invite.made", {"invite": invite, "expires_s": expires_s})

    def forget_invites(self, before_s: int) -> None:
        """Forget the invites that ended before then, used or not: they let nobody in, and are refused as unknown."""
        with self.change():
            self._database.execute("DELETE FROM invites WHERE expires_s < ?", (before_s,))

    def open_invites(self, now_s: int) -> list[OpenInvite]:
        """Return the invites that still let somebody in, the one that ends first first."""
        rows = self._database.execute(
            "SELECT invite, expires_s, labels FROM invites WHERE used_by IS NULL AND expires_s > ? ORDER BY expires_s",
            (now_s,),
        )
        return [OpenInvite(invite, expires_s, json.loads(labels)) for invite, expires_s, labels in rows]

    def withdraw_invite(self, invite: str) -> None:
        """Make an open invite void; raises `InviteRefused` for one that is unknown or used."""
        with self.change():
            if not self._database.execute(
                "DELETE FROM invites WHERE invite = ? AND used_by IS NULL", (invite,)
            ).rowcount:
                raise InviteRefused("there is no open invite of that id; see invite list")
            self.tell("invite.withdrawn", {"invite": invite})

    def redeem(self, introduction: Introduction, now_s: int) -> Peer:
        """Use up the invite of a JOIN whose `mac` was checked, and make its sender an active peer, in one step.

        The same sender may repeat it after a lost reply; anybody else finds the invite used. Raises `InviteRefused`,
        `PeerRefused`.
        """
        with self.change():
            row = self._database.execute(
                "SELECT expires_s, labels, used_by, used_kid FROM invites WHERE invite = ?", (introduction.invite,)
            ).fetchone()
            if row is None:
                raise InviteRefused
            expires_s, labels, used_by, used_kid = row
            mine = (used_by, used_kid) == (introduction.instance, introduction.key.kid)
            if not mine and (used_by is not None or now_s >= expires_s):
                raise InviteRefused
            self._refuse_second_life(introduction, repeated=mine)
            peer = self._find_or_insert(NewPeer.introduced(introduction, json.loads(labels)), "active", now_s)
            if peer.state == "pending":
                self._move(peer, "active")
            self._database.execute(
                "UPDATE invites SET used_by = ?, used_kid = ? WHERE invite = ?",
                (introduction.instance, introduction.key.kid, introduction.invite),
            )
            if not mine:
                self.tell("invite.used", {"invite": introduction.invite, **facts_of(peer)})
            self._follow(peer, introduction)
        return self.find(introduction.instance)

    def _refuse_second_life(self, introduction: Introduction, *, repeated: bool) -> None:
        present = self._read().find(introduction.instance)
        if repeated and (present is None or present.state == "revoked"):
            raise InviteRefused

    def request(self, introduction: Introduction, now_s: int) -> Peer:
        """Note a JOIN without invite as a pending peer, or where a known one is now.

        Raises `PeerRefused` when there are too many that wait already.
        """
        with self.change():
            (pending,) = self._database.execute("SELECT count(*) FROM peers WHERE state = 'pending'").fetchone()
            present = self.current().find(introduction.instance)
            if pending >= MAX_PENDING and (present is None or present.state == "revoked"):
                raise PeerRefused("too many peers wait for approval; ask the hub's admin to approve or revoke some")
            self._follow(self._find_or_insert(NewPeer.introduced(introduction, {}), "pending", now_s), introduction)
        return self.find(introduction.instance)


def facts_of(peer: Peer) -> dict[str, object]:
    """Return what is told of a peer with every change."""
    return {
        "peer": peer.instance,
        "kind": peer.kind,
        "state": peer.state,
        "connection": peer.connection,
        "kid": peer.current_key.kid,
        "url": peer.url,
    }
