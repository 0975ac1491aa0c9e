from __future__ import annotations

import json
from typing import Any

from hub.api.models import AgentView
from hub.records import FIELDS, parse_record
from tests.envelopes import agent_status, id_of, spawn

STORED: dict[str, Any] = {
    "spoke": b"build-1",
    "tenant": b"build-1_2",
    "task": b"T-42",
    "type": b"worker",
    "status": b"pending",
    "shown": b"pending",
    "created": b"1795000000000",
    "delivery": b"pending",
    "attempts": b"0",
    "error": b"",
    "command": json.dumps(spawn()).encode(),
}


def view(**changes: bytes) -> dict[str, Any]:
    """The JSON of a record with these fields, which must be what the API's model says."""
    fields = {**STORED, **changes}
    record = parse_record(id_of(2), [fields.get(name) for name in FIELDS])
    assert record is not None
    AgentView.model_validate(record.to_view())
    return record.to_view()


def test_no_record_is_none() -> None:
    assert parse_record(id_of(2), [None] * len(FIELDS)) is None


def test_an_agent_that_waits() -> None:
    waiting = view()
    assert (waiting["agentId"], waiting["status"], waiting["seq"], waiting["result"]) == (id_of(2), "pending", 0, None)
    assert waiting["delivery"] == {"state": "pending", "attempts": 0, "lastError": None}
    assert waiting["kill"] is None
    assert waiting["createdAt"] == "2026-11-18T11:06:40.000Z"
    assert waiting["context"] == spawn()["context"]


def test_an_agent_that_its_spoke_told_of() -> None:
    error = {"code": "not_found", "detail": "x", "retryable": False}
    told = view(
        status=b"killed",
        agent=json.dumps(agent_status()).encode(),
        delivery=b"delivered",
        kill_id=id_of(3).encode(),
        kill_state=b"refused",
        kill_error=json.dumps(error).encode(),
    )
    assert {name: told[name] for name in agent_status()} == agent_status()
    assert told["kill"] == {"commandId": id_of(3), "state": "refused", "lastError": error}
