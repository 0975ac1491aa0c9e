from __future__ import annotations

from typing import Any

import pytest

from common.agent_state import AgentStatus
from common.envelope import Event, ReplyBody, Result
from common.errors import Unavailable
from common.inbox import BadReply
from hub.settlement import MAX_DETAIL, Queued, error_of, of_events, refuse, settle, shown_error
from tests.envelopes import agent_status, id_of

NOW_MS = 1_795_000_000_000
SPAWN = Queued(id_of(2), "spawn", id_of(2), b"{}")
KILL = Queued(id_of(3), "kill", id_of(2), b"{}", attempts=2)


def no_jitter() -> float:
    return 0.0


def reply(*results: dict[str, Any]) -> ReplyBody:
    """A reply with these results."""
    return ReplyBody(re=id_of(1), results=[Result.model_validate(result) for result in results])


def refusal(code: str, *, retryable: bool, detail: str = "why") -> dict[str, Any]:
    """The error of a result."""
    return {"code": code, "detail": detail, "retryable": retryable}


def test_each_command_by_its_own_result() -> None:
    told = reply(
        {"id": SPAWN.command_id, "agent": agent_status()},
        {"id": KILL.command_id, "error": refusal("not_found", retryable=False)},
    )
    delivered, refused = settle([SPAWN, KILL], told, NOW_MS, no_jitter)
    assert (delivered.outcome, delivered.command_id, delivered.agent_id) == ("delivered", id_of(2), id_of(2))
    assert delivered.agent == AgentStatus.model_validate(agent_status())
    assert (refused.outcome, refused.command_id, refused.agent_id) == ("refused", id_of(3), id_of(2))
    assert refused.error == shown_error("not_found", "why", retryable=False)


@pytest.mark.parametrize(("attempts", "pause_ms"), [(0, 500), (1, 1000), (20, 60_000)])
def test_what_is_refused_for_now_waits_the_longer_the_oftener(attempts: int, pause_ms: int) -> None:
    command = Queued(id_of(2), "spawn", id_of(2), b"{}", attempts)
    told = reply({"id": id_of(2), "error": refusal("frozen", retryable=True)})
    (later,) = settle([command], told, NOW_MS, no_jitter)
    assert (later.outcome, later.not_before_ms) == ("retry", NOW_MS + pause_ms)


WRONG = {
    "another command": {"id": id_of(9), "agent": agent_status()},
    "another agent": {"id": id_of(2), "agent": agent_status(agentId=id_of(9))},
    "no agent": {"id": id_of(2)},
    "a log": {"id": id_of(2), "log": {"offset": 0, "data": "", "nextOffset": 0, "eof": True}},
}


@pytest.mark.attack(49)
@pytest.mark.parametrize("result", WRONG.values(), ids=WRONG.keys())
def test_a_reply_that_answers_something_else_settles_nothing(result: dict[str, Any]) -> None:
    with pytest.raises(BadReply):
        settle([SPAWN], reply(result), NOW_MS, no_jitter)


def test_a_long_detail_is_cut() -> None:
    told = reply({"id": id_of(2), "error": refusal("invalid", retryable=False, detail="x" * 100_000)})
    (settled,) = settle([SPAWN], told, NOW_MS, no_jitter)
    assert settled.error is not None
    assert len(settled.error["detail"]) == MAX_DETAIL


def test_an_unanswered_envelope_will_go_again() -> None:
    assert error_of(Unavailable("cannot reach it")) == {
        "code": "unavailable",
        "detail": "cannot reach it",
        "retryable": True,
    }


def test_refusing_and_telling_name_every_agent() -> None:
    error = shown_error("too_large", "", retryable=False)
    assert [settled.outcome for settled in refuse([SPAWN, KILL], error)] == ["refused", "refused"]
    (told,) = of_events([Event.model_validate({"agent": agent_status()})])
    assert (told.agent_id, told.outcome, told.command_id) == (id_of(2), "event", "")
