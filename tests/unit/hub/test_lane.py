"""A lane: what goes into the next envelope, and that what was handed over is never taken for more than it is."""

from __future__ import annotations

import asyncio

import pytest

from common.envelope import MAX_ITEMS_BYTES
from common.errors import Unavailable
from hub.lane import Handed, Lane
from hub.outbox import Taken
from hub.settlement import Queued


def command(name: str, size: int = 1) -> Queued:
    return Queued(name, "spawn", name, b"x" * size)


def handed(*names: str, deadline_ms: int = 0) -> list[Handed]:
    return [Handed(command(name), deadline_ms) for name in names]


def opened(*read: str, left: int = 0, next_due_ms: int = 0) -> Lane:
    """A lane that has just read the outbox."""
    lane = Lane("t-1")
    lane.begin_reading()
    lane.has_read(Taken(tuple(map(command, read)), left, next_due_ms))
    return lane


def names(lane: Lane, now_ms: int = 0) -> list[str]:
    return [each.command_id for each in lane.following(now_ms)]


def test_a_lane_begins_by_reading() -> None:
    lane = Lane("t-1")
    lane.hand(handed("a"))
    assert not lane.is_complete
    assert lane.work.is_set()
    assert names(lane) == []


def test_what_is_handed_over_after_the_reading_goes_in_its_order() -> None:
    lane = opened()
    lane.hand(handed("a", "b"))
    lane.hand(handed("c"))
    assert lane.is_complete
    assert names(lane) == ["a", "b", "c"]
    assert names(lane) == []


def test_what_came_while_the_outbox_was_read_goes_once() -> None:
    lane = Lane("t-1")
    lane.hand(handed("before"))
    lane.begin_reading()
    lane.hand(handed("in it", "behind it"))
    lane.has_read(Taken((command("before"), command("in it")), 0, 0))
    assert names(lane) == ["behind it"]


def test_what_is_handed_over_long_after_it_was_read_does_not_go_again() -> None:
    lane = opened("a", "b")
    lane.look()
    lane.begin_reading()
    lane.has_read(Taken((), 0, 0))
    lane.hand(handed("a", "c"))
    assert names(lane) == ["c"]


def test_only_so_many_of_what_was_read_are_remembered() -> None:
    lane = opened(*(str(number) for number in range(2001)))
    lane.hand(handed("0", "1"))
    assert names(lane) == ["0"]


@pytest.mark.parametrize("more", [{"left": 1}, {"next_due_ms": 5}], ids=["more is ready", "some was put off"])
def test_while_there_is_more_in_the_outbox_it_is_read_again(more: dict[str, int]) -> None:
    assert not opened("a", **more).is_complete


def test_what_somebody_else_put_there_comes_in_its_order() -> None:
    lane = opened()
    lane.hand(handed("a"))
    lane.look()
    lane.hand(handed("behind a kill"))
    assert not lane.is_complete
    assert names(lane) == []


def test_a_word_that_comes_during_the_reading_is_not_lost() -> None:
    lane = Lane("t-1")
    lane.begin_reading()
    lane.look()
    lane.has_read(Taken((), 0, 0))
    assert not lane.is_complete


def test_more_than_two_envelopes_hold_is_not_kept() -> None:
    lane = opened()
    lane.hand(handed(*(str(number) for number in range(2001))))
    assert not lane.is_complete
    assert names(lane) == []


def test_what_is_past_its_deadline_does_not_go() -> None:
    lane = opened()
    lane.hand([*handed("late", deadline_ms=10), *handed("now", deadline_ms=11), *handed("whenever")])
    assert names(lane, now_ms=10) == ["now", "whenever"]


def test_an_envelope_holds_so_many_commands() -> None:
    lane = opened()
    lane.limit = 2
    lane.hand(handed("a", "b", "c"))
    assert names(lane) == ["a", "b"]
    assert names(lane) == ["c"]


def test_an_envelope_holds_so_many_bytes_and_one_command_at_least() -> None:
    lane = opened()
    lane.hand([Handed(command(name, MAX_ITEMS_BYTES // 2)) for name in "abc"])
    lane.hand([Handed(command("d", MAX_ITEMS_BYTES))])
    assert [names(lane) for _ in range(4)] == [["a"], ["b"], ["c"], ["d"]]


def test_a_lane_is_idle_when_all_that_waited_was_handed_over_and_is_gone() -> None:
    lane = opened()
    seen = [lane.is_idle]
    for happens in (lambda: lane.hand(handed("a")), lambda: names(lane), lane.look):
        happens()
        seen.append(lane.is_idle)
    assert seen == [True, False, True, False]


async def test_half_of_many_goes_where_nothing_else_is_going_on() -> None:
    lane = opened()
    recorded = asyncio.Event()

    async def recording() -> None:
        await recorded.wait()

    lane.hand(handed(*(str(number) for number in range(200))))
    assert len(names(lane)) == 100
    await lane.record(recording())
    lane.hand(handed(*(str(number) for number in range(200, 250))))
    assert len(names(lane)) == 150
    recorded.set()
    await lane.recorded()


async def test_answers_are_recorded_one_after_the_other() -> None:
    lane, order = opened(), list[str]()
    first_may_end = asyncio.Event()

    async def first() -> None:
        await first_may_end.wait()
        order.append("first")

    async def second() -> None:
        order.append("second")

    await lane.record(first())
    waiting = asyncio.create_task(lane.record(second()))
    await asyncio.sleep(0)
    assert not waiting.done()
    first_may_end.set()
    await waiting
    await lane.recorded()
    assert order == ["first", "second"]


async def test_what_could_not_be_recorded_is_told_to_the_next_and_ends_it() -> None:
    lane = opened()

    async def failing() -> None:
        raise Unavailable("Valkey is away")

    async def never() -> None:
        raise AssertionError

    await lane.record(failing())
    with pytest.raises(Unavailable, match="Valkey is away"):
        await lane.record(never())
    await lane.recorded()
