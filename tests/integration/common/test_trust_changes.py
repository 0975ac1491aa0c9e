"""Policies and open invites in the trust store, and what is told of one's own keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.configuration import NodeDirectory, NodeSection
from common.errors import Unavailable
from common.invites import InviteRefused
from common.key_report import report_keys
from common.keyfiles import create_signing_key
from common.own_keys import KeyFiles, OwnKeys, rotate
from common.peers import PeerRefused
from common.rotation_store import RotationStore
from common.trust_store import NewPeer, OpenInvite, TrustStore
from tests.envelopes import HUB, NOW_S, OTHER_KEY, SPOKE, SPOKE_KEY, id_of
from tests.integration.common.trust_race import introduction


class Told(list[tuple[str, Any]]):
    """What was told; `fail` makes the next one fail as a full disk would."""

    fail = False

    def __call__(self, event: str, fields: Any) -> None:
        if self.fail:
            raise Unavailable("the disk is full")
        self.append((event, fields))


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def files(tmp_path: Path) -> KeyFiles:
    return KeyFiles(tmp_path / "keys", HUB)


@pytest.fixture
def store(tmp_path: Path, files: KeyFiles, told: Told) -> Iterator[TrustStore]:
    opened = TrustStore(tmp_path / "trust.db", HUB, create_signing_key(files.current).public, told)
    opened.add(NewPeer(SPOKE, "spoke", SPOKE_KEY.public, None, {}), "active", NOW_S)
    yield opened
    opened.close()


def test_a_peer_has_rules_of_its_own_until_they_are_cleared(store: TrustStore, told: Told) -> None:
    rules = {"commands": ["spawn"], "agents": 1}
    assert store.set_policy(SPOKE, rules).policy == rules
    assert store.find(SPOKE).policy == rules
    assert store.set_policy(SPOKE, None).policy is None
    assert [fields["policy"] for event, fields in told if event == "peer.policy_changed"] == ["own", "the general one"]


def test_rules_of_an_unknown_peer_or_that_cannot_be_told_are_not_set(store: TrustStore, told: Told) -> None:
    with pytest.raises(PeerRefused, match="no peer"):
        store.set_policy("nobody", {})
    told.fail = True
    with pytest.raises(Unavailable):
        store.set_policy(SPOKE, {})
    assert store.find(SPOKE).policy is None


@pytest.mark.attack(33)
def test_a_new_connection_of_the_same_id_has_no_policy_and_no_epoch(store: TrustStore) -> None:
    store.set_policy(SPOKE, {"commands": ["spawn"]})
    with store.change() as tables:
        tables.execute("UPDATE peers SET epoch = 7")
    store.set_state(SPOKE, "revoked")
    anew = store.add(NewPeer(SPOKE, "spoke", SPOKE_KEY.public, None, {}), "active", NOW_S)
    assert (anew.policy, anew.epoch) == (None, 0)
    assert store.find(SPOKE) == anew


def test_open_invites_are_those_that_let_somebody_in(store: TrustStore) -> None:
    store.add_invite(id_of(1), NOW_S + 20, {"zone": "eu"})
    store.add_invite(id_of(2), NOW_S + 10, {})
    store.add_invite(id_of(3), NOW_S, {})
    store.add_invite(id_of(4), NOW_S + 30, {})
    store.redeem(introduction("build-2", OTHER_KEY.public, id_of(4)), NOW_S)
    assert store.open_invites(NOW_S) == [
        OpenInvite(id_of(2), NOW_S + 10, {}),
        OpenInvite(id_of(1), NOW_S + 20, {"zone": "eu"}),
    ]
    store.withdraw_invite(id_of(1))
    assert [each.invite for each in store.open_invites(NOW_S)] == [id_of(2)]
    with pytest.raises(InviteRefused):
        store.redeem(introduction("build-3", OTHER_KEY.public, id_of(1)), NOW_S)


@pytest.mark.parametrize("number", [4, 9], ids=["used", "unknown"])
def test_an_invite_that_is_used_or_unknown_cannot_be_withdrawn(store: TrustStore, number: int) -> None:
    store.add_invite(id_of(4), NOW_S + 30, {})
    store.redeem(introduction("build-2", OTHER_KEY.public, id_of(4)), NOW_S)
    with pytest.raises(InviteRefused, match="no open invite"):
        store.withdraw_invite(id_of(number))
    assert store.find("build-2").state == "active"


def test_what_is_told_of_ones_own_keys(store: TrustStore, files: KeyFiles) -> None:
    keys = OwnKeys(files, store)
    before = report_keys(HUB, keys, store.current())
    first = keys.current.public.fingerprint
    assert (before["id"], before["fingerprint"], before["rotation"]) == (HUB, first, None)
    assert before["peers"] == [
        {"id": SPOKE, "state": "active", "signedWith": first, "acknowledged": True, "problem": None}
    ]
    rotation = rotate(files, RotationStore(store), keys, NOW_S, 3600)
    RotationStore(store).note_problem(store.find(SPOKE), "unavailable: away")
    store.add(NewPeer("build-2", "spoke", OTHER_KEY.public, None, {}), "revoked", NOW_S)
    after = report_keys(HUB, keys, store.current())
    assert (after["fingerprint"], after["jwk"]) == (rotation.key.fingerprint, rotation.key.to_jwk())
    assert after["rotation"] == {
        "epoch": NOW_S,
        "startedAt": "2026-11-18T11:06:40.000Z",
        "former": first,
        "formerRetiresAt": "2026-11-18T12:06:40.000Z",
        "complete": False,
    }
    assert after["peers"] == [
        {"id": SPOKE, "state": "active", "signedWith": first, "acknowledged": False, "problem": "unavailable: away"}
    ]
    RotationStore(store).acknowledge(store.find(SPOKE), NOW_S)
    known = report_keys(HUB, keys, store.current())
    assert known["peers"][0]["signedWith"] == rotation.key.fingerprint
    assert known["rotation"]["complete"] is True


def test_where_a_node_keeps_its_keys_and_how_long_a_former_one_counts(tmp_path: Path) -> None:
    assert NodeDirectory(tmp_path).key_files(HUB).current == NodeDirectory(tmp_path).key_file(HUB)
    assert NodeSection(id=HUB, listen="127.0.0.1:0").overlap_s == 24 * 3600
    assert NodeSection(id=HUB, listen="127.0.0.1:0", overlap_h=1).overlap_s == 3600
