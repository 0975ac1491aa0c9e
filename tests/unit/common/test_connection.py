from __future__ import annotations

from typing import Any, get_args

import pytest

from common.connection import ACCEPTED, Admitted, Node, admit
from common.envelope import EnvelopeType, VerifiedEnvelope, verify
from common.errors import EnvelopeRejected
from common.peers import ConnectionState, Kind, Trust
from tests.envelopes import (
    HUB,
    ME_HUB,
    ME_SPOKE,
    NOW_S,
    SPOKE,
    SPOKE_KEY,
    bodies,
    claims,
    command,
    hub_peer,
    sign,
    spoke_peer,
    spoke_trust,
)

REPLY_ONLY = frozenset({EnvelopeType.REPLY})


def verified(trust: Trust | None = None, **changes: Any) -> VerifiedEnvelope:
    return verify(sign(command(**changes)), (trust or spoke_trust()).keyring, NOW_S)


def from_spoke(typ: EnvelopeType) -> VerifiedEnvelope:
    raw = sign({**claims(iss=SPOKE, aud=HUB), **bodies()[typ]}, key=SPOKE_KEY, typ=typ)
    return verify(raw, Trust([spoke_peer()]).keyring, NOW_S)


def refusal_of(envelope: VerifiedEnvelope, trust: Trust, me: Node = ME_SPOKE, now_s: float = NOW_S) -> EnvelopeRejected:
    with pytest.raises(EnvelopeRejected) as refused:
        admit(envelope, trust, me, now_s)
    return refused.value


def test_a_good_command_is_admitted_with_its_peer() -> None:
    trust = spoke_trust()
    envelope = verified()
    admitted = admit(envelope, trust, ME_SPOKE, NOW_S)
    assert admitted.envelope is envelope
    assert admitted.peer is trust.find(HUB)


def test_nothing_but_admit_makes_an_admitted() -> None:
    with pytest.raises(TypeError):
        Admitted(object(), verified(), hub_peer())


@pytest.mark.parametrize("state", get_args(ConnectionState))
def test_only_an_active_connection_carries_envelopes(state: ConnectionState) -> None:
    if state == "active":
        admit(verified(), spoke_trust(state=state), ME_SPOKE, NOW_S)
    else:
        assert refusal_of(verified(), spoke_trust(state=state)).code == "connection_inactive"


def test_a_peer_that_is_gone_since_is_not_active() -> None:
    assert refusal_of(verified(), Trust([])).code == "connection_inactive"


@pytest.mark.parametrize("typ", EnvelopeType)
def test_a_hub_takes_events_and_rotations_only(typ: EnvelopeType) -> None:
    trust = Trust([spoke_peer()])
    if typ in {EnvelopeType.EVENT, EnvelopeType.ROTATE}:
        admit(from_spoke(typ), trust, ME_HUB, NOW_S)
    else:
        assert refusal_of(from_spoke(typ), trust, ME_HUB).code == "wrong_direction"


@pytest.mark.parametrize("typ", EnvelopeType)
def test_a_spoke_takes_commands_and_rotations_only(typ: EnvelopeType) -> None:
    trust = spoke_trust()
    envelope = verify(sign({**claims(), **bodies()[typ]}, typ=typ), trust.keyring, NOW_S)
    if typ in {EnvelopeType.COMMAND, EnvelopeType.ROTATE}:
        admit(envelope, trust, ME_SPOKE, NOW_S)
    else:
        assert refusal_of(envelope, trust).code == "wrong_direction"


def test_the_tables_name_every_kind() -> None:
    assert set(ACCEPTED) == set(get_args(Kind))


def test_nodes_of_one_kind_do_not_talk() -> None:
    assert refusal_of(verified(), spoke_trust(kind="spoke")).code == "wrong_direction"
    as_hub = Trust([spoke_peer(kind="hub")])
    assert refusal_of(from_spoke(EnvelopeType.EVENT), as_hub, ME_HUB).code == "wrong_direction"


def test_other_types_are_taken_only_where_they_are_asked_for() -> None:
    trust = Trust([spoke_peer()])
    admit(from_spoke(EnvelopeType.REPLY), trust, ME_HUB, NOW_S, REPLY_ONLY)
    with pytest.raises(EnvelopeRejected) as refused:
        admit(from_spoke(EnvelopeType.EVENT), trust, ME_HUB, NOW_S, REPLY_ONLY)
    assert refused.value.code == "wrong_direction"
    with pytest.raises(EnvelopeRejected):
        admit(from_spoke(EnvelopeType.EVENT), trust, ME_HUB, NOW_S, frozenset())


def test_the_skew_is_that_of_the_node() -> None:
    strict = Node(SPOKE, "spoke", skew_s=0)
    assert refusal_of(verified(), spoke_trust(), strict, NOW_S - 1).code == "not_yet_valid"
    assert refusal_of(verified(), spoke_trust(), strict, NOW_S + 60).code == "expired"
    admit(verified(), spoke_trust(), ME_SPOKE, NOW_S + 119)


def test_the_checks_come_in_the_order_of_the_protocol() -> None:
    """Each step on: what was wrong before is right now, everything behind is still wrong."""
    late = NOW_S + 10_000
    other_audience = verified(aud="build-2")
    assert refusal_of(other_audience, spoke_trust(state="suspended", kind="spoke"), now_s=late).code == "wrong_audience"
    assert (
        refusal_of(verified(), spoke_trust(state="suspended", kind="spoke"), now_s=late).code == "connection_inactive"
    )
    assert refusal_of(verified(), spoke_trust(kind="spoke"), now_s=late).code == "wrong_direction"
    assert refusal_of(verified(), spoke_trust(), now_s=late).code == "expired"
