"""What is read in our own form is what the strict reading reads, and nothing is read so that it would refuse."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common import envelope, strict_json
from common.agent_state import AgentStatus
from common.envelope import EnvelopeType, ReplyBody, parse_payload
from common.errors import Malformed
from common.strict_json import MAX_INTEGER

ID: Final = "0199f0a2-7c3e-7a51-9d1b-0123456789ab"
CLAIMS: Final = {"v": 1, "iss": "build-1", "aud": "hub-eu", "jti": ID, "iat": 1795000000, "exp": 1795000060}
AGENT: Final[dict[str, Any]] = {
    "agentId": ID,
    "taskId": "T-1",
    "agentType": "worker",
    "status": "queued",
    "seq": 1,
    "attempt": 0,
    "queuedAt": "2026-11-22T08:00:00.000Z",
    "startedAt": None,
    "finishedAt": None,
    "reason": None,
    "exitCode": None,
    "signal": None,
    "result": None,
    "granted": {"priority": 5, "timeoutS": 3600, "maxAttempts": 3},
    "queue": {"position": 1, "waitingFor": "slot"},
    "receipt": {"signals": [{"signal": "SIGTERM", "at": "2026-11-22T08:00:00.000Z"}], "survivors": 0},
}
RESULTS: Final[list[dict[str, Any]]] = [
    {"id": ID, "agent": AGENT},
    {
        "id": ID,
        "error": {"code": "frozen", "detail": 'thaw it: ä \U0001f600 "\\\n\u0007\u007f\u2028', "retryable": True},
    },
    {"id": ID, "log": {"offset": 0, "data": "x", "nextOffset": 1, "eof": False}},
    {"id": ID, "seq": 3},
]
REPLY: Final = {**CLAIMS, "re": ID, "results": RESULTS}
EVENT: Final = {**CLAIMS, "events": [{"agent": AGENT}]}
PAYLOADS: Final = (
    (EnvelopeType.REPLY, strict_json.encode(REPLY)),
    (EnvelopeType.EVENT, strict_json.encode(EVENT)),
    (EnvelopeType.REPLY, strict_json.encode({**REPLY, "results": RESULTS[:1]})),
)


def quickly(typ: EnvelopeType, payload: bytes) -> Any:
    return envelope._read_quickly(typ, payload)


def told(read: Any) -> Any:
    """Return what was read, as values that can be compared; of a whole payload each half."""
    claims, body = read
    of_claims = {name: getattr(claims, name) for name in envelope.Claims.model_fields}
    return of_claims, {name: getattr(body, name) for name in envelope._BODIES[TYPES[type(body).__name__]].model_fields}


TYPES: Final = {
    "_Reply": EnvelopeType.REPLY,
    "ReplyBody": EnvelopeType.REPLY,
    "_Events": EnvelopeType.EVENT,
    "EventBody": EnvelopeType.EVENT,
}


def agrees(typ: EnvelopeType, payload: bytes) -> bool:
    """Whether it was read quickly; the strict reading must then say the same."""
    found = quickly(typ, payload)
    if found is None:
        return False
    assert told(envelope._read_strictly(typ, payload)) == told(found), payload
    return True


@pytest.mark.parametrize(("typ", "payload"), PAYLOADS, ids=["reply", "event", "one result"])
def test_what_we_write_is_read_quickly_and_says_the_same(typ: EnvelopeType, payload: bytes) -> None:
    assert agrees(typ, payload)
    assert isinstance(parse_payload(EnvelopeType.REPLY, PAYLOADS[0][1])[1], ReplyBody)


def test_what_may_hold_anything_is_read_strictly() -> None:
    for free in ({"agent": {**AGENT, "result": {"data": {"deep": 1}}}}, {"connection": {"frozen": True, "killed": 1}}):
        payload = strict_json.encode({**REPLY, "results": [{"id": ID, **free}]})
        assert quickly(EnvelopeType.REPLY, payload) is None
        parse_payload(EnvelopeType.REPLY, payload)
        too_great = payload.replace(b":1}", b":%d}" % (MAX_INTEGER + 1))
        with pytest.raises(Malformed, match="integer"):
            parse_payload(EnvelopeType.REPLY, too_great)


ODD: Final = {
    "a member twice": (b'"seq":1', b'"seq":1,"seq":1'),
    "a member twice, the second wins": (b'"status":"queued"', b'"status":"running","status":"queued"'),
    "a claim twice": (b'"v":1', b'"v":1,"v":1'),
    "an escaped name": (b'"status"', b'"st\\u0061tus"'),
    "an escaped text": (b'"queued"', b'"que\\u0075ed"'),
    "white space": (b'"seq":1', b'"seq": 1'),
    "another order": (b'"seq":1,"attempt":0', b'"attempt":0,"seq":1'),
    "a float": (b'"seq":1', b'"seq":1.0'),
    "an exponent": (b'"seq":1', b'"seq":1e0'),
    "a boolean": (b'"seq":1', b'"seq":true'),
    "a text for a number": (b'"seq":1', b'"seq":"1"'),
    "minus nothing": (b'"attempt":0', b'"attempt":-0'),
    "too great a number": (b'"attempt":0', b'"attempt":%d' % (MAX_INTEGER + 1)),
    "a very long number": (b'"attempt":0', b'"attempt":' + b"9" * 400),
    "too great where anything goes": (b'"exitCode":null', b'"exitCode":%d' % (MAX_INTEGER + 1)),
    "not a number": (b'"exitCode":null', b'"exitCode":NaN'),
    "an unknown member": (b'"seq":1', b'"seq":1,"mood":"good"'),
    "an unknown one, deep": (b'"seq":1', b'"seq":1,"x":' + b"[" * 40 + b"]" * 40),
    "an unknown one with a member twice": (b'"seq":1', b'"seq":1,"x":{"a":1,"a":2}'),
    "an unknown claim": (b'"v":1', b'"v":1,"w":1'),
    "our own name of a member": (b'"agentId"', b'"agent_id"'),
    "a lone surrogate": (b'"T-1"', b'"\\ud800"'),
    "no UTF-8": (b"2026-11-22", b"\xff026-11-22"),
    "an overlong form": (b"2026-11-22", b"\xc0\xb2026-11-22"),
    "a mark of the byte order": (b'{"v":1', b'\xef\xbb\xbf{"v":1'),
    "something behind": (b"]}", b"]} "),
    "a window without an end": (b'"exp":1795000060', b'"exp":1795099999'),
}


@pytest.mark.attack(13)
@pytest.mark.attack(14)
@pytest.mark.attack(45)
@pytest.mark.attack(46)
@pytest.mark.attack(47)
@pytest.mark.parametrize(("before", "after"), ODD.values(), ids=ODD)
def test_what_is_written_otherwise_is_for_the_strict_reading(before: bytes, after: bytes) -> None:
    payload = PAYLOADS[1][1]
    assert before in payload
    odd = payload.replace(before, after) if before != b"]}" else payload[:-2] + after
    try:
        strictly = told(envelope._read_strictly(EnvelopeType.EVENT, odd))
    except Malformed:
        assert quickly(EnvelopeType.EVENT, odd) is None
        with pytest.raises(Malformed):
            parse_payload(EnvelopeType.EVENT, odd)
        return
    found = quickly(EnvelopeType.EVENT, odd)
    assert found is None or told(found) == strictly
    if b"1795099999" in odd:
        with pytest.raises(Malformed, match="exp must lie"):
            parse_payload(EnvelopeType.EVENT, odd)


PIECES: Final = st.sampled_from(
    [
        *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b" ", b"\n", b"0", b"1", b"9", b"-", b".", b"e", b"a"),
        *(b"null", b"true", b"NaN", b'"seq":2,', b'"result":{},', b'"connection":"x",'),
        *(b"\\u0041", b"\\ud800", b"\xc3\xa4", b"\xff"),
    ]
)


@given(data=st.data(), number=st.integers(0, len(PAYLOADS) - 1), changes=st.integers(1, 4))
def test_whatever_is_changed_both_readings_agree(data: st.DataObject, number: int, changes: int) -> None:
    typ, payload = PAYLOADS[number]
    for _ in range(changes):
        at = data.draw(st.integers(0, len(payload)))
        until = min(len(payload), at + data.draw(st.integers(0, 3)))
        payload = payload[:at] + data.draw(PIECES) + payload[until:]
    agrees(typ, payload)


TEXTS: Final = st.text(st.characters(codec="utf-8"), max_size=20)
NUMBERS: Final = st.integers(-(2**60), 2**60)


@given(detail=TEXTS, code=TEXTS, number=NUMBERS, offset=NUMBERS)
def test_all_texts_and_numbers(detail: str, code: str, number: int, offset: int) -> None:
    results = [
        {"id": ID, "error": {"code": code, "detail": detail, "retryable": False}},
        {"id": detail, "agent": {**AGENT, "exitCode": number, "reason": code}},
        {"id": ID, "log": {"offset": offset, "data": detail, "nextOffset": number, "eof": True}},
    ]
    for payload in (
        strict_json.encode({**REPLY, "results": results}),
        json.dumps({**REPLY, "results": results}, separators=(",", ":")).encode(),
    ):
        is_strict = True
        try:
            envelope._read_strictly(EnvelopeType.REPLY, payload)
        except Malformed:
            is_strict = False
        assert agrees(EnvelopeType.REPLY, payload) <= is_strict


def test_a_status_written_by_us_is_in_the_form() -> None:
    """Or the quick way would never be taken, and nobody would notice."""
    agent = AgentStatus.model_validate(AGENT)
    assert agrees(EnvelopeType.EVENT, strict_json.encode(CLAIMS)[:-1] + b',"events":[{"agent":%s}]}' % agent.to_json())


def _free_members(schema: Any, path: str) -> set[str]:
    """Return where a model's core schema takes anything, or a number without bounds."""
    found: set[str] = set()
    if isinstance(schema, dict):
        kind = schema.get("type")
        if kind in {"any", "dict", "float", "json"} or (kind == "int" and not {"ge", "le"} <= schema.keys()):
            found.add(path)
        for name, inner in schema.items():
            if name == "fields" and isinstance(inner, dict):
                found |= {each for field, of in inner.items() for each in _free_members(of, f"{path}.{field}")}
            elif name not in {"metadata", "ref", "serialization"}:
                found |= _free_members(inner, path)
    elif isinstance(schema, list | tuple):
        found |= {each for inner in schema for each in _free_members(inner, path)}
    return found


def test_what_may_be_anything_is_all_known() -> None:
    """A member that is added must have a type with bounds, or a place among what is read strictly."""
    for model, free in (
        (envelope._Reply, {".results.agent.result", ".results.connection"}),
        (envelope._Events, {".events.agent.result"}),
    ):
        assert _free_members(model.__pydantic_core_schema__, "") == free


def test_one_of_many_mistakes_is_enough() -> None:
    signals: list[dict[str, Any]] = [{} for _ in range(100_000)]
    events = [{"agent": {**AGENT, "receipt": {"signals": signals, "survivors": 0}}}]
    with pytest.raises(Malformed, match=r"events\.0\.agent\.receipt\.signals\.0\.signal: Field required") as raised:
        parse_payload(EnvelopeType.EVENT, strict_json.encode({**EVENT, "events": events}))
    cause = raised.value.__cause__
    assert isinstance(cause, ValidationError)
    assert cause.error_count() <= 2
