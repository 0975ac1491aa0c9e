from __future__ import annotations

import pytest

from spoke.supervision.course import KILL_EVERY_S, KILL_LIMIT_S, LEFTOVER_GRACE_S, Action, Course

FOREVER = float("inf")


def course(timeout_s: float = 100, silence_s: float | None = None, grace_s: float = 10) -> Course:
    return Course(1000.0, timeout_s=timeout_s, silence_s=silence_s, grace_s=grace_s)


def test_nothing_happens_while_nothing_speaks_for_the_end() -> None:
    run = course(silence_s=50)
    assert run.decide(1049.9, empty=False) is Action.WAIT
    assert (run.cause, run.wake_at()) == (None, 1050.0)
    run.saw_output(1040)
    assert run.wake_at() == 1090.0
    run.saw_output(1080)
    assert run.wake_at() == 1100.0


@pytest.mark.parametrize(
    ("silence_s", "now", "cause"),
    [
        pytest.param(None, 1100.0, "timeout", id="time is up"),
        pytest.param(30.0, 1030.0, "silence", id="silent for too long"),
        pytest.param(100.0, 1100.0, "timeout", id="both at once"),
    ],
)
def test_limits(silence_s: float | None, now: float, cause: str) -> None:
    run = course(silence_s=silence_s)
    assert run.decide(now - 0.001, empty=False) is Action.WAIT
    assert run.decide(now, empty=False) is Action.TERMINATE
    assert (run.cause, run.kill_cause, run.wake_at()) == (cause, None, now + 10)
    assert run.decide(now + 9.999, empty=False) is Action.WAIT
    assert run.decide(now + 10, empty=False) is Action.KILL


def test_killing_is_repeated_and_given_up() -> None:
    run = course()
    run.ask_kill(1000, 0, "test")
    assert run.decide(1000, empty=False) is Action.KILL
    assert run.wake_at() == 1000 + KILL_EVERY_S
    assert run.decide(1000, empty=False) is Action.WAIT
    assert run.decide(1000 + KILL_EVERY_S, empty=False) is Action.KILL
    assert run.decide(1000 + KILL_LIMIT_S, empty=False) is Action.FINISH


@pytest.mark.parametrize("when", ["before any signal", "after SIGTERM", "after SIGKILL"])
def test_over_is_when_nothing_is_left(when: str) -> None:
    run = course()
    run.ask_kill(1000, 5, "test")
    if when != "before any signal":
        assert run.decide(1000, empty=False) is Action.TERMINATE
    if when == "after SIGKILL":
        assert run.decide(1005, empty=False) is Action.KILL
    assert run.decide(1005, empty=True) is Action.FINISH


def test_an_end_of_its_own_is_over_at_once_or_after_a_short_grace() -> None:
    run = course()
    run.main_ended(1001)
    assert run.decide(1001, empty=True) is Action.FINISH
    run = course()
    run.main_ended(1001)
    assert run.decide(1001, empty=False) is Action.TERMINATE
    run.main_ended(1002)  # told again at every turn: the grace does not start anew
    assert (run.cause, run.wake_at()) == ("exited", 1001 + LEFTOVER_GRACE_S)
    run = course(grace_s=0.5)
    run.main_ended(1001)
    assert run.wake_at() == 1001.5


@pytest.mark.parametrize(
    ("first", "cause", "kill_cause"),
    [("kill", "killed", "one"), ("end", "exited", None), ("timeout", "timeout", None)],
)
def test_the_first_cause_stays_and_a_kill_shortens(first: str, cause: str, kill_cause: str | None) -> None:
    run = course(grace_s=60)
    if first == "kill":
        run.ask_kill(1100, 60, "one")
    elif first == "end":
        run.main_ended(1100)
    run.decide(1100, empty=False)
    run.ask_kill(1100, 1, "two")
    run.ask_kill(1100, 900, "three")
    run.main_ended(1100.5)
    assert run.decide(1100.5, empty=False) is Action.WAIT
    assert (run.cause, run.kill_cause, run.wake_at()) == (cause, kill_cause, 1101.0)


def test_no_limit_on_silence_means_none() -> None:
    run = course(timeout_s=FOREVER)
    assert run.wake_at() == FOREVER
    assert run.decide(1e12, empty=False) is Action.WAIT
