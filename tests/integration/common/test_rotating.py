"""Rotations between two nodes: their trust stores, keys and checks are real, the wire between them is a function."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common import jose, rotating
from common.connection import Node
from common.envelope import EnvelopeType, Items, RotateBody, seal
from common.errors import BadSignature, EnvelopeRejected, HubspokeError, Unavailable
from common.exchange import EnvelopeNotTaken, Exchange
from common.ids import uuid7
from common.inbox import Inbox
from common.keyfiles import create_signing_key
from common.own_keys import KeyFiles, OwnKeys, rotate
from common.peers import Kind, Peer
from common.rotating import Announcer, RotationIntake
from common.rotation import rotate_fields
from common.rotation_store import RotationStore
from common.trust_store import NewPeer, TrustStore
from tests.envelopes import HUB, NOW_S, SPOKE, key_of
from tests.spoke_node import eventually

OVERLAP_S = 3600


class Clock:
    """A clock that stands until a test moves it."""

    def __init__(self) -> None:
        self.now_s = NOW_S
        self._made = 0

    def now_ms(self) -> int:
        return self.now_s * 1000

    def new_id(self) -> str:
        self._made += 1
        return uuid7(self.now_ms(), self._made.to_bytes(10, "big"))


class Side:
    """One node."""

    def __init__(self, directory: Path, instance: str, kind: Kind, clock: Clock) -> None:
        self.instance, self.clock = instance, clock
        self.files = KeyFiles(directory / instance, instance)
        self.first = create_signing_key(self.files.current)
        self.store = TrustStore(directory / f"{instance}.db", instance, self.first.public)
        self.rotations = RotationStore(self.store)
        self.keys = OwnKeys(self.files, self.store)
        self.me = Node(instance, kind)
        self.inbox = Inbox(self.me, self.store)
        self.intake = RotationIntake(instance, self.rotations, clock, OVERLAP_S)
        self.exchange = Exchange(self.me, self.keys, self.inbox, self, clock)
        self.wire: Callable[[bytes], bytes] = self.nobody
        self.delivered: list[str] = []
        """The key id of every envelope that left."""

    def nobody(self, _raw: bytes) -> bytes:
        raise Unavailable("nobody is there")

    async def deliver(self, _peer: Peer, raw: bytes) -> bytes:
        self.delivered.append(jose.parse_compact(raw).kid)
        return self.wire(raw)

    def take(self, raw: bytes) -> bytes:
        """Answer an envelope as the node's route would, refusals as the sender hears of them."""
        try:
            admitted = self.inbox.admit(raw, self.clock.now_s)
            self.intake.check(admitted)
            result = self.intake.take(admitted)
            return self.exchange.reply(admitted.peer.instance, admitted.envelope.claims.jti, [result])
        except HubspokeError as error:
            raise EnvelopeNotTaken(error.http_status, error.code, error.message) from error

    def rotate(self) -> None:
        rotate(self.files, self.rotations, self.keys, self.clock.now_s, OVERLAP_S)

    def announcer(self) -> Announcer:
        return Announcer(
            self.files, self.keys, self.rotations, self.exchange, self.store.current, self.clock, lambda: 0.0
        )

    def knows(self, other: Side) -> None:
        """Register the other side with its present key."""
        kind: Kind = "hub" if self.me.kind == "spoke" else "spoke"
        self.store.add(NewPeer(other.instance, kind, other.keys.current.public, None, {}), "active", NOW_S)

    def peer(self, other: Side) -> Peer:
        return self.store.find(other.instance)


class Two:
    """A hub and a spoke that know each other."""

    def __init__(self, directory: Path) -> None:
        self.clock = Clock()
        self.hub = Side(directory, HUB, "hub", self.clock)
        self.spoke = Side(directory, SPOKE, "spoke", self.clock)
        self.hub.knows(self.spoke)
        self.spoke.knows(self.hub)
        self.connect()

    def connect(self) -> None:
        self.hub.wire, self.spoke.wire = self.spoke.take, self.hub.take

    def disconnect(self) -> None:
        self.hub.wire, self.spoke.wire = self.hub.nobody, self.spoke.nobody


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Two]:
    monkeypatch.setattr(rotating, "POLL_S", 0.01)
    monkeypatch.setattr(rotating, "_FIRST_PAUSE_S", 0.01)
    made = Two(tmp_path)
    yield made
    made.hub.store.close()
    made.spoke.store.close()


async def announce(side: Side, until: Callable[[], Any]) -> None:
    """Run the side's announcer until something is so."""
    async with asyncio.TaskGroup() as group:
        running = group.create_task(side.announcer().run())
        await eventually(until, "what the announcer does")
        running.cancel()


def acknowledged(side: Side) -> Callable[[], bool]:
    return lambda: not side.store.current().unaware()


@pytest.mark.parametrize("which", ["hub", "spoke"])
async def test_a_peer_learns_the_next_key_and_from_then_on_sees_it(two: Two, which: str) -> None:
    side, other = (two.hub, two.spoke) if which == "hub" else (two.spoke, two.hub)
    side.rotate()
    await announce(side, acknowledged(side))
    peer = other.peer(side)
    assert peer.current_key == side.keys.current.public != side.first.public
    assert [owned.retires_at for owned in peer.keys] == [None, NOW_S + OVERLAP_S]
    assert side.keys.signer_for(other.instance) is side.keys.current
    assert side.delivered == [side.first.kid]


@pytest.mark.fault(34)
async def test_envelopes_of_both_keys_verify_during_the_overlap_only(two: Two) -> None:
    before = seal(two.hub.first, EnvelopeType.COMMAND, two.hub.exchange.claims(SPOKE), {}, _status(two))
    two.hub.rotate()
    await announce(two.hub, acknowledged(two.hub))
    after = seal(two.hub.keys.current, EnvelopeType.COMMAND, two.hub.exchange.claims(SPOKE), {}, _status(two))
    assert two.spoke.inbox.admit(before, NOW_S).peer.instance == HUB
    assert two.spoke.inbox.admit(after, NOW_S).peer.instance == HUB
    two.clock.now_s += OVERLAP_S
    late = [
        seal(key, EnvelopeType.COMMAND, two.hub.exchange.claims(SPOKE), {}, _status(two))
        for key in (two.hub.first, two.hub.keys.current)
    ]
    with pytest.raises(BadSignature):
        two.spoke.inbox.admit(late[0], two.clock.now_s)
    assert two.spoke.inbox.admit(late[1], two.clock.now_s).peer.instance == HUB


def _status(two: Two) -> Items:
    command = {"id": two.clock.new_id(), "command": "status", "agentId": two.clock.new_id()}
    return Items("commands", [json.dumps(command).encode()])


async def test_a_peer_that_is_away_is_told_when_it_is_back(two: Two) -> None:
    two.disconnect()
    two.hub.rotate()
    await announce(two.hub, lambda: len(two.hub.delivered) > 1)
    assert two.hub.keys.signer_for(SPOKE).kid == two.hub.first.kid
    assert "unavailable" in str(two.hub.peer(two.spoke).rotation_problem)
    two.connect()
    await announce(two.hub, acknowledged(two.hub))
    assert two.hub.peer(two.spoke).rotation_problem is None


async def test_both_rotate_at_the_same_time(two: Two) -> None:
    two.hub.rotate()
    two.spoke.rotate()
    await announce(two.hub, acknowledged(two.hub))
    await announce(two.spoke, acknowledged(two.spoke))
    assert two.hub.peer(two.spoke).current_key == two.spoke.keys.current.public
    assert two.spoke.peer(two.hub).current_key == two.hub.keys.current.public


async def test_a_lost_answer_is_made_good_even_after_the_overlap(two: Two) -> None:
    def lost(raw: bytes) -> bytes:
        two.spoke.take(raw)
        raise Unavailable("the answer is lost")

    two.hub.wire = lost
    two.hub.rotate()
    await announce(two.hub, lambda: two.spoke.peer(two.hub).epoch > 0)
    assert two.hub.store.current().unaware()
    two.clock.now_s += OVERLAP_S + 1
    two.connect()
    two.hub.delivered.clear()
    await announce(two.hub, acknowledged(two.hub))
    assert two.hub.delivered == [two.hub.first.kid, two.hub.keys.current.kid]


async def test_a_peer_that_joined_anew_with_the_next_key_is_aware_after_one_telling(two: Two) -> None:
    two.disconnect()
    two.hub.rotate()
    two.spoke.store.set_state(HUB, "revoked")
    two.spoke.knows(two.hub)
    two.connect()
    await announce(two.hub, acknowledged(two.hub))
    assert two.hub.keys.signer_for(SPOKE) is two.hub.keys.current


async def test_a_refusal_is_shown_and_tried_again(two: Two) -> None:
    database = two.spoke.store
    with database.change() as tables:
        tables.execute("UPDATE peers SET epoch = ?", (NOW_S + 10**6,))
    two.hub.rotate()
    await announce(two.hub, lambda: len(two.hub.delivered) > 2)
    assert "stale" in str(two.hub.peer(two.spoke).rotation_problem)
    assert two.spoke.peer(two.hub).current_key == two.hub.first.public


async def test_a_peer_that_knows_neither_key_is_asked_under_both(two: Two) -> None:
    two.spoke.store.set_state(HUB, "revoked")
    two.hub.rotate()
    await announce(two.hub, lambda: two.hub.peer(two.spoke).rotation_problem is not None)
    assert two.hub.delivered[:2] == [two.hub.first.kid, two.hub.keys.current.kid]
    assert "bad_signature" in str(two.hub.peer(two.spoke).rotation_problem)


async def test_another_refusal_is_not_asked_again_under_the_next_key(two: Two) -> None:
    two.spoke.store.set_state(HUB, "suspended")
    two.hub.rotate()
    await announce(two.hub, lambda: two.hub.peer(two.spoke).rotation_problem is not None)
    assert set(two.hub.delivered) == {two.hub.first.kid}


async def test_only_active_peers_are_told(two: Two) -> None:
    two.hub.store.set_state(SPOKE, "suspended")
    two.hub.rotate()
    await _rounds(two.hub)
    assert two.hub.delivered == []
    two.hub.store.set_state(SPOKE, "active")
    await announce(two.hub, acknowledged(two.hub))


async def _rounds(side: Side, trust: Callable[[], Any] | None = None, rounds: int = 3) -> None:
    """Let an announcer of this side take some rounds."""
    seen = 0

    def counted() -> Any:
        nonlocal seen
        seen += 1
        return (trust or side.store.current)()

    announcer = Announcer(side.files, side.keys, side.rotations, side.exchange, counted, side.clock)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(announcer.run())
        await eventually(lambda: seen > rounds, "some rounds")
        running.cancel()


async def test_the_former_private_key_goes_when_all_know_and_the_overlap_is_over(two: Two) -> None:
    two.hub.rotate()
    two.clock.now_s += 10
    two.disconnect()
    two.clock.now_s += 2 * OVERLAP_S
    await _rounds(two.hub)
    assert two.hub.files.former.exists()
    two.clock.now_s -= 2 * OVERLAP_S
    two.connect()
    await announce(two.hub, acknowledged(two.hub))
    await _rounds(two.hub)
    assert two.hub.files.former.exists()
    two.clock.now_s += OVERLAP_S
    await announce(two.hub, lambda: not two.hub.files.former.exists())


async def test_without_a_rotation_nothing_is_said_and_an_unreadable_store_ends_nothing(two: Two) -> None:
    await _rounds(two.hub)

    def unreadable() -> Any:
        raise Unavailable("the disk is away")

    await _rounds(two.hub, unreadable)
    assert two.hub.delivered == []


# --- what is no rotation ------------------------------------------------------------------------------------


def rotation_of(two: Two, **changes: Any) -> bytes:
    """A ROTATE of the hub to the key 7, changed as asked."""
    signer = changes.pop("signer", two.hub.first)
    key, epoch = changes.pop("key", key_of(7)), changes.pop("epoch", 1)
    fields = {**rotate_fields(signer.kid, key, epoch, SPOKE), **changes}
    return seal(signer, EnvelopeType.ROTATE, two.hub.exchange.claims(SPOKE), fields)


def refused(two: Two, raw: bytes) -> str:
    with pytest.raises(EnvelopeNotTaken) as refusal:
        two.spoke.take(raw)
    return refusal.value.code


def result_of(two: Two, raw: bytes) -> dict[str, Any]:
    payload = two.hub.inbox.admit_reply(
        two.spoke.take(raw), sent_to=SPOKE, re=_jti(raw), count=1, now_s=two.clock.now_s
    )
    return payload.results[0].model_dump(exclude_none=True)


def _jti(raw: bytes) -> str:
    jti: str = json.loads(jose.parse_compact(raw).payload)["jti"]
    return jti


@pytest.mark.attack(32)
def test_no_rotation_without_proof_and_no_older_epoch(two: Two) -> None:
    assert refused(two, rotation_of(two, proof="A" * 86)) == "bad_signature"
    assert refused(two, rotation_of(two, next={"kty": "OKP"})) == "malformed"
    assert two.spoke.peer(two.hub).keys[0].key == two.hub.first.public
    assert result_of(two, rotation_of(two, epoch=5)) == {"id": key_of(7).kid, "epoch": 5}
    older = result_of(two, rotation_of(two, signer=key_of(7), key=key_of(8), epoch=5))
    assert older["error"]["code"] == "stale"
    assert older["id"] == key_of(8).kid
    stolen = result_of(two, rotation_of(two, key=key_of(9), epoch=6))
    assert stolen["error"]["code"] == "not_allowed"
    assert two.spoke.peer(two.hub).current_key == key_of(7).public


@pytest.mark.attack(32)
def test_a_rotation_by_a_stranger_or_for_another(two: Two) -> None:
    assert refused(two, rotation_of(two, signer=key_of(9))) == "bad_signature"
    elsewhere = rotate_fields(two.hub.first.kid, key_of(7), 1, "build-2")
    assert refused(two, rotation_of(two, **elsewhere)) == "bad_signature"
    assert two.spoke.peer(two.hub).epoch == 0


def test_only_a_rotation_is_taken_as_one(two: Two) -> None:
    command = seal(two.hub.first, EnvelopeType.COMMAND, two.hub.exchange.claims(SPOKE), {}, _status(two))
    admitted = two.spoke.inbox.admit(command, NOW_S)
    with pytest.raises(TypeError):
        two.spoke.intake.check(admitted)
    assert not isinstance(admitted.envelope.body, RotateBody)


def test_a_bad_rotation_is_found_before_anything_is_noted_of_it(two: Two) -> None:
    admitted = two.spoke.inbox.admit(rotation_of(two, proof="A" * 86), NOW_S)
    with pytest.raises(EnvelopeRejected):
        two.spoke.intake.check(admitted)


def test_a_join_is_answered_under_the_key_that_the_identity_showed(two: Two) -> None:
    two.hub.rotate()
    exchange, re = two.hub.exchange, two.clock.new_id()
    answers = (exchange.reply(SPOKE, re, []), exchange.reply_to_join(SPOKE, re, []))
    assert [jose.parse_compact(raw).kid for raw in answers] == [two.hub.first.kid, two.hub.keys.current.kid]
