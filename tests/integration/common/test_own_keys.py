"""A node's own keys: what a crash at any step of a rotation leaves, and which key signs to whom."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common import own_keys
from common.errors import CommandRefused
from common.keyfiles import KeyFileError, create_signing_key, load_signing_key
from common.keyring import SigningKey
from common.own_keys import KeyFiles, OwnKeys, rotate
from common.peers import OwnRotation, PeerRefused
from common.rotation import NextKey
from common.rotation_store import RotationOpen, RotationStore
from common.trust_store import NewPeer, TrustStore
from tests.envelopes import HUB, HUB_KEY, NOW_S, OTHER_KEY, SPOKE, key_of

OVERLAP_S = 3600


class Crash(BaseException):
    """The process ends here."""


class Rig:
    """A spoke's directory: its key files and its trust store with one hub."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = KeyFiles(directory / "keys", SPOKE)
        self.first = create_signing_key(self.files.current)
        self.told: list[tuple[str, Any]] = []
        self.store = TrustStore(directory / "trust.db", SPOKE, self.first.public, self._tell)
        self.rotations = RotationStore(self.store)
        self.store.add(NewPeer(HUB, "hub", HUB_KEY.public, None, {}), "active", NOW_S)
        self.keys = OwnKeys(self.files, self.store)

    def _tell(self, event: str, fields: Any) -> None:
        self.told.append((event, fields))

    def rotate(self, now_s: int = NOW_S) -> OwnRotation:
        return rotate(self.files, self.rotations, self.keys, now_s, OVERLAP_S)

    def acknowledge(self, instance: str = HUB) -> None:
        rotation = self.rotations.latest()
        assert rotation is not None
        self.rotations.acknowledge(self.store.find(instance), rotation.epoch)

    def reopened(self) -> OwnKeys:
        """The keys as a process that starts now finds them."""
        return OwnKeys(self.files, self.store)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.files.directory.iterdir())


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.store.close()


def test_before_any_rotation_there_is_one_key_for_all(rig: Rig) -> None:
    assert rig.keys.current.kid == rig.keys.signer_for(HUB).kid == rig.keys.signer_for("stranger").kid == rig.first.kid
    assert rig.keys.public_keys(NOW_S) == (rig.first.public,)
    assert rig.keys.keyring().find(rig.first.kid, NOW_S).owner == SPOKE


def test_a_rotation_is_seen_by_a_running_node_at_its_next_signature(rig: Rig) -> None:
    beside = Rig.__new__(Rig)
    beside.files, beside.store = rig.files, TrustStore(rig.directory / "trust.db", SPOKE, rig.first.public)
    beside.rotations, beside.keys = RotationStore(beside.store), OwnKeys(rig.files, beside.store)
    rotation = beside.rotate()
    beside.store.close()
    assert rig.keys.current.public == rotation.key != rig.first.public
    assert rig.names() == [f"{SPOKE}.key", f"{SPOKE}.prev.key"]
    assert load_signing_key(rig.files.current).public == rotation.key
    assert load_signing_key(rig.files.former).public == rotation.former == rig.first.public
    assert (rotation.epoch, rotation.retires_at) == (NOW_S, NOW_S + OVERLAP_S)


def test_to_a_peer_the_former_key_signs_until_it_acknowledged(rig: Rig) -> None:
    rig.store.add(NewPeer("hub-us", "hub", OTHER_KEY.public, None, {}), "active", NOW_S)
    rotation = rig.rotate()
    assert rig.keys.signer_for(HUB).public == rig.keys.signer_for("hub-us").public == rig.first.public
    assert rig.keys.signer_for("stranger").public == rotation.key
    rig.acknowledge()
    assert rig.keys.signer_for(HUB).public == rotation.key
    assert rig.keys.signer_for("hub-us").public == rig.first.public
    assert [peer.instance for peer in rig.store.current().unaware()] == ["hub-us"]


def test_a_peer_that_joins_later_knows_the_new_key(rig: Rig) -> None:
    rotation = rig.rotate()
    added = rig.store.add(NewPeer("hub-us", "hub", OTHER_KEY.public, None, {}), "active", NOW_S)
    assert added == rig.store.find("hub-us")
    assert rig.keys.signer_for("hub-us").public == rotation.key


def test_an_identity_shows_the_former_key_in_its_overlap(rig: Rig) -> None:
    rotation = rig.rotate()
    assert rig.keys.public_keys(NOW_S + OVERLAP_S - 1) == (rotation.key, rig.first.public)
    assert rig.keys.public_keys(NOW_S + OVERLAP_S) == (rotation.key,)


def test_what_we_signed_before_verifies_at_the_time_when_we_did(rig: Rig) -> None:
    rotation = rig.rotate()
    ring = rig.keys.keyring()
    assert ring.find(rig.first.kid, NOW_S + OVERLAP_S - 1).owner == SPOKE
    assert ring.find(rotation.key.kid, NOW_S + 10 * OVERLAP_S).owner == SPOKE
    with pytest.raises(Exception, match="signature"):
        ring.find(rig.first.kid, NOW_S + OVERLAP_S)


def test_the_next_rotation_waits_until_all_know_of_this_one(rig: Rig) -> None:
    rig.rotate()
    with pytest.raises(RotationOpen, match=HUB) as refused:
        rig.rotate(NOW_S + 1)
    assert refused.value.code == "rotation_open"
    assert rig.names() == [f"{SPOKE}.key", f"{SPOKE}.prev.key"]
    rig.acknowledge()
    second = rig.rotate(NOW_S)
    assert second.epoch == NOW_S + 1
    assert rig.keys.current.public == second.key
    assert load_signing_key(rig.files.former).public == second.former
    assert len(rig.store.current().rotations) == 2


def test_a_revoked_peer_is_not_waited_for(rig: Rig) -> None:
    rig.rotate()
    rig.store.set_state(HUB, "revoked")
    assert rig.rotate(NOW_S + 5).epoch == NOW_S + 5


def crash_when(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, nth: int = 1) -> None:
    """End the process instead of the `nth` call."""
    whole: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def crashing(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise Crash
        return whole(*arguments, **named)

    monkeypatch.setattr(owner, name, crashing)


BEFORE_IT_COUNTS: dict[str, tuple[Any, str, int]] = {
    "before the next key is made": (own_keys, "create_signing_key", 1),
    "before the row is written": (RotationStore, "begin", 1),
    "while the row is written": (TrustStore, "current", 5),
}
AFTER_IT_COUNTS: dict[str, tuple[Any, str, int]] = {
    "before the files are renamed": (KeyFiles, "settle", 1),
    "before the former key has its name": (os, "link", 1),
    "before the next key has its name": (Path, "replace", 1),
    "before the directory is written": (KeyFiles, "_sync", 1),
}


@pytest.mark.parametrize("point", BEFORE_IT_COUNTS.values(), ids=BEFORE_IT_COUNTS)
def test_a_crash_before_the_row_changes_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, point: tuple[Any, str, int]
) -> None:
    with monkeypatch.context() as patch:
        crash_when(patch, *point)
        with pytest.raises(Crash):
            rig.rotate()
    assert rig.reopened().current.kid == rig.keys.current.kid == rig.first.kid
    left = load_signing_key(rig.files.following).kid if rig.files.following.exists() else None
    rotation = rig.rotate()
    assert left in {None, rotation.key.kid}
    assert rig.reopened().current.public == rotation.key
    assert rig.names() == [f"{SPOKE}.key", f"{SPOKE}.prev.key"]


@pytest.mark.parametrize("point", AFTER_IT_COUNTS.values(), ids=AFTER_IT_COUNTS)
def test_a_crash_after_the_row_leaves_both_keys_and_the_new_one_counts(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, point: tuple[Any, str, int]
) -> None:
    with monkeypatch.context() as patch:
        crash_when(patch, *point)
        with pytest.raises(Crash):
            rig.rotate()
    rotation = rig.rotations.latest()
    assert rotation is not None
    for keys in (rig.keys, rig.reopened()):
        assert keys.current.public == rotation.key
        assert keys.signer_for(HUB).public == rig.first.public
    with pytest.raises(RotationOpen):
        rig.rotate()
    assert rig.names() == [f"{SPOKE}.key", f"{SPOKE}.prev.key"]
    assert rig.reopened().signer_for(HUB).public == rig.first.public


def test_settling_twice_changes_nothing_and_another_next_key_is_not_taken(rig: Rig) -> None:
    rotation = rig.rotate()
    rig.files.settle(rotation)
    stray = create_signing_key(rig.files.following)
    rig.files.settle(rotation)
    assert load_signing_key(rig.files.following).kid == stray.kid
    assert load_signing_key(rig.files.current).public == rotation.key


def test_a_next_key_that_is_ours_already_is_only_renamed(rig: Rig) -> None:
    rotation = rig.rotate()
    shutil.copy2(rig.files.current, rig.files.following)
    rig.files.settle(rotation)
    assert load_signing_key(rig.files.former).public == rig.first.public
    assert rig.names() == [f"{SPOKE}.key", f"{SPOKE}.prev.key"]


def test_files_that_cannot_be_renamed_are_told(rig: Rig) -> None:
    rig.files.former.mkdir()
    with pytest.raises(KeyFileError, match="cannot rename"):
        rig.rotate()


def test_a_key_that_others_can_read_stops_the_node(rig: Rig) -> None:
    rig.rotate()
    rig.files.former.chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        rig.reopened()


def test_without_the_key_it_rotated_to_a_node_does_not_start(rig: Rig) -> None:
    rig.rotate()
    rig.files.former.replace(rig.files.current)
    with pytest.raises(KeyFileError, match="which this node rotated to"):
        rig.reopened()


def test_without_its_former_key_a_node_signs_with_the_one_it_has(rig: Rig) -> None:
    rotation = rig.rotate()
    rig.files.former.unlink()
    assert rig.reopened().signer_for(HUB).public == rotation.key


def test_a_former_key_is_forgotten_and_nothing_else_in_its_place(rig: Rig) -> None:
    rotation = rig.rotate()
    rig.files.forget_former(rotation)
    assert rig.names() == [f"{SPOKE}.key"]
    rig.files.forget_former(rotation)
    stray = create_signing_key(rig.files.former)
    rig.files.forget_former(rotation)
    assert load_signing_key(rig.files.former).kid == stray.kid


def test_our_own_keys_are_no_peers(rig: Rig) -> None:
    rotation = rig.rotate()
    for key in (rotation.key, rotation.former):
        with pytest.raises(PeerRefused, match="a key of its own"):
            rig.store.add(NewPeer("hub-us", "hub", key, None, {}), "active", NOW_S)


# --- the rotations of peers ----------------------------------------------------------------------------------


def take(rig: Rig, key: SigningKey, epoch: int, by: SigningKey = HUB_KEY, instance: str = HUB) -> bool:
    return rig.rotations.rotate_peer(rig.store.find(instance), NextKey(key.public, epoch, by.kid), NOW_S + 60)


def test_a_peers_next_key_is_the_current_one_and_the_former_one_retires(rig: Rig) -> None:
    assert take(rig, key_of(7), 1) is True
    peer = rig.store.find(HUB)
    assert (peer.epoch, peer.current_key) == (1, key_of(7).public)
    assert [owned.retires_at for owned in peer.keys] == [None, NOW_S + 60]
    assert take(rig, key_of(7), 1) is False
    assert [event for event, _ in rig.told if event == "peer.key_rotated"] == ["peer.key_rotated"]


def test_a_key_that_somebody_has_is_nobody_elses_next_key(rig: Rig) -> None:
    rig.store.add(NewPeer("hub-us", "hub", OTHER_KEY.public, None, {}), "active", NOW_S)
    ours = rig.rotate()
    mine = load_signing_key(rig.files.current)
    for key in (OTHER_KEY, rig.first, mine):
        with pytest.raises(CommandRefused) as refused:
            take(rig, key, 1)
        assert refused.value.code == "conflict"
    assert rig.store.find(HUB).keys[0].key == HUB_KEY.public
    assert ours.key == mine.public


@pytest.mark.attack(33)
@pytest.mark.attack(35)
def test_a_connection_that_ended_meanwhile_rotates_nothing(rig: Rig) -> None:
    before = rig.store.find(HUB)
    following = NextKey(key_of(7).public, 1, HUB_KEY.kid)
    rig.store.set_state(HUB, "suspended")
    with pytest.raises(CommandRefused, match="ended meanwhile"):
        rig.rotations.rotate_peer(before, following, NOW_S)
    rig.store.set_state(HUB, "revoked")
    rig.store.add(NewPeer(HUB, "hub", HUB_KEY.public, None, {}), "active", NOW_S)
    with pytest.raises(CommandRefused, match="ended meanwhile"):
        rig.rotations.rotate_peer(before, following, NOW_S)
    rig.store.set_state(HUB, "revoked")
    assert rig.store.find(HUB).epoch == 0


@pytest.mark.attack(31)
def test_an_operator_revokes_a_former_key_at_once(rig: Rig) -> None:
    take(rig, key_of(7), 1)
    peer = rig.rotations.revoke_key(HUB, HUB_KEY.public.fingerprint)
    assert [owned.key for owned in peer.keys] == [key_of(7).public]
    with pytest.raises(Exception, match="signature"):
        rig.store.current().keyring.find(HUB_KEY.kid, NOW_S)
    with pytest.raises(PeerRefused) as refused:
        rig.rotations.revoke_key(HUB, key_of(7).public.fingerprint)
    assert refused.value.code == "not_allowed"


def test_a_problem_is_noted_once_and_gone_with_the_acknowledgement(rig: Rig) -> None:
    rig.rotate()
    peer = rig.store.find(HUB)
    rig.rotations.note_problem(peer, "stale: old")
    assert rig.store.find(HUB).rotation_problem == "stale: old"
    trust = rig.store.current()
    rig.rotations.note_problem(rig.store.find(HUB), "stale: old")
    assert rig.store.current() is trust
    rig.acknowledge()
    assert rig.store.find(HUB).rotation_problem is None


def test_a_connection_that_is_gone_acknowledges_nothing(rig: Rig) -> None:
    rig.rotate()
    gone = rig.store.find(HUB)
    rig.store.set_state(HUB, "revoked")
    rig.store.add(NewPeer(HUB, "hub", HUB_KEY.public, None, {}), "active", NOW_S)
    rig.rotations.acknowledge(gone, 5)
    assert rig.store.find(HUB).acknowledged == rig.rotations.latest().epoch  # type: ignore[union-attr]
