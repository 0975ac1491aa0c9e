"""The rows of the attack table that end in the payload, under a signature that is right.

As in `test_codec`, every case is good but for the one thing its name says, and `verify` must not return.
"""

from __future__ import annotations

import json
import time

import pytest

from common.envelope import verify
from common.errors import EnvelopeRejected
from tests.envelopes import NOW_S, claims, command, id_of, sign, spawn, spoke_trust

RING = spoke_trust().keyring


def rejected(raw: bytes, code: str = "malformed") -> None:
    with pytest.raises(EnvelopeRejected) as refused:
        verify(raw, RING, NOW_S)
    assert refused.value.code == code
    assert len(refused.value.message) < 200


def doubled(payload: str, member: str, other: str) -> bytes:
    """Writes `member` (as it stands in the JSON) twice, first as `other`."""
    assert payload.count(member) == 1
    return payload.replace(member, f"{other}, {member}").encode()


TEXT = json.dumps(command())
DOUBLED = {
    "aud": doubled(TEXT, '"aud": "build-1"', '"aud": "build-2"'),
    "jti": doubled(TEXT, f'"jti": "{id_of(1)}"', f'"jti": "{id_of(9)}"'),
    "the same aud": doubled(TEXT, '"aud": "build-1"', '"aud": "build-1"'),
    "aud by an escape": doubled(TEXT, '"aud": "build-1"', '"\\u0061ud": "build-2"'),
    "id": doubled(TEXT, f'"id": "{id_of(2)}"', f'"id": "{id_of(9)}"'),
    "command": doubled(TEXT, '"command": "spawn"', '"command": "thaw"'),
    "branch": doubled(TEXT, '"branch": "main"', '"branch": "other"'),
    "commands": doubled(TEXT, '"commands": [', '"commands": []').replace(b", [", b", ", 1),
}


@pytest.mark.attack(13)
@pytest.mark.attack(14)
@pytest.mark.parametrize("payload", DOUBLED.values(), ids=DOUBLED)
def test_a_member_twice_in_the_payload(payload: bytes) -> None:
    json.loads(payload)
    rejected(sign(payload), "malformed")


GOOD_ID = id_of(2)
RESPELLED = {
    "braces": "{" + GOOD_ID + "}",
    "urn": "urn:uuid:" + GOOD_ID,
    "upper case": GOOD_ID.upper(),
    "UUIDv4": GOOD_ID.replace("-7", "-4"),
    "no hyphens": GOOD_ID.replace("-", ""),
    "newline": GOOD_ID + "\n",
    "space": " " + GOOD_ID,
}


@pytest.mark.attack(20)
@pytest.mark.parametrize("text", RESPELLED.values(), ids=RESPELLED)
def test_id_respelling(text: str) -> None:
    rejected(sign(command(spawn(id=text))), "malformed")
    rejected(sign(command(jti=text)), "malformed")
    rejected(sign(command({"id": GOOD_ID, "command": "status", "agentId": text})), "malformed")


BOMBS = {
    "100,000 arrays": b"[" * 100_000,
    "100,000 arrays, closed": b"[" * 100_000 + b"]" * 100_000,
    "100,000 objects": b'{"a":' * 100_000,
    "33 deep in a member": json.dumps(command())[:-1].encode() + b', "x": ' + b"[" * 32 + b"]" * 32 + b"}",
    "wide and deep": b"[" + b",".join([b"[" * 40 + b"]" * 40] * 1000) + b"]",
}


@pytest.mark.attack(45)
@pytest.mark.parametrize("payload", BOMBS.values(), ids=BOMBS)
def test_nesting(payload: bytes) -> None:
    rejected(sign(payload), "malformed")
    rejected(sign(command(), head=payload), "malformed")


LONG_NUMBERS = ["1" * 5000, "1" * 500_000, "-" + "9" * 400, "1e999", "9223372036854775808"]
NUMBERS = [*LONG_NUMBERS, "5.0", "5e0", '"5"', "true", "NaN", "Infinity", "05", "+5", "null", "[]"]


@pytest.mark.attack(46)
@pytest.mark.parametrize("member", ["v", "iat", "exp", "priority", "timeoutS", "maxAttempts"])
@pytest.mark.parametrize("number", NUMBERS, ids=lambda text: text[:20])
def test_numbers(member: str, number: str) -> None:
    whole = command()
    holder = whole if member in whole else whole["commands"][0]
    holder[member] = "HERE"
    started = time.process_time()
    rejected(sign(json.dumps(whole).replace('"HERE"', number).encode()), "malformed")
    assert time.process_time() - started < 2


ENCODINGS = {
    "BOM": b"\xef\xbb\xbf" + TEXT.encode(),
    "UTF-16": TEXT.encode("utf-16"),
    "UTF-16 without BOM": TEXT.encode("utf-16-be"),
    "UTF-32": TEXT.encode("utf-32"),
    "Latin-1": TEXT.replace("login", "L\xf6gin").encode("latin-1"),
    "raw surrogate": TEXT.encode().replace(b"login", b"\xed\xa0\x80"),
    "lone high surrogate": TEXT.replace("login", "\\ud800").encode(),
    "lone low surrogate": TEXT.replace("login", "\\udfff").encode(),
    "raw NUL": TEXT.replace("login", "\0").encode(),
    "NUL behind": TEXT.encode() + b"\0",
}


@pytest.mark.attack(47)
@pytest.mark.parametrize("payload", ENCODINGS.values(), ids=ENCODINGS)
def test_encodings(payload: bytes) -> None:
    rejected(sign(payload), "malformed")


ODD_TEXT = {
    "NUL": "a\0b",
    "bidi override": "\u202eabc",
    "bidi isolate": "abc\u2066",
    "Cyrillic homoglyph": "\u0430bc",
    "full-width": "\uff41bc",
    "zero width": "a\u200bc",
    "combining": "abc\u0301",
    "lone surrogate": "a\ud800c",
    "newline": "abc\n",
    "escape": "\x1b[2J",
    "slash and dots": "../../etc",
    "backslash": "..\\etc",
    "slash": "a/b",
    "space": "a b",
}


@pytest.mark.attack(47)
@pytest.mark.attack(55)
@pytest.mark.parametrize("text", ODD_TEXT.values(), ids=ODD_TEXT)
def test_odd_text_in_every_id(text: str) -> None:
    for changes in ({"iss": text}, {"aud": text}, {"jti": text}, {"v": text}):
        rejected(sign(command(**changes)), "malformed")
    for of_command in (
        spawn(id=text),
        spawn(agentType=text),
        spawn(command=text),
        spawn(context={**spawn()["context"], "skills": [text]}),
        {"id": GOOD_ID, "command": "kill", "agentId": text},
    ):
        rejected(sign(command(of_command)), "malformed")
    if "/" not in text:
        rejected(sign(command(spawn(taskId=text))), "malformed")


def test_the_claims_of_the_base_are_what_the_cases_change() -> None:
    assert command().keys() == {*claims(), "commands"}
