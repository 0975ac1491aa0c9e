"""Whether a verified envelope may act here now: the checks of every envelope on every transport, as numbered steps.

`admit` is the only maker of `Admitted`, and whatever acts on an envelope takes only that type. The steps come after the
signature and before rate, replay and effect, in the order of PROTOCOL section 3:

1. audience: it is meant for this instance, compared whole;
2. connection: the sender is a peer and its connection is `active`;
3. direction: this kind of node takes this type of envelope from that kind of peer;
4. window: `iat` and `exp` hold now, within the skew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from common.envelope import EnvelopeType, VerifiedEnvelope, check_window
from common.errors import EnvelopeRejected, sent_by
from common.peers import Kind, Peer, Trust

DEFAULT_SKEW_S: Final = 60

ACCEPTED: Final[Mapping[Kind, frozenset[EnvelopeType]]] = MappingProxyType(
    {
        "hub": frozenset({EnvelopeType.EVENT, EnvelopeType.ROTATE}),
        "spoke": frozenset({EnvelopeType.COMMAND, EnvelopeType.ROTATE}),
    }
)
"""What a node of each kind takes through its inbox. A REPLY is only ever taken as the answer to a request of ours."""

_COUNTERPART: Final[Mapping[Kind, Kind]] = MappingProxyType({"hub": "spoke", "spoke": "hub"})
_SEAL: Final = object()


@dataclass(frozen=True, slots=True)
class Node:
    """Who we are, and how far a peer's clock may be from ours."""

    instance: str
    kind: Kind
    skew_s: int = DEFAULT_SKEW_S


class Admitted:
    """A verified envelope of an active peer, meant for us, in its window: only `admit` makes one."""

    __slots__ = ("envelope", "peer")

    def __init__(self, seal: object, envelope: VerifiedEnvelope, peer: Peer) -> None:
        if seal is not _SEAL:
            raise TypeError("an Admitted envelope is made by admit() only")
        self.envelope = envelope
        self.peer = peer


def _check_audience(envelope: VerifiedEnvelope, me: Node) -> None:
    if envelope.claims.aud != me.instance:
        raise EnvelopeRejected("wrong_audience", f"this is {me.instance}; the envelope is for another instance")


def _check_connection(envelope: VerifiedEnvelope, trust: Trust) -> Peer:
    peer = trust.find(envelope.claims.iss)
    if peer is None or peer.state != "active":
        raise EnvelopeRejected(
            "connection_inactive",
            "the connection is not active; ask this node's operator to approve or resume it",
        )
    return peer


def _check_direction(envelope: VerifiedEnvelope, me: Node, peer: Peer, accepts: frozenset[EnvelopeType]) -> None:
    if peer.kind != _COUNTERPART[me.kind] or envelope.typ not in accepts:
        raise EnvelopeRejected("wrong_direction", f"a {me.kind} does not take {envelope.typ} here from a {peer.kind}")


def admit(
    envelope: VerifiedEnvelope,
    trust: Trust,
    me: Node,
    now_s: float,
    accepts: frozenset[EnvelopeType] | None = None,
) -> Admitted:
    """Take the steps above; `accepts` names other types than `ACCEPTED` (a reply to our request).

    Raises `EnvelopeRejected`: `wrong_audience`, `connection_inactive`, `wrong_direction`, `not_yet_valid`, `expired`.
    """
    with sent_by(envelope.claims.iss):
        _check_audience(envelope, me)
        peer = _check_connection(envelope, trust)
        _check_direction(envelope, me, peer, ACCEPTED[me.kind] if accepts is None else accepts)
        check_window(envelope.claims, now_s, me.skew_s)
        return Admitted(_SEAL, envelope, peer)
