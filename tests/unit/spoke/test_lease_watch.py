"""A lease is over when nobody put it off for as long as it lasts, whatever any wall clock says."""

from __future__ import annotations

import pytest

from spoke.lease_watch import LeaseWatch

STILL_S, GAP_S, HOUR_MS = 15.0, 12.0, 3_600_000
NOW_MS = 1_795_000_000_000


def looks(*deadlines: dict[str, int], every_s: float = 5.0) -> list[dict[str, int]]:
    watch = LeaseWatch(STILL_S, GAP_S)
    return [watch.look(found, 1000 + number * every_s) for number, found in enumerate(deadlines)]


def test_one_that_stands_still_for_a_whole_lease_is_abandoned() -> None:
    lease = {"hub-eu_1 a": NOW_MS}
    assert looks(lease, lease, lease, lease, lease) == [{}, {}, {}, lease, lease]


@pytest.mark.fault(21)
@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS, 365 * 24 * HOUR_MS], ids=["forward", "back", "a year"])
def test_no_lease_that_is_kept_is_over_when_the_clock_of_the_store_is_set(jump_ms: int) -> None:
    before = [{"t a": NOW_MS + 5000 * n, "t b": NOW_MS + 5000 * n + 1} for n in range(4)]
    after = [{"t a": NOW_MS + jump_ms + 5000 * n, "t b": NOW_MS + jump_ms + 5000 * n + 1} for n in range(6)]
    assert looks(*before, *after) == [{}] * 10


@pytest.mark.fault(21)
@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS], ids=["forward", "back"])
def test_one_that_nobody_keeps_is_over_at_its_time_although_the_clock_was_set(jump_ms: int) -> None:
    kept = [{"t kept": NOW_MS + (jump_ms if n > 1 else 0) + 5000 * n, "t left": NOW_MS} for n in range(4)]
    assert looks(*kept)[-1] == {"t left": NOW_MS}


def test_an_observer_that_stood_still_itself_begins_anew() -> None:
    lease = {"t a": NOW_MS}
    watch = LeaseWatch(STILL_S, GAP_S)
    for now_s in (0.0, 5.0, 10.0):
        assert watch.look(lease, now_s) == {}
    assert watch.look(lease, 70.0) == {}, "nobody may have been able to renew in the meantime"
    assert [watch.look(lease, now_s) for now_s in (75.0, 80.0, 85.0)] == [{}, {}, lease]


def test_what_was_seen_is_forgotten_when_the_store_was_away() -> None:
    lease = {"t a": NOW_MS}
    watch = LeaseWatch(STILL_S, GAP_S)
    for now_s in (0.0, 5.0, 10.0):
        watch.look(lease, now_s)
    watch.forget()
    assert watch.look(lease, 15.0) == {}


def test_a_lease_that_changed_hands_begins_anew() -> None:
    assert looks({"t a": 1}, {"t a": 1}, {}, {"t a": 1}, {"t a": 1}) == [{}] * 5
