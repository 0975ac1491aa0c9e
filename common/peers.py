"""Peers: the instances this one is, was or may be connected with, and the life of a connection (PROTOCOL section 5).

One rule stands above the table: `revoked` is final. An id that joins again is a **new** connection with a new number,
and everything that a node keeps for a peer is kept under `tenant`, which carries that number: nothing is inherited
(attack 33).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

from common.errors import PeerError
from common.keyring import Keyring, OwnedKey, PublicKey

Kind = Literal["hub", "spoke"]
ConnectionState = Literal["pending", "active", "suspended", "revoked"]

TRANSITIONS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "pending": frozenset({"active", "revoked"}),
        "active": frozenset({"suspended", "revoked"}),
        "suspended": frozenset({"active", "revoked"}),
        "revoked": frozenset(),
    }
)

LOCAL_TENANT: Final = "local"
"""The tenant of what a node's own operator asks for; no peer's tenant lacks the `_`."""


class PeerRefused(PeerError):
    """A change to a peer that the rules do not allow, or a peer that is not there."""

    code = "peer_refused"
    http_status = 409


@dataclass(frozen=True, slots=True)
class Peer:
    """One connection; `connection` counts all that this node has ever had under any id. Times are epoch seconds."""

    instance: str
    kind: Kind
    state: ConnectionState
    connection: int
    keys: tuple[OwnedKey, ...]
    url: str | None = None
    epoch: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    policy: Mapping[str, Any] | None = None
    created_s: int = 0
    acknowledged: int = 0
    """The epoch of the last rotation of **our** key that the peer has acknowledged."""
    rotation_problem: str | None = None
    """Why the peer refused the latest one, if it did."""

    @property
    def tenant(self) -> str:
        """The name under which everything of this connection is kept, never used twice; no instance id holds a `_`.

        It is part of paths, so no `~1`: Claude Code takes that for a short name of Windows and touches no such file.
        """
        return f"{self.instance}_{self.connection}"

    @property
    def current_key(self) -> PublicKey:
        """The key the peer signs with now."""
        return self.keys[0].key

    def check_transition(self, state: ConnectionState) -> None:
        """Raise `PeerRefused` unless the connection may go to `state` (the same state is allowed)."""
        if state != self.state and state not in TRANSITIONS[self.state]:
            raise PeerRefused(f"{self.instance} is {self.state} and cannot become {state}")


@dataclass(frozen=True, slots=True)
class OwnRotation:
    """A rotation of this node's own key, from `former` to `key`; times are epoch seconds."""

    epoch: int
    former: PublicKey
    key: PublicKey
    started_s: int
    retires_at: int


class Trust:
    """All peers and this node's own rotations at one moment. Immutable: a change of trust makes a new one."""

    __slots__ = ("_by_id", "keyring", "rotations")

    def __init__(self, peers: Iterable[Peer], rotations: Iterable[OwnRotation] = ()) -> None:
        self._by_id = {peer.instance: peer for peer in peers}
        self.rotations = tuple(rotations)
        """Ours, the latest last."""
        # Keys of a revoked peer verify nothing, so its envelopes get the answer a stranger gets (attack 31).
        self.keyring = Keyring(key for peer in self._by_id.values() if peer.state != "revoked" for key in peer.keys)

    def find(self, instance: str) -> Peer | None:
        """Return the peer of that id, whatever its state."""
        return self._by_id.get(instance)

    def peers(self) -> tuple[Peer, ...]:
        """Return all peers, by id."""
        return tuple(self._by_id[instance] for instance in sorted(self._by_id))

    @property
    def rotation(self) -> OwnRotation | None:
        """The latest rotation of our own key."""
        return self.rotations[-1] if self.rotations else None

    def unaware(self) -> tuple[Peer, ...]:
        """Return the peers that have not acknowledged our latest key: to them the former one still signs."""
        latest = self.rotation
        if latest is None:
            return ()
        return tuple(peer for peer in self.peers() if peer.state != "revoked" and peer.acknowledged < latest.epoch)
