from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from common import strict_json
from common.agent_state import AGENT_TYPES, TERMINAL, TRANSITIONS, AgentStatus, AgentType, Status, may_follow
from tests.envelopes import agent_status, id_of

DOCS = Path(__file__).parents[3] / "docs"


def test_the_table_is_closed_and_knows_every_status() -> None:
    assert set(TRANSITIONS) == set(get_args(Status))
    assert set().union(*TRANSITIONS.values()) <= set(TRANSITIONS)
    assert get_args(AgentType) == AGENT_TYPES


def test_terminal_states_are_final_and_the_others_reach_each_of_them() -> None:
    assert sorted(TERMINAL) == ["completed", "failed", "killed"]
    for before in TRANSITIONS:
        for after in TRANSITIONS:
            assert not (before in TERMINAL and may_follow(before, after))
    reached = {"queued"}
    while more := set().union(*(TRANSITIONS[state] for state in reached)) - reached:
        reached |= more
    assert reached == set(TRANSITIONS)


def test_every_state_that_is_not_terminal_can_fail_and_be_killed() -> None:
    for state in set(TRANSITIONS) - TERMINAL:
        assert may_follow(state, "failed")
        assert may_follow(state, "killed")


def test_nothing_completes_that_did_not_run() -> None:
    assert [state for state in TRANSITIONS if may_follow(state, "completed")] == ["running"]


@pytest.mark.parametrize("status", sorted(TRANSITIONS))
def test_terminal_of_a_status(status: str) -> None:
    assert AgentStatus.model_validate(agent_status(status=status)).terminal == (status in TERMINAL)


def test_a_status_makes_the_round_trip_with_every_member_present() -> None:
    assert strict_json.parse(AgentStatus.model_validate(agent_status()).to_json()) == agent_status()
    small = {"agentId": id_of(2), "taskId": "t", "agentType": "worker", "status": "queued", "seq": 1, "attempt": 0}
    assert set(strict_json.parse(AgentStatus.model_validate(small).to_json())) == set(agent_status())


def test_members_that_a_receiver_does_not_know_are_ignored_at_every_level() -> None:
    newer = agent_status(
        mood="fine",
        granted={"priority": 5, "timeoutS": 1, "maxAttempts": 3, "cpu": 2},
        queue={"position": 1, "waitingFor": "the moon", "since": None},
        receipt={"signals": [{"signal": "SIGTERM", "at": "x", "by": "y"}], "survivors": 0, "how": 1},
    )
    assert "mood" not in strict_json.parse(AgentStatus.model_validate(newer).to_json())


def wrong(member: str, *values: Any) -> list[Any]:
    return [pytest.param({member: value}, id=f"{member}={value!r}") for value in values]


NO_INTEGER = ("5", 5.0, True)


@pytest.mark.attack(46)
@pytest.mark.parametrize(
    "changes",
    [
        *wrong("seq", *NO_INTEGER, None, 0, -1),
        *wrong("attempt", *NO_INTEGER, None, -1),
        *wrong("exitCode", *NO_INTEGER),
        *wrong("agentId", "", "x", id_of(2) + "\n", id_of(2).upper(), 5, None),
        *wrong("taskId", "", "a b", "a\n", "a\0", "t" * 129, 5, None),
        *wrong("agentType", "cook", "Worker", None),
        *wrong("status", "pending", "", None, 1),
        *wrong("reason", 5, [], {}),
        *wrong("signal", 15),
        *wrong("queuedAt", 5, 1.5),
        *wrong("result", "x", []),
        *wrong("granted", *({"priority": value, "timeoutS": 1, "maxAttempts": 1} for value in NO_INTEGER)),
        *wrong("granted", {"priority": 1}, [], {"priority": 1, "timeout_s": 1, "max_attempts": 1}),
        *wrong("queue", *({"position": value, "waitingFor": "slot"} for value in NO_INTEGER)),
        *wrong("receipt", *({"signals": [], "survivors": value} for value in NO_INTEGER)),
        *wrong("receipt", {"signals": {}, "survivors": 0}, {"signals": "", "survivors": 0}, {"survivors": 0}),
        *wrong("receipt", {"signals": [{"signal": 15, "at": "x"}], "survivors": 0}),
    ],
)
def test_a_member_that_is_known_has_its_exact_type(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AgentStatus.model_validate(agent_status(**changes), by_alias=True, by_name=False)


def test_the_page_of_states_is_what_the_tables_say() -> None:
    page = runpy.run_path(str(DOCS / "generate_states.py"))["render"]()
    assert (DOCS / "states.md").read_text() == page, "run: python docs/generate_states.py"
