from __future__ import annotations

import json
from typing import Any

import pytest

from common.envelope import (
    Claims,
    CommandBody,
    EnvelopeType,
    EventBody,
    HelloBody,
    IdentityBody,
    JoinBody,
    ReplyBody,
    RotateBody,
    VerifiedEnvelope,
    check_window,
    parse_payload,
    verify,
)
from common.errors import EnvelopeRejected
from common.jose import decode_base64url, encode_base64url, parse_compact
from common.keyring import Keyring, OwnedKey
from tests.envelopes import (
    HUB,
    HUB_KEY,
    IDENTITY,
    NOW_S,
    OTHER_KEY,
    SPOKE,
    TRACE,
    agent_status,
    bodies,
    claims,
    command,
    edited,
    id_of,
    sign,
    spawn,
    spoke_trust,
)

RING = spoke_trust().keyring


MODELS: dict[EnvelopeType, type[Any]] = {
    EnvelopeType.COMMAND: CommandBody,
    EnvelopeType.REPLY: ReplyBody,
    EnvelopeType.EVENT: EventBody,
    EnvelopeType.HELLO: HelloBody,
    EnvelopeType.IDENTITY: IdentityBody,
    EnvelopeType.JOIN: JoinBody,
    EnvelopeType.ROTATE: RotateBody,
}


def refusal_of(raw: bytes, now_s: float = NOW_S) -> EnvelopeRejected:
    with pytest.raises(EnvelopeRejected) as refused:
        verify(raw, RING, now_s)
    return refused.value


def test_a_good_command_is_verified_with_everything_it_says() -> None:
    raw = sign(command())
    envelope = verify(raw, RING, NOW_S)
    assert envelope.raw == raw
    assert (envelope.typ, envelope.kid) == (EnvelopeType.COMMAND, HUB_KEY.kid)
    assert envelope.claims.model_dump(exclude_none=True) == claims()
    assert [parsed.model_dump(by_alias=True) for parsed in envelope.commands] == [spawn()]


@pytest.mark.parametrize("typ", EnvelopeType)
def test_every_type_has_its_body(typ: EnvelopeType) -> None:
    envelope = verify(sign({**claims(), **bodies()[typ]}, typ=typ), RING, NOW_S)
    assert type(envelope.body) is MODELS[typ]
    assert len(envelope.commands) == (typ is EnvelopeType.COMMAND)


@pytest.mark.parametrize("typ", EnvelopeType)
@pytest.mark.parametrize("other", EnvelopeType)
@pytest.mark.attack(29)
def test_a_body_is_never_read_as_that_of_another_type(typ: EnvelopeType, other: EnvelopeType) -> None:
    raw = sign({**claims(), **bodies()[other]}, typ=typ)
    if typ is other:
        verify(raw, RING, NOW_S)
    elif (typ, other) == (EnvelopeType.JOIN, EnvelopeType.IDENTITY):
        # A JOIN without an invite looks like an IDENTITY; the header says which it is.
        assert isinstance(verify(raw, RING, NOW_S).body, JoinBody)
    else:
        assert refusal_of(raw).code == "malformed"


def test_nothing_but_verify_makes_a_verified_envelope() -> None:
    raw = sign(command())
    jws = parse_compact(raw)
    of_claims, body = parse_payload(EnvelopeType.COMMAND, jws.payload)
    with pytest.raises(TypeError):
        VerifiedEnvelope(object(), raw, jws, EnvelopeType.COMMAND, of_claims, body)


def test_the_signature_is_checked_before_the_payload_is_read() -> None:
    assert refusal_of(sign(b"\xff[[[", key=OTHER_KEY)).code == "bad_signature"
    assert refusal_of(sign(b"\xff[[[")).code == "malformed"


@pytest.mark.attack(27)
def test_the_issuer_owns_the_key() -> None:
    ring = Keyring([OwnedKey(HUB, HUB_KEY.public), OwnedKey("hub-b", OTHER_KEY.public)])
    with pytest.raises(EnvelopeRejected) as refused:
        verify(sign(command(iss="hub-b")), ring, NOW_S)
    assert refused.value.code == "bad_signature"


# --- claims ----------------------------------------------------------------------------------------------

WRONG_CLAIMS: dict[str, list[Any]] = {
    "v": [0, 2, True, 1.0, "1", None, [1]],
    "iss": ["", "Hub-eu", "hub-eu\n", "hub-eu\0", "hub-eu.", "-hub", "h" * 64, "hub-\u0435u", "\u202ehub-eu", "a/b",
            "..", [HUB], 5, None],
    "aud": ["", "build-1\n", "build-1\0", "build-\u0661", "\u202ebuild-1", "a/b", "b" * 256, [SPOKE], {"a": 1}, 5,
            None, True],
    "jti": ["", id_of(1).upper(), id_of(1) + "\n", "{" + id_of(1) + "}", "urn:uuid:" + id_of(1),
            id_of(1).replace("-7", "-4"), 5, None],
    "iat": [str(NOW_S), float(NOW_S), True, None, [NOW_S]],
    "exp": [str(NOW_S + 60), float(NOW_S + 60), True, None],
    "traceparent": ["", TRACE + "\n", TRACE.upper(), TRACE[1:], None, 5],
}  # fmt: skip


@pytest.mark.attack(46)
@pytest.mark.attack(47)
@pytest.mark.parametrize(
    ("claim", "value"), [(claim, value) for claim, values in WRONG_CLAIMS.items() for value in values], ids=repr
)
def test_a_claim_that_breaks_its_rule_is_malformed(claim: str, value: Any) -> None:
    refused = refusal_of(sign(command(**{claim: value})))
    assert refused.code == "malformed"
    assert len(refused.message) < 200


def test_traceparent_may_be_given() -> None:
    assert verify(sign(command(traceparent=TRACE)), RING, NOW_S).claims.traceparent == TRACE


@pytest.mark.parametrize("payload", [b"", b"[]", b'"x"', b"5", b"null", b"{"], ids=repr)
def test_a_payload_is_an_object(payload: bytes) -> None:
    assert refusal_of(sign(payload)).code == "malformed"


LIFETIMES = {
    "one second": (1, None),
    "300 s": (300, None),
    "301 s": (301, "malformed"),
    "none": (0, "malformed"),
    "negative": (-1, "malformed"),
    "ten years": (315_360_000, "malformed"),
    "as long as integers go": (2**53 - 1 - NOW_S, "malformed"),
}


@pytest.mark.attack(30)
@pytest.mark.parametrize(("lifetime_s", "code"), LIFETIMES.values(), ids=LIFETIMES)
def test_an_envelope_lives_1_to_300_seconds(lifetime_s: int, code: str | None) -> None:
    raw = sign(command(exp=NOW_S + lifetime_s))
    if code is None:
        verify(raw, RING, NOW_S)
    else:
        assert refusal_of(raw).code == code


WINDOW = {
    "now": (0, None),
    "iat as far ahead as the skew": (60, None),
    "iat one second further": (61, "not_yet_valid"),
    "iat a fraction further": (60.001, "not_yet_valid"),
    "in its last second": (-119.999, None),
    "exp as far behind as the skew": (-120, "expired"),
    "long ago": (-10_000, "expired"),
}


@pytest.mark.attack(30)
@pytest.mark.parametrize(("ahead_s", "code"), WINDOW.values(), ids=WINDOW)
def test_the_window_with_60_s_of_skew(ahead_s: float, code: str | None) -> None:
    checked = Claims(**claims())
    now_s = NOW_S - ahead_s
    if code is None:
        return check_window(checked, now_s, 60)
    with pytest.raises(EnvelopeRejected) as refused:
        check_window(checked, now_s, 60)
    assert refused.value.code == code
    assert refused.value.extra == {"now": int(now_s)}
    return None


@pytest.mark.parametrize("typ", EnvelopeType)
def test_an_unknown_claim_is_malformed(typ: EnvelopeType) -> None:
    assert refusal_of(sign({**claims(), **bodies()[typ], "x": 1}, typ=typ)).code == "malformed"


@pytest.mark.parametrize(("typ", "path"), [
    (EnvelopeType.REPLY, ("results", 0, "agent")),
    (EnvelopeType.EVENT, ("events", 0, "agent")),
    (EnvelopeType.HELLO, ("capacity",)),
    (EnvelopeType.HELLO, ("labels",)),
])  # fmt: skip
def test_unknown_members_are_ignored_where_the_protocol_says_so(typ: EnvelopeType, path: tuple[Any, ...]) -> None:
    body = edited(bodies()[typ], (*path, "new"), {"any": ["thing"]})
    verify(sign({**claims(), **body}, typ=typ), RING, NOW_S)


def test_the_names_of_python_are_no_members_of_a_status() -> None:
    status = {("task_id" if name == "taskId" else name): value for name, value in agent_status().items()}
    assert refusal_of(sign({**claims(), "events": [{"agent": status}]}, typ="event+jwt")).code == "malformed"
    both = agent_status(task_id="other")
    verified = verify(sign({**claims(), "events": [{"agent": both}]}, typ="event+jwt"), RING, NOW_S)
    assert isinstance(verified.body, EventBody)
    assert verified.body.events[0].agent.task_id == "T-42"


BOUNDS: list[tuple[EnvelopeType, str, Any, bool]] = [
    (EnvelopeType.EVENT, "events", [], False),
    (EnvelopeType.EVENT, "events", [{"agent": agent_status()}] * 1001, False),
    (EnvelopeType.REPLY, "results", [], True),
    (EnvelopeType.REPLY, "results", [{"id": "x"}] * 1000, True),
    (EnvelopeType.REPLY, "results", [{"id": "x"}] * 1001, False),
    (EnvelopeType.REPLY, "re", "x", False),
    (EnvelopeType.HELLO, "nonce", "A" * 42, False),
    (EnvelopeType.HELLO, "nonce", "A" * 42 + "\n", False),
    (EnvelopeType.ROTATE, "epoch", 0, False),
    (EnvelopeType.ROTATE, "epoch", True, False),
    (EnvelopeType.ROTATE, "proof", "A" * 129, False),
    (EnvelopeType.IDENTITY, "identity", {**IDENTITY, "keys": []}, False),
    (EnvelopeType.IDENTITY, "identity", {**IDENTITY, "keys": [{}] * 9}, False),
    (EnvelopeType.IDENTITY, "identity", {**IDENTITY, "protocols": []}, False),
    (EnvelopeType.IDENTITY, "identity", {**IDENTITY, "protocols": [True]}, False),
    (EnvelopeType.IDENTITY, "identity", {**IDENTITY, "kind": "Hub"}, False),
    (EnvelopeType.IDENTITY, "identity", {**IDENTITY, "url": "h" * 2049}, False),
    (EnvelopeType.JOIN, "mac", "A" * 44, False),
]


@pytest.mark.parametrize(
    ("typ", "member", "value", "good"),
    BOUNDS,
    ids=[f"{typ.value} {member} {number}" for number, (typ, member, *_) in enumerate(BOUNDS)],
)
def test_bounds_of_the_other_bodies(typ: EnvelopeType, member: str, value: Any, good: bool) -> None:
    raw = sign({**claims(), **bodies()[typ], member: value}, typ=typ)
    if good:
        verify(raw, RING, NOW_S)
    else:
        assert refusal_of(raw).code == "malformed"


RESULTS: dict[str, dict[str, Any]] = {
    "agent": {"agent": agent_status()},
    "error": {"error": {"code": "not_found", "detail": "no such agent", "retryable": False}},
    "log": {"log": {"offset": 0, "data": "x", "nextOffset": 1, "eof": True}},
    "diff": {"diff": {"offset": 0, "data": "", "nextOffset": 0, "eof": False}},
    "frozen": {"connection": {"frozen": True, "killed": 2}},
    "joined": {"connection": "active"},
    "seq": {"seq": 4},
    "epoch": {"epoch": 2},
}


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
def test_the_results_of_the_protocol_are_read(result: dict[str, Any]) -> None:
    payload = {**claims(), "re": id_of(1), "results": [{"id": "x", **result}]}
    body = verify(sign(payload, typ="reply+jwt"), RING, NOW_S).body
    assert isinstance(body, ReplyBody)
    assert (
        body.results[0].model_dump(by_alias=True, exclude_none=True).items()
        >= ({"id": "x"} if "agent" in result else {"id": "x", **result}).items()
    )


@pytest.mark.attack(56)
def test_no_message_repeats_what_was_sent() -> None:
    hostile = "x\n\x1b[2J\u202e" * 1000
    for payload in (
        command(**{hostile: 1}),
        command(iss=hostile),
        command({hostile: 1}),
        command({"command": hostile}),
    ):
        refused = refusal_of(sign(payload))
        assert refused.message.isascii()
        assert refused.message.isprintable()
        assert len(refused.message) < 200


@pytest.mark.parametrize("lead", [b"", b"\n", b" "])
def test_the_raw_bytes_are_kept_as_they_came(lead: bytes) -> None:
    raw = sign(lead + json.dumps(command(), indent=1).encode())
    envelope = verify(raw, RING, NOW_S)
    assert envelope.raw is raw
    assert decode_base64url(raw.split(b".")[1]).startswith(lead + b"{")
    assert encode_base64url(decode_base64url(raw.split(b".")[1])) in raw
