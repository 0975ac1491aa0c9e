"""What the audit and the log say of an envelope's commands: the ids of one outcome together, in order."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from common import logs
from common.commands import COMMAND_NAMES, parse_commands
from common.connection import admit
from common.envelope import verify
from common.errors import CommandRefused, NotAllowed
from spoke.command_result import CommandResult, of_members, refusal
from spoke.decisions import decisions, starts_something
from spoke.router import _record
from tests.envelopes import HUB, ME_SPOKE, NOW_S, command, id_of, sign, spawn, spoke_trust


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.configure(stream)
    yield stream
    structlog.reset_defaults()


def about(name: str, number: int) -> dict[str, Any]:
    return {"id": id_of(number), "command": name, "agentId": id_of(1)}


COMMANDS = [
    spawn(id=id_of(11)),
    spawn(id=id_of(12)),
    about("status", 13),
    spawn(id=id_of(14)),
    about("kill", 15),
    {"id": id_of(16), "command": "freeze"},
    spawn(id=id_of(17)),
]
REFUSED = {
    1: NotAllowed("policy.repositories has no pattern for this repository"),
    6: CommandRefused("quota_exceeded", "policy.queued: too many of your agents wait here; try again later"),
}


def results() -> list[CommandResult]:
    asked = enumerate(parse_commands(COMMANDS))
    return [refusal(each, REFUSED[n]) if n in REFUSED else of_members(each, {}) for n, each in asked]


def test_commands_of_one_outcome_are_one_decision() -> None:
    assert decisions(results()) == [
        {"command": "spawn", "outcome": "accepted", "ids": [id_of(11), id_of(14)]},
        {"command": "spawn", "outcome": "not_allowed", "rule": "policy.repositories", "ids": [id_of(12)]},
        {"command": "status", "outcome": "accepted", "ids": [id_of(13)], "agents": [id_of(1)]},
        {"command": "kill", "outcome": "accepted", "ids": [id_of(15)], "agents": [id_of(1)]},
        {"command": "freeze", "outcome": "accepted", "ids": [id_of(16)]},
        {"command": "spawn", "outcome": "quota_exceeded", "rule": "policy.queued", "ids": [id_of(17)]},
    ]


def test_what_looks_or_stops_starts_nothing() -> None:
    about = [{"id": id_of(3), "command": name, "agentId": id_of(1)} for name in ("status", "logs", "diff", "kill")]
    harmless = [*about, {"id": id_of(3), "command": "freeze"}]
    starting = [
        spawn(),
        {**about[0], "command": "resume"},
        {**about[0], "command": "send", "text": "go on"},
        {"id": id_of(3), "command": "thaw"},
    ]
    for each in starting:
        assert starts_something(parse_commands([each]))
        assert starts_something(parse_commands([*harmless, each]))
    assert not starts_something(parse_commands(harmless))
    assert {each["command"] for each in (*starting, *harmless)} == set(COMMAND_NAMES)


def test_a_refusal_that_names_no_rule_has_none() -> None:
    (asked,) = parse_commands([spawn()])
    for detail in ("limits are reached", ""):
        (decision,) = decisions([refusal(asked, CommandRefused("queue_full", detail))])
        assert "rule" not in decision


def test_each_command_that_changes_something_or_was_refused_has_a_line_in_order(log: io.StringIO) -> None:
    envelope = verify(sign(command(*COMMANDS)), spoke_trust().keyring, NOW_S)
    _record(admit(envelope, spoke_trust(), ME_SPOKE, NOW_S), results(), 0.0125)
    *lines, last = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [(line["event"], line["command"], line["command_id"], line["agent_id"]) for line in lines] == [
        ("command.accepted", "spawn", id_of(11), id_of(11)),
        ("command.refused", "spawn", id_of(12), id_of(12)),
        ("command.accepted", "spawn", id_of(14), id_of(14)),
        ("command.accepted", "kill", id_of(15), id_of(1)),
        ("command.accepted", "freeze", id_of(16), id_of(16)),
        ("command.refused", "spawn", id_of(17), id_of(17)),
    ]
    assert {line["peer"] for line in (*lines, last)} == {HUB}
    assert [line["reason"] for line in lines] == [None, REFUSED[1].message, None, None, None, REFUSED[6].message]
    assert [line["outcome"] for line in lines[:2]] == ["accepted", "not_allowed"]
    assert (last["event"], last["jti"], last["duration_ms"]) == ("envelope.accepted", id_of(1), 12.5)
    assert last["outcomes"] == {
        "spawn accepted": 2, "spawn not_allowed": 1, "status accepted": 1, "kill accepted": 1, "freeze accepted": 1,
        "spawn quota_exceeded": 1,
    }  # fmt: skip
