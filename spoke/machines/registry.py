"""The machines that work for this spoke: a name and a key each, in the trust store, under a number never used twice.

A name that is forgotten and added again is another machine: what the former one left is not its own.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.errors import EnvelopeRejected, PeerError
from common.jose import decode_base64url, encode_base64url
from common.keyfiles import create_signing_key, load_signing_key
from common.keyring import KeyRefused, PublicKey, SigningKey
from common.trust_store import TrustStore, TrustStoreError

KEY_FILE: Final = "machines.key"
"""The node's key for machines alone: never the one that hubs know, and so nothing signed for one is worth anything to
the other; it stays when that one is rotated."""
_PREFIX: Final = "ed25519:"
"""So that no key begins like an option."""
_LENGTH: Final = 43
_COLUMNS: Final = "SELECT number, name, raw, added_s FROM machines"


class MachineRefused(PeerError):
    """A machine that cannot be added, or is not there."""

    code = "conflict"
    http_status = 409


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine; `added_s` is in seconds since the epoch."""

    number: int
    name: str
    key: PublicKey
    added_s: int

    @property
    def id(self) -> str:
        """What its leases and starts are noted under; no name holds a `_`."""
        return f"{self.name}_{self.number}"


def write_key(key: PublicKey) -> str:
    """Return a public key as people carry it from one machine to the other: `ed25519:` and 43 characters."""
    return _PREFIX + encode_base64url(key.raw).decode()


def read_key(text: str) -> PublicKey:
    """Read what `write_key` wrote; raises `KeyRefused`."""
    kind, _, encoded = text.strip().partition(":")
    if f"{kind}:" != _PREFIX or len(encoded) != _LENGTH:
        raise KeyRefused(f"a machine's key is {_PREFIX} and {_LENGTH} characters; copy all of it")
    try:
        return PublicKey(decode_base64url(encoded.encode("utf-8", "replace")))
    except EnvelopeRejected as error:
        raise KeyRefused(f"a machine's key is {_PREFIX} and base64url; copy it as it was printed") from error


def own_key(directory: Path) -> SigningKey:
    """Return the key by which the node speaks to its machines, made when it is asked for first; `KeyFileError`."""
    path = directory / KEY_FILE
    return load_signing_key(path) if path.exists() else create_signing_key(path)


class Machines:
    """The machines of a spoke; every change is one transaction, seen by all processes at once."""

    def __init__(self, store: TrustStore) -> None:
        self._store = store

    def all(self) -> list[Machine]:
        """Return them by name; raises `Unavailable`, `TrustStoreError`."""
        return [_machine_of(row) for row in self._store.read(f"{_COLUMNS} ORDER BY name")]

    def find(self, kid: str) -> Machine | None:
        """Return the machine with the key of that id."""
        return next((machine for machine in self.all() if machine.key.kid == kid), None)

    def ids(self) -> frozenset[str]:
        """Return the ids of all."""
        return frozenset(machine.id for machine in self.all())

    def ever(self) -> bool:
        """Whether there was ever one: what a forgotten one left is still to be found."""
        return bool(self._store.read("SELECT 1 FROM sqlite_sequence WHERE name = 'machines'"))

    def add(self, name: str, key: PublicKey, now_s: int) -> Machine:
        """Register a machine; the same name with the same key is left as it is. Raises `MachineRefused`."""
        with self._store.change() as database:
            found = {machine.name: machine for machine in self.all()}
            if name in found and found[name].key == key:
                return found[name]
            if name in found:
                raise MachineRefused(f"{name} is a machine with another key; forget that one first")
            self._check_unused(key, list(found.values()))
            added = database.execute(
                "INSERT INTO machines (name, raw, added_s) VALUES (?, ?, ?) RETURNING number, name, raw, added_s",
                (name, key.raw, now_s),
            ).fetchone()
            machine = _machine_of(added)
            self._store.tell("machine.added", {"machine": machine.id, "kid": key.kid})
        return machine

    def _check_unused(self, key: PublicKey, machines: list[Machine]) -> None:
        peers = [owned.key for peer in self._store.current().peers() for owned in peer.keys]
        if key in [self._store.own_key, *peers, *(machine.key for machine in machines)]:
            raise MachineRefused("a machine has a key of its own, which nobody else here has")

    def forget(self, name: str) -> Machine:
        """Take a machine off: from now on it may start nothing. Raises `MachineRefused`."""
        with self._store.change() as database:
            machine = next((each for each in self.all() if each.name == name), None)
            if machine is None:
                raise MachineRefused(f"there is no machine {name!r}; see: spoke machine list", code="not_found")
            database.execute("DELETE FROM machines WHERE number = ?", (machine.number,))
            self._store.tell("machine.forgotten", {"machine": machine.id, "kid": machine.key.kid})
        return machine


def _machine_of(row: tuple[int, str, bytes, int] | sqlite3.Row) -> Machine:
    number, name, raw, added_s = row
    try:
        return Machine(number, name, PublicKey(raw), added_s)
    except KeyRefused as error:
        raise TrustStoreError(f"the trust store holds what no machine is: {error}; restore its backup") from error
