from __future__ import annotations

import pytest

from common.audit_refusals import (
    FIRST_WINDOW_MS,
    LONGEST_WINDOW_MS,
    MAX_ADDRESSES,
    MAX_CAUSES,
    Cause,
    Refusals,
)
from tests.envelopes import NOW_S

NOW = NOW_S * 1000
BAD = Cause("envelope.refused", "bad_signature")


@pytest.fixture
def refusals() -> Refusals:
    return Refusals()


def test_one_refusal_is_one_line_after_a_second(refusals: Refusals) -> None:
    refusals.add(NOW, Cause("envelope.refused", "expired", "hub-eu"), "192.0.2.1", "exp has passed")
    assert refusals.due(NOW + FIRST_WINDOW_MS - 1) == []
    (entry,) = refusals.due(NOW + FIRST_WINDOW_MS)
    assert entry.event == "envelope.refused"
    assert entry.fields == {
        "outcome": "expired", "peer": "hub-eu", "count": 1, "since": "2026-11-18T11:06:40.000Z",
        "addresses": ["192.0.2.1"], "detail": "exp has passed",
    }  # fmt: skip


def test_causes_are_told_apart(refusals: Refusals) -> None:
    for cause in (BAD, Cause("envelope.refused", "malformed"), Cause("envelope.refused", "malformed", "hub-eu")):
        refusals.add(NOW, cause)
    assert [(entry.fields["outcome"], entry.fields["peer"]) for entry in refusals.drain()] == [
        ("bad_signature", None), ("malformed", None), ("malformed", "hub-eu"),
    ]  # fmt: skip
    assert refusals.drain() == []


@pytest.mark.attack(64)
def test_a_flood_of_an_hour_makes_few_lines_and_loses_no_count(refusals: Refusals) -> None:
    lines, counted = 0, 0
    for tick in range(0, 3600 * 1000, 250):
        for stranger in range(3):
            refusals.add(NOW + tick, BAD, f"192.0.2.{stranger}", "x")
        entries = refusals.due(NOW + tick)
        lines += len(entries)
        counted += sum(entry.fields["count"] for entry in entries)  # type: ignore[misc]  # integers
    counted += sum(entry.fields["count"] for entry in refusals.drain())  # type: ignore[misc]
    assert counted == 3 * 3600 * 4
    assert lines < 3600 * 1000 / LONGEST_WINDOW_MS + 10


def test_a_cause_that_ended_begins_again_with_a_short_window(refusals: Refusals) -> None:
    now = NOW
    for _ in range(5):
        refusals.add(now, BAD)
        now += LONGEST_WINDOW_MS
        assert len(refusals.due(now)) == 1
    now += LONGEST_WINDOW_MS
    assert refusals.due(now) == []
    refusals.add(now, BAD)
    assert len(refusals.due(now + FIRST_WINDOW_MS)) == 1


def test_a_window_is_twice_as_long_as_the_one_before(refusals: Refusals) -> None:
    ends = []
    for tick in range(0, 16 * FIRST_WINDOW_MS, FIRST_WINDOW_MS // 4):
        refusals.add(NOW + tick, BAD)
        if refusals.due(NOW + tick):
            ends.append(tick // FIRST_WINDOW_MS)
    assert ends == [1, 3, 7, 15]


def test_what_a_line_lists_is_bounded(refusals: Refusals) -> None:
    for number in range(1000):
        refusals.add(NOW, BAD, f"192.0.2.{number}", f"detail {number}")
    (entry,) = refusals.drain()
    assert entry.fields["addresses"] == [f"192.0.2.{number}" for number in range(MAX_ADDRESSES)]
    assert (entry.fields["detail"], entry.fields["count"]) == ("detail 0", 1000)


def test_causes_are_bounded(refusals: Refusals) -> None:
    for number in range(MAX_CAUSES + 50):
        refusals.add(NOW, Cause("envelope.refused", "expired", f"hub-{number}"))
    entries = refusals.drain()
    assert len(entries) == MAX_CAUSES + 1
    assert entries[-1].event == "envelope.refused"
    rest = entries[-1].fields
    assert (rest["outcome"], rest["peer"], rest["count"]) == ("expired", None, 50)
