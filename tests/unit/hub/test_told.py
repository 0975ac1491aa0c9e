"""What was recorded is no news; whatever else it is goes to the store."""

from __future__ import annotations

from typing import Any

import pytest

from common.agent_state import AgentStatus
from hub.told import Told
from tests.integration.hub.standin_spoke import agent_status, new_id

AGENT = new_id()


def status(seq: int, *, has_result: bool = False, agent_id: str = AGENT) -> AgentStatus:
    members: dict[str, Any] = agent_status(agent_id, seq=seq, result={"summary": "done"} if has_result else None)
    return AgentStatus.model_validate(members)


@pytest.mark.parametrize(
    ("event", "is_known"),
    [
        (status(3), True),
        (status(2), True),
        (status(2, has_result=True), True),
        (status(4), False),
        (status(3, has_result=True), False),
        (status(3, agent_id=new_id()), False),
    ],
    ids=["the same", "an earlier one", "an earlier result", "a later one", "its result", "another agent"],
)
def test_what_is_told_already(event: AgentStatus, is_known: bool) -> None:
    told = Told()
    told.note(told.begin("one"), "t-1", [status(3)])
    assert told.has("t-1", event) is is_known
    assert not told.has("t-2", event), "another tenant's agent of that id is another agent"


def test_an_earlier_transition_takes_nothing_back() -> None:
    told = Told()
    told.note(told.begin("one"), "t-1", [status(3)])
    told.note(told.begin("one"), "t-1", [status(1)])
    assert told.has("t-1", status(3))


def test_another_store_knows_nothing() -> None:
    told = Told()
    turn = told.begin("one")
    told.note(turn, "t-1", [status(1)])
    told.begin("one")
    assert told.has("t-1", status(1))
    told.begin("two")
    told.note(turn, "t-1", [status(1)])  # was on its way to the first one
    assert not told.has("t-1", status(1))


def test_an_agent_that_begins_anew_is_news() -> None:
    told = Told()
    told.note(told.begin("one"), "t-1", [status(5)])
    turn = told.begin("one")
    told.forget("t-1", [AGENT, new_id()])
    told.note(turn, "t-1", [status(5)])  # was on its way before
    assert not told.has("t-1", status(1))


def test_only_the_latest_are_kept() -> None:
    told, ids = Told(most=2), [new_id() for _ in range(3)]
    for agent_id in ids:
        told.note(told.begin("one"), "t-1", [status(1, agent_id=agent_id)])
    assert [told.has("t-1", status(1, agent_id=agent_id)) for agent_id in ids] == [False, True, True]
    told.note(told.begin("one"), "t-1", [status(2, agent_id=ids[1])])
    told.note(told.begin("one"), "t-1", [status(1, agent_id=ids[0])])
    assert [told.has("t-1", status(1, agent_id=agent_id)) for agent_id in ids] == [True, True, False]
