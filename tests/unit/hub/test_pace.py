from __future__ import annotations

import pytest

from hub.pace import AT_ONCE, PER_S, Pace


def test_the_first_go_at_once_and_then_so_many_a_second() -> None:
    pace = Pace()
    waits = [pace.take("a_1", 100.0) for _ in range(AT_ONCE + PER_S)]
    assert waits[:AT_ONCE] == [0.0] * AT_ONCE
    assert waits[AT_ONCE:] == pytest.approx([(turn + 1) / PER_S for turn in range(PER_S)])
    assert pace.take("b_1", 100.0) == 0.0, "each spoke has its own"


def test_after_a_pause_some_go_at_once_again_and_no_more() -> None:
    pace = Pace()
    for _ in range(500):
        pace.take("a_1", 0.0)
    assert [pace.take("a_1", 1000.0) for _ in range(AT_ONCE)] == [0.0] * AT_ONCE
    assert pace.take("a_1", 1000.0) > 0


def test_spokes_that_nobody_reads_of_are_forgotten() -> None:
    pace = Pace()
    for number in range(999):
        pace.take(f"old-{number}_1", 0.0)
    for _ in range(20):
        pace.take("busy_1", 100.0)
    assert pace.take("busy_1", 100.0) > 0
    assert len(pace._next) == 1
