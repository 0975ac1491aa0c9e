from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from common.errors import BadSignature
from common.keyring import KeyRefused, OwnedKey
from common.peers import LOCAL_TENANT, TRANSITIONS, ConnectionState, PeerRefused, Trust
from tests.envelopes import HUB, HUB_KEY, NOW_S, OTHER_KEY, SPOKE, SPOKE_KEY, hub_peer, spoke_peer

ALLOWED = {
    ("pending", "active"),
    ("pending", "revoked"),
    ("active", "suspended"),
    ("active", "revoked"),
    ("suspended", "active"),
    ("suspended", "revoked"),
}


def test_the_table_is_closed() -> None:
    assert set(TRANSITIONS) == set(get_args(ConnectionState))
    assert set().union(*TRANSITIONS.values()) <= set(TRANSITIONS)


@pytest.mark.parametrize(("before", "after"), list(product(TRANSITIONS, TRANSITIONS)))
def test_a_connection_goes_only_where_the_table_leads(before: ConnectionState, after: ConnectionState) -> None:
    peer = hub_peer(state=before)
    if before == after or (before, after) in ALLOWED:
        return peer.check_transition(after)
    with pytest.raises(PeerRefused) as refused:
        peer.check_transition(after)
    assert refused.value.code == "peer_refused"
    return None


@pytest.mark.attack(33)
def test_a_new_connection_of_the_same_id_is_another_tenant() -> None:
    assert hub_peer(connection=1).tenant != hub_peer(connection=2).tenant
    assert "_" not in LOCAL_TENANT


def test_the_tenants_of_two_ids_are_never_the_same() -> None:
    assert hub_peer(instance="a", connection=11).tenant != hub_peer(instance="a1", connection=1).tenant


def test_the_first_key_is_the_current_one() -> None:
    keys = (OwnedKey(HUB, OTHER_KEY.public), OwnedKey(HUB, HUB_KEY.public, retires_at=NOW_S))
    assert hub_peer(keys=keys).current_key == OTHER_KEY.public


def test_trust_finds_peers_by_id_whatever_their_state() -> None:
    trust = Trust([spoke_peer(state="revoked"), hub_peer(state="pending")])
    assert [peer.instance for peer in trust.peers()] == [SPOKE, HUB]
    assert trust.find(SPOKE) == spoke_peer(state="revoked")
    assert trust.find("nobody") is None


@pytest.mark.attack(31)
def test_the_keys_of_a_revoked_peer_verify_nothing() -> None:
    ring = Trust([spoke_peer(state="revoked"), hub_peer(state="suspended")]).keyring
    assert ring.find(HUB_KEY.kid, NOW_S).owner == HUB
    with pytest.raises(BadSignature):
        ring.find(SPOKE_KEY.kid, NOW_S)


def test_two_peers_cannot_have_one_key_unless_one_is_revoked() -> None:
    taken = (OwnedKey(SPOKE, HUB_KEY.public),)
    with pytest.raises(KeyRefused):
        Trust([hub_peer(), spoke_peer(keys=taken)])
    assert Trust([hub_peer(), spoke_peer(keys=taken, state="revoked")]).keyring.find(HUB_KEY.kid, NOW_S).owner == HUB
