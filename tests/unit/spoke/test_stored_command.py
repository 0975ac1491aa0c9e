"""The stored envelope is proved again before anything is started: every way to change it or the record beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from common.commands import Resume, Spawn, content_hash, parse_commands, resume_hash
from common.envelope import EnvelopeType
from common.keyring import Keyring, OwnedKey
from common.peers import LOCAL_TENANT, Peer, Trust
from spoke.agent_record import AgentRecord, TamperedRecord
from spoke.policy import LOCAL_POLICY
from spoke.stored_command import StoredCommands
from tests.envelopes import (
    HUB,
    HUB_KEY,
    NOW_S,
    OTHER_KEY,
    SPOKE,
    SPOKE_KEY,
    command,
    hub_peer,
    id_of,
    key_of,
    sign,
    spawn,
)

pytestmark = pytest.mark.attack(61)
OTHER_HUB = "hub-us"
TENANT = hub_peer().tenant
FIRST, SECOND = spawn(id=id_of(2)), spawn(id=id_of(3), taskId="T-43")
STATUS = {"id": id_of(4), "command": "status", "agentId": id_of(2)}
RAW = sign(command(FIRST, SECOND, STATUS))


def other_peer(**changes: Any) -> Peer:
    keys = (OwnedKey(OTHER_HUB, OTHER_KEY.public),)
    return Peer(**{"instance": OTHER_HUB, "kind": "hub", "state": "active", "connection": 2, "keys": keys, **changes})


def stored(*peers: Peer) -> StoredCommands:
    own = Keyring([OwnedKey(SPOKE, SPOKE_KEY.public)])
    trust = Trust(peers or (hub_peer(), other_peer()))
    return StoredCommands(SPOKE, lambda: own, lambda: trust, lambda _: LOCAL_POLICY)


def hash_of(members: dict[str, Any]) -> str:
    (parsed,) = parse_commands([members])
    assert isinstance(parsed, Spawn)
    return content_hash(parsed)


def record(members: Any = FIRST, **changes: str | None) -> AgentRecord:
    fields = {
        "id": members["id"], "tenant": TENANT, "queued_at": str(NOW_S * 1000), "index": "0", "hash": hash_of(members),
        "timeout": str(members["timeoutS"]), **changes,
    }  # fmt: skip
    return AgentRecord({name: value for name, value in fields.items() if value is not None})


def refused(kept: AgentRecord, raw: bytes, commands: StoredCommands | None = None) -> None:
    with pytest.raises(TamperedRecord) as tampered:
        (commands or stored()).prove(kept, raw)
    assert tampered.value.code == "tampered"


@pytest.mark.parametrize(("members", "index"), [(FIRST, "0"), (SECOND, "1")])
def test_what_lies_as_it_was_accepted_is_proved(members: dict[str, Any], index: str) -> None:
    found = stored().prove(record(members, index=index), RAW)
    assert (found.id, found.task_id) == (members["id"], members["taskId"])


CHANGES: list[dict[str, str | None]] = [
    {"id": id_of(3)},
    {"tenant": other_peer().tenant},
    {"tenant": f"{HUB}_99"},
    {"tenant": LOCAL_TENANT},
    {"tenant": ""},
    {"index": "1"},
    {"index": "2"},
    {"index": "9"},
    {"index": "x"},
    {"index": None},
    {"hash": hash_of(SECOND)},
    {"hash": ""},
    {"hash": None},
    {"queued_at": str((NOW_S + 86_400) * 1000)},
    {"queued_at": str((NOW_S - 86_400) * 1000)},
    {"queued_at": "now"},
    {"queued_at": None},
    {"timeout": "x"},
    {"timeout": None},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_a_changed_record_starts_nothing(changes: dict[str, str | None]) -> None:
    refused(record(**changes), RAW)


def signed(*commands: dict[str, Any], **changes: Any) -> Callable[[], bytes]:
    key = changes.pop("key", HUB_KEY)
    typ = changes.pop("typ", "command+jwt")
    return lambda: sign(command(*commands, **changes), key=key, typ=typ)


RAWS: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "garbage": lambda: b"\x00" * 100,
    "one byte changed": lambda: RAW[:-5] + (b"A" if RAW[-5:-4] != b"A" else b"B") + RAW[-4:],
    "cut": lambda: RAW[:-1],
    "two in one": lambda: RAW + b"." + RAW,
    "other content, same id, same peer": signed(spawn(id=id_of(2), taskId="other")),
    "other agent of the same peer": signed(spawn(id=id_of(9))),
    "same spawn by another peer": signed(FIRST, key=OTHER_KEY, iss=OTHER_HUB),
    "same spawn, other peer's key": signed(FIRST, key=OTHER_KEY),
    "same spawn, our own key": signed(FIRST, key=SPOKE_KEY, iss=SPOKE),
    "same spawn, our own key, peer's name": signed(FIRST, key=SPOKE_KEY),
    "same spawn, a stranger's key": signed(FIRST, key=key_of(99)),
    "for another spoke": signed(FIRST, aud="build-2"),
    "of another time": signed(FIRST, iat=NOW_S - 86_400, exp=NOW_S - 86_340),
    "of the far future": signed(FIRST, iat=NOW_S + 86_400, exp=NOW_S + 86_460),
    "a status in its place": signed({"id": id_of(2), "command": "status", "agentId": id_of(2)}),
    "of another type": lambda: sign(
        {**command(FIRST), "events": []}, typ=EnvelopeType.EVENT
    ),
}  # fmt: skip


@pytest.mark.parametrize("raw", RAWS.values(), ids=RAWS)
def test_a_changed_envelope_starts_nothing(raw: Callable[[], bytes]) -> None:
    refused(record(), raw())


@pytest.mark.parametrize(
    "peers",
    [
        (other_peer(),),
        (hub_peer(state="revoked"),),
        (hub_peer(connection=7),),
        (hub_peer(keys=(OwnedKey(HUB, key_of(77).public),)),),
    ],
    ids=["forgotten", "revoked", "joined again", "another key"],
)
def test_what_a_peer_signed_that_is_none_any_more_starts_nothing(peers: tuple[Peer, ...]) -> None:
    refused(record(), RAW, stored(*peers))


def test_a_key_that_retired_since_still_proves_what_it_signed_before() -> None:
    old = OwnedKey(HUB, HUB_KEY.public, NOW_S + 10)
    peer = hub_peer(keys=(OwnedKey(HUB, key_of(77).public), old))
    assert stored(peer).prove(record(), RAW).id == id_of(2)


LOCAL_RAW = sign(command(FIRST, iss=SPOKE), key=SPOKE_KEY)


def test_the_operators_own_command_is_proved_with_our_own_key() -> None:
    assert stored().prove(record(tenant=LOCAL_TENANT), LOCAL_RAW).id == id_of(2)


@pytest.mark.parametrize("raw", [RAW, sign(command(FIRST, iss=SPOKE), key=OTHER_KEY)], ids=["a peer's", "forged"])
def test_only_our_own_key_makes_a_command_the_operators(raw: bytes) -> None:
    refused(record(tenant=LOCAL_TENANT), raw)


def test_a_longer_time_than_was_asked_for_is_not_given() -> None:
    assert stored().prove(record(timeout="999999"), RAW).timeout_s == FIRST["timeoutS"]
    assert stored().prove(record(timeout="7"), RAW).timeout_s == 7


# --- the resume of an agent

RESUME = {"id": id_of(6), "command": "resume", "agentId": id_of(2), "text": "go on"}
RESUME_RAW = sign(command(STATUS, RESUME))
LATER_S = NOW_S + 30


def resumed(**changes: str | None) -> AgentRecord:
    (parsed,) = parse_commands([RESUME])
    assert isinstance(parsed, Resume)
    fields: dict[str, str | None] = {
        "resume_env": id_of(5), "resume_index": "1", "resumed_at": str(LATER_S * 1000),
        f"resume:{id_of(6)}": resume_hash(parsed),
    }  # fmt: skip
    return record(**{**fields, **changes})


def test_the_last_resume_is_proved_beside_the_spawn() -> None:
    proved = stored().prove_resume(resumed(), RESUME_RAW)
    assert proved is not None
    found, claims = proved
    assert claims.iss == "hub-eu"
    assert (found.id, found.agent_id, found.text) == (id_of(6), id_of(2), "go on")
    assert stored().prove_resume(record(), b"") is None


RESUMES: dict[str, tuple[dict[str, str | None], Callable[[], bytes]]] = {
    "no envelope": ({}, lambda: b""),
    "another place in it": ({"resume_index": "0"}, lambda: RESUME_RAW),
    "no place": ({"resume_index": None}, lambda: RESUME_RAW),
    "beyond its end": ({"resume_index": "7"}, lambda: RESUME_RAW),
    "another time": ({"resumed_at": str((NOW_S + 86_400) * 1000)}, lambda: RESUME_RAW),
    "no time": ({"resumed_at": None}, lambda: RESUME_RAW),
    "another text": ({}, signed(STATUS, {**RESUME, "text": "other"})),
    "another id": ({}, signed(STATUS, {**RESUME, "id": id_of(7)})),
    "another agent's": ({}, signed(STATUS, {**RESUME, "agentId": id_of(3)})),
    "for another spoke": ({}, signed(STATUS, RESUME, aud="build-2")),
    "another peer's": ({}, signed(STATUS, RESUME, key=OTHER_KEY, iss=OTHER_HUB)),
    "ours": ({}, signed(STATUS, RESUME, key=SPOKE_KEY, iss=SPOKE)),
    "another agent": ({"id": id_of(3)}, lambda: RESUME_RAW),
    "another tenant": ({"tenant": other_peer().tenant}, lambda: RESUME_RAW),
}


@pytest.mark.parametrize(("changes", "raw"), RESUMES.values(), ids=RESUMES)
def test_a_resume_that_is_not_as_its_owner_signed_it_starts_nothing(
    changes: dict[str, str | None], raw: Callable[[], bytes]
) -> None:
    with pytest.raises(TamperedRecord):
        stored().prove_resume(resumed(**changes), raw())
