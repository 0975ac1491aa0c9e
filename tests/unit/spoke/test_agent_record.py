"""Records as they lie in the queue, and what of them a peer is shown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import strict_json
from common.agent_state import AGENT_TYPES, TRANSITIONS, AgentStatus
from spoke.agent_record import (
    AgentRecord,
    AgentRef,
    Place,
    TamperedRecord,
    decode_fields,
    decode_hash,
    encode_status,
    read_record,
)
from tests.envelopes import id_of

QUEUED = {
    "id": id_of(1), "tenant": "hub-eu_1", "peer": "hub-eu", "status": "queued", "seq": "1", "attempt": "0",
    "task": "T-1", "type": "worker", "priority": "5", "timeout": "3600", "max_attempts": "3", "hash": "h",
    "env": id_of(2), "index": "0", "queued_at": "1795000000123",
}  # fmt: skip
ENDED = {
    **QUEUED, "status": "failed", "seq": "4", "attempt": "1", "started_at": "1795000001000", "reason": "exit_nonzero",
    "finished_at": "1795000002000", "exit_code": "3", "result": '{"summary":"x"}',
    "receipt": '{"signals":[],"survivors":0}', "detail": "ours", "token": "9",
}  # fmt: skip


def _as_it_lies(record: AgentRecord) -> dict[bytes, bytes]:
    return {name.encode(): value.encode() for name, value in record.fields.items()}


def test_a_queued_agent() -> None:
    status = AgentRecord(QUEUED, Place(2, "slot")).to_status()
    assert status == {
        "agentId": id_of(1), "taskId": "T-1", "agentType": "worker", "status": "queued", "seq": 1, "attempt": 0,
        "queuedAt": "2026-11-18T11:06:40.123Z", "startedAt": None, "finishedAt": None, "reason": None,
        "exitCode": None, "signal": None, "result": None,
        "granted": {"priority": 5, "timeoutS": 3600, "maxAttempts": 3},
        "queue": {"position": 2, "waitingFor": "slot"}, "receipt": None,
    }  # fmt: skip


def test_an_ended_agent_shows_its_end_and_nothing_of_ours() -> None:
    status = AgentRecord(ENDED).to_status()
    assert (status["exitCode"], status["result"], status["receipt"]) == (
        3, {"summary": "x"}, {"signals": [], "survivors": 0},
    )  # fmt: skip
    assert not status.keys() & {"token", "detail", "hash", "env", "peer"}
    assert AgentStatus.model_validate(status).terminal
    assert AgentRecord(ENDED).terminal
    assert not AgentRecord(QUEUED).terminal


@pytest.mark.parametrize("fields", [QUEUED, ENDED], ids=["queued", "ended"])
def test_a_status_has_all_members_of_the_protocol_and_is_read_back_as_it_is(fields: dict[str, str]) -> None:
    status = AgentRecord(fields).to_status()
    assert strict_json.parse(AgentStatus.model_validate(status).to_json()) == status


@pytest.mark.attack(61)
@pytest.mark.parametrize(
    "change",
    [
        {"seq": "x"},
        {"seq": None},
        {"id": None},
        {"task": None},
        {"status": None},
        {"attempt": ""},
        {"queued_at": "soon"},
        {"queued_at": "9" * 40},
        {"queued_at": "9" * 20},
        {"exit_code": "1.5"},
        {"result": "{"},
        {"result": "[]"},
        {"receipt": "3"},
        {"priority": None},
        {"timeout": "long"},
    ],
    ids=str,
)
def test_a_record_that_none_of_our_scripts_wrote_is_tampered(change: dict[str, str | None]) -> None:
    record = AgentRecord({name: value for name, value in {**ENDED, **change}.items() if value is not None})
    with pytest.raises(TamperedRecord):
        record.to_status()
    with pytest.raises(TamperedRecord):
        record.encode()
    with pytest.raises(TamperedRecord):
        encode_status(_as_it_lies(record))


@pytest.mark.attack(61)
def test_a_result_that_is_no_json_on_the_wire_is_tampered() -> None:
    with pytest.raises(TamperedRecord):
        AgentRecord({**ENDED, "result": '{"n":NaN}'}).encode()


RESULT = '{"queue":null,"a":"\\",\\"queue\\":null,%s größe","b":{"agentId":""}}'


@pytest.mark.parametrize("place", [None, Place(7, "peer_quota")])
@pytest.mark.parametrize(
    "fields",
    [QUEUED, ENDED, {**ENDED, "result": RESULT, "receipt": RESULT}, {**QUEUED, "id": '"%s', "task": "größe\n"}],
    ids=["queued", "ended", "a result like a status", "no id"],
)
def test_what_goes_over_the_wire_is_the_status(fields: dict[str, str], place: Place | None) -> None:
    for number in range(3):
        record = AgentRecord({**fields, "task": f"{fields['task']}{number}"}, place)
        assert record.encode() == strict_json.encode(record.to_status())
        assert encode_status(_as_it_lies(record)) == strict_json.encode(AgentRecord(record.fields).to_status())


def test_what_is_no_text_is_shown_as_nearly_as_can_be() -> None:
    fields = {**_as_it_lies(AgentRecord(QUEUED)), b"id": b"a\xff", b"reason": b"\xc3"}
    assert encode_status(fields) == AgentRecord(decode_hash(fields)).encode()


@given(
    st.fixed_dictionaries(
        {"id": st.text(), "task": st.text()},
        optional={
            "queued_at": st.integers(0, 2**40).map(str), "started_at": st.integers(0, 2**40).map(str),
            "finished_at": st.integers(0, 2**40).map(str), "reason": st.text(), "signal": st.text(),
            "exit_code": st.integers().map(str), "seq": st.integers(1).map(str), "attempt": st.integers(0).map(str),
            "status": st.sampled_from(sorted(TRANSITIONS)), "type": st.sampled_from(AGENT_TYPES),
            "result": st.dictionaries(st.text(), st.none() | st.text()).map(json.dumps),
        },
    ),
    st.none() | st.builds(Place, st.integers(1), st.text()),
)  # fmt: skip
def test_whatever_goes_over_the_wire_is_the_status(fields: dict[str, str], place: Place | None) -> None:
    record = AgentRecord({**QUEUED, **fields}, place)
    assert record.encode() == strict_json.encode(record.to_status())
    assert encode_status(_as_it_lies(record)) == AgentRecord(record.fields).encode()


@pytest.mark.attack(61)
@pytest.mark.parametrize("attempt", [{}, {"attempt": "x"}])
def test_without_an_attempt_nobody_knows_where_it_ran(attempt: dict[str, str]) -> None:
    with pytest.raises(TamperedRecord):
        _ = AgentRecord(attempt).attempt


def test_names_are_read_as_they_are_written() -> None:
    ref = AgentRef("hub-eu_1", id_of(1))
    assert AgentRef.parse(str(ref)) == ref == AgentRecord(QUEUED).ref


def test_the_flat_answers_of_scripts() -> None:
    flat: Any = [b"id", b"1", b"task", b"\xff"]
    assert decode_fields(flat) == {"id": "1", "task": "\ufffd"}
    assert read_record(flat, [3, b"backoff"]).place == Place(3, "backoff")
    assert read_record(flat).place is None
