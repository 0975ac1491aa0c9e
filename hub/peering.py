"""Which spoke a request means, and whether it may be asked anything now."""

from __future__ import annotations

from typing import Final

from common.errors import PeerError
from common.peers import Peer, Trust

_ADVICE: Final = {
    "pending": "approve it first: hub peer approve",
    "suspended": "resume it first: hub peer resume",
    "revoked": "it has to join again",
}


class NoSuchSpoke(PeerError):
    """No spoke of that id is known here."""

    code = "not_found"
    http_status = 404


class ConnectionInactive(PeerError):
    """The spoke is known, but its connection carries nothing now."""

    code = "connection_inactive"
    http_status = 409


def active_spoke(trust: Trust, instance: str) -> Peer:
    """Return the spoke of that id; raises `NoSuchSpoke` or `ConnectionInactive`."""
    peer = trust.find(instance)
    if peer is None or peer.kind != "spoke":
        raise NoSuchSpoke(f"there is no spoke {instance} here; see hub peer list")
    if peer.state != "active":
        raise ConnectionInactive(f"{instance} is {peer.state}: {_ADVICE[peer.state]}")
    return peer


def spoke_of_tenant(trust: Trust, instance: str, tenant: str) -> Peer:
    """Return the spoke if the connection is still the same; raises as `active_spoke` does."""
    peer = active_spoke(trust, instance)
    if peer.tenant != tenant:
        raise ConnectionInactive(f"the agent belongs to an earlier connection of {instance}, which was revoked")
    return peer
