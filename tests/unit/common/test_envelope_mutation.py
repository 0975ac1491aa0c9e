from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.envelope import (
    EnvelopeType,
    verify,
)
from common.errors import EnvelopeRejected
from tests.envelopes import (
    NOW_S,
    TRACE,
    bodies,
    claims,
    command,
    edited,
    id_of,
    paths,
    sign,
    spawn,
    spoke_trust,
)

RING = spoke_trust().keyring


def refusal_of(raw: bytes, now_s: float = NOW_S) -> EnvelopeRejected:
    with pytest.raises(EnvelopeRejected) as refused:
        verify(raw, RING, now_s)
    return refused.value


@pytest.mark.attack(14)
def test_every_changed_byte_is_rejected() -> None:
    good = sign(command())
    verify(good, RING, NOW_S)
    for at in range(len(good)):
        for new in {good[at] ^ 1, good[at] ^ 0x20, good[at] ^ 0x80, *b"A.\n"} - {good[at]}:
            refusal_of(good[:at] + bytes([new]) + good[at + 1 :])


@pytest.mark.attack(14)
def test_every_deleted_and_every_inserted_byte_is_rejected() -> None:
    good = sign(command())
    for at in range(len(good)):
        refusal_of(good[:at] + good[at + 1 :])
        refusal_of(good[:at])
    for at in range(len(good) + 1):
        for new in b"A.=\n\0":
            refusal_of(good[:at] + bytes([new]) + good[at:])


@given(st.data())
def test_any_changed_stretch_is_rejected(data: st.DataObject) -> None:
    good = sign(command())
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(len(good), start + 20)))
    new = data.draw(st.binary(max_size=20).filter(lambda stretch: stretch != good[start:end]))
    refusal_of(good[:start] + new + good[end:])


def doubled(value: Any, path: tuple[Any, ...]) -> bytes:
    """JSON with the member at `path` written twice, to the same value."""
    marked = edited(value, path, {"double": path[-1]})
    holder = value
    for step in path:
        holder = holder[step]
    member = json.dumps(holder)
    return (
        json.dumps(marked)
        .replace(json.dumps({"double": path[-1]}), f"{member}, {json.dumps(path[-1])}: {member}")
        .encode()
    )


FULL = command(
    spawn(),
    {"id": id_of(5), "command": "kill", "agentId": id_of(2), "graceS": 9, "reason": "superseded"},
    {"id": id_of(6), "command": "freeze", "killAgents": True, "reason": "night"},
    traceparent=TRACE,
)
OPTIONAL = {"traceparent", "skills", "priority", "timeoutS", "maxAttempts", "graceS", "killAgents", "reason"}


@pytest.mark.attack(13)
@pytest.mark.parametrize("path", list(paths(FULL)), ids=lambda path: ".".join(map(str, path)))
def test_a_member_written_twice_is_malformed(path: tuple[Any, ...]) -> None:
    payload = doubled(FULL, path)
    assert json.loads(payload) == FULL
    assert refusal_of(sign(payload)).code == "malformed"


@pytest.mark.parametrize("path", list(paths(FULL)), ids=lambda path: ".".join(map(str, path)))
def test_only_an_optional_member_may_be_left_out(path: tuple[Any, ...]) -> None:
    raw = sign(edited(FULL, path, ...))
    if path[-1] in OPTIONAL:
        verify(raw, RING, NOW_S)
    else:
        assert refusal_of(raw).code == "malformed"


@pytest.mark.parametrize("path", list(paths(FULL)), ids=lambda path: ".".join(map(str, path)))
def test_a_member_of_another_type_is_malformed(path: tuple[Any, ...]) -> None:
    good: Any = FULL
    for step in path:
        good = good[step]
    for wrong in (None, True, 1, 1.0, "1", [], {}, [good], {"x": good}):
        if type(wrong) is not type(good):
            assert refusal_of(sign(edited(FULL, path, wrong))).code == "malformed"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=8,
)


def outcome_of(raw: bytes) -> str:
    try:
        verify(raw, RING, NOW_S)
    except EnvelopeRejected as rejected:
        return rejected.code
    return "verified"


@given(
    st.sampled_from(EnvelopeType),
    st.sampled_from([command(), *({**claims(), **body} for body in bodies().values())]),
    st.data(),
)
def test_whatever_a_known_peer_signs_is_verified_or_rejected(
    typ: EnvelopeType, payload: Any, data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(list(paths(payload))))
    changed = edited(payload, path, data.draw(json_values))
    assert outcome_of(sign(changed, typ=typ)) in {"verified", "malformed", "bad_signature"}


@given(st.binary(max_size=100), st.sampled_from(["command+jwt", "event+jwt", "join+jwt", "", "x"]))
def test_whatever_bytes_a_known_peer_signs_are_rejected(payload: bytes, typ: str) -> None:
    assert outcome_of(sign(payload, typ=typ)) == "malformed"
