from __future__ import annotations

import random

import pytest

from spoke.redial import AT_ONCE_S, LAST_S, NOT_OFFERED_S, STABLE_S, Ending, redial

ALMOST_ONE = 1 - 2**-53
LONGEST: dict[str, tuple[Ending, float, int, float, int]] = {
    "a goodbye": (Ending.GOODBYE, 300, 5, AT_ONCE_S, 1),
    "the first goodbye, soon": (Ending.GOODBYE, 1, 0, AT_ONCE_S, 1),
    "goodbyes one after the other": (Ending.GOODBYE, 1, 1, 2, 2),
    "the first failure": (Ending.LOST, 0, 0, 1, 1),
    "the third failure": (Ending.LOST, 0, 2, 4, 3),
    "the tenth failure": (Ending.LOST, 0, 9, LAST_S, 10),
    "after a thousand": (Ending.LOST, 0, 1000, LAST_S, 1001),
    "after a stable minute": (Ending.LOST, STABLE_S, 9, 1, 1),
    "after less than that": (Ending.LOST, STABLE_S - 1, 9, LAST_S, 10),
    "no link there": (Ending.NOT_OFFERED, 0, 9, NOT_OFFERED_S, 0),
    "replaced": (Ending.REPLACED, 1, 0, LAST_S, 1),
}


@pytest.mark.parametrize(("ending", "up_s", "failures", "longest_s", "following"), LONGEST.values(), ids=LONGEST)
def test_how_long_to_wait(ending: Ending, up_s: float, failures: int, longest_s: float, following: int) -> None:
    lucky, unlucky = (redial(ending, up_s, failures, jitter) for jitter in (0.0, ALMOST_ONE))
    assert lucky.failures == unlucky.failures == following
    assert 0 <= lucky.pause_s <= unlucky.pause_s == pytest.approx(longest_s)


def test_who_was_replaced_never_comes_back_soon() -> None:
    assert redial(Ending.REPLACED, 1, 0, 0.0).pause_s >= LAST_S / 2


@pytest.mark.fault(35)
def test_fifty_spokes_that_lost_one_hub_do_not_come_back_together() -> None:
    randomness = random.Random(1)
    clocks, failures = [0.0] * 50, [0] * 50
    attempts: list[float] = []
    for number in range(50):
        while clocks[number] < 300:
            following = redial(Ending.LOST, 0.0, failures[number], randomness.random())
            clocks[number] += following.pause_s
            failures[number] = following.failures
            attempts.append(clocks[number])
    busiest = max(sum(start <= at < start + 0.1 for at in attempts) for start in attempts)
    # All at once would be 50; what a flat spread over a pause gives is about 10 in the first second, 1 later.
    assert busiest <= 16
    late = [at for at in attempts if at > 60]
    assert max(sum(start <= at < start + 0.1 for at in late) for start in late) <= 6
    # Everybody has tried again within a pause of the longest kind.
    assert all(later - LAST_S <= 300 for later in clocks)
