"""What the end of a run means, as a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.agent_state import REASONS, TERMINAL
from spoke.outcome import Verdict, final_fields, judge, result_of
from spoke.profiles import Shelf
from spoke.supervision.run_dir import Ending, Receipt, SignalSent

COMMAND = Shelf().get("command")
REPORT = Shelf().get("report")
AT = "2026-11-22T08:00:00.000Z"


def ending(cause: Any, **members: Any) -> Ending:
    return Ending(cause=cause, finished_at=AT, **members)


@pytest.mark.parametrize(
    ("end", "profile", "readable", "verdict"),
    [
        (ending("exited", exit_code=0), COMMAND, True, Verdict("completed", None)),
        (ending("exited", exit_code=0), COMMAND, False, Verdict("failed", "workspace_failed")),
        (ending("exited", exit_code=3), COMMAND, True, Verdict("failed", "exit_nonzero")),
        (ending("exited", exit_code=3), COMMAND, False, Verdict("failed", "exit_nonzero")),
        (ending("exited", exit_code=2), REPORT, True, Verdict("failed", "agent_error")),
        (ending("exited", signal="SIGKILL"), COMMAND, True, Verdict("failed", "exit_nonzero")),
        (ending("timeout", signal="SIGTERM"), COMMAND, True, Verdict("failed", "timeout")),
        (ending("timeout", exit_code=0), COMMAND, True, Verdict("failed", "timeout")),
        (ending("silence"), COMMAND, True, Verdict("failed", "timeout")),
        (ending("spawn_failed"), COMMAND, True, Verdict("failed", "spawn_failed")),
        (ending("lost"), COMMAND, True, Verdict("failed", "lost")),
        (ending("killed", kill_cause="killed_by_peer"), COMMAND, True, Verdict("killed", "killed_by_peer")),
        (ending("killed", kill_cause="killed_by_operator", exit_code=0), COMMAND, False, None),
    ],
    ids=lambda value: value.cause if isinstance(value, Ending) else None,
)
def test_the_table(end: Ending, profile: Any, readable: bool, verdict: Verdict | None) -> None:
    found = judge(end, profile, readable=readable)
    assert found == (verdict or Verdict("killed", "killed_by_operator"))
    assert found.status in TERMINAL
    assert (found.reason in REASONS) == (found.status != "completed")


def test_a_result_without_a_workspace_has_all_its_members() -> None:
    assert result_of(ending("exited", log_bytes=7), None, "text", {"a": 1}) == {
        "summary": "text",
        "data": {"a": 1},
        "commits": [],
        "branch": None,
        "diffStat": {"files": 0, "insertions": 0, "deletions": 0},
        "usage": None,
        "preservedRef": None,
        "logBytes": 7,
    }


def test_fields_hold_what_is_known_and_nothing_else() -> None:
    receipt = Receipt((SignalSent("SIGTERM", AT),), 0)
    fields = final_fields(ending("killed", signal="SIGTERM", receipt=receipt), "killed_by_peer", {"summary": None})
    assert {name: fields[name] for name in ("reason", "signal", "result")} == {
        "reason": "killed_by_peer",
        "signal": "SIGTERM",
        "result": '{"summary": null}',
    }
    assert json.loads(str(fields["receipt"])) == {"signals": [{"signal": "SIGTERM", "at": AT}], "survivors": 0}
    assert not fields.keys() & {"exit_code", "detail"}


def test_a_success_has_no_reason_and_its_exit_code() -> None:
    fields = final_fields(ending("exited", exit_code=0), None, {})
    assert fields == {"exit_code": 0, "result": "{}"}


def test_every_reason_of_a_profile_is_one_of_the_protocol() -> None:
    profiles = Path(__file__).parents[3] / "spoke" / "profiles"
    for name in (path.stem for path in profiles.glob("*.toml")):
        profile = Shelf().get(name)
        assert {profile.reason_for(code) for code in range(1, 256)} <= REASONS
        assert profile.reason_for(0) is None
