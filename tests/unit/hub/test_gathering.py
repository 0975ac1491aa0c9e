"""What is wanted while a batch is under way goes together in the next, and each caller has its own answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from common.errors import HubspokeError, Unavailable
from hub.gathering import Gathering


class Doubling:
    """Answers a number with its double, when `may_act` is set; notes what it was given at a time."""

    def __init__(self) -> None:
        self.may_act = asyncio.Event()
        self.batches: list[list[int]] = []
        self.failure: Exception | None = None

    async def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        await self.may_act.wait()
        if self.failure is not None:
            raise self.failure
        return [2 * number for number in numbers]


@asynccontextmanager
async def gathering(act: Doubling, most: int = 3) -> AsyncIterator[Gathering[int, int]]:
    gathers = Gathering[int, int](act, most)
    task = asyncio.create_task(gathers.run())
    try:
        yield gathers
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def submit(gathers: Gathering[int, int], *numbers: int) -> asyncio.Task[Sequence[int]]:
    task = asyncio.create_task(_submit(gathers, numbers))
    await asyncio.sleep(0.01)
    return task


async def _submit(gathers: Gathering[int, int], numbers: Sequence[int]) -> Sequence[int]:
    return await gathers.submit(numbers)


async def test_what_is_too_much_at_once_goes_in_pieces_and_others_between_them() -> None:
    act = Doubling()
    async with gathering(act) as gathers:
        many, one = await submit(gathers, *range(8)), await submit(gathers, 9)
        act.may_act.set()
        assert [*await asyncio.gather(many, one)] == [[2 * number for number in range(8)], [18]]
        assert max(map(len, act.batches)) == 3
        assert act.batches[1] == [9]


async def test_fewer_answers_than_asked_for_are_a_defect() -> None:
    async def forgets(_: Sequence[int]) -> list[int]:
        return []

    gathers = Gathering[int, int](forgets, 3)
    waits = await submit(gathers, 1)
    with pytest.raises(AssertionError, match="not as many"):
        await gathers.run()
    waits.cancel()


async def test_one_goes_at_once_and_what_gathers_meanwhile_goes_together() -> None:
    act = Doubling()
    async with gathering(act) as gathers:
        callers = [await submit(gathers, *numbers) for numbers in [(1,), (2,), (3, 4), (5,)]]
        assert act.batches == [[1]]
        act.may_act.set()
        assert await asyncio.gather(*callers) == [[2], [4], [6, 8], [10]]
        assert act.batches == [[1], [2, 3, 4], [5]]


async def test_nobody_is_split_who_does_not_want_more_than_that() -> None:
    act = Doubling()
    async with gathering(act) as gathers:
        callers = [await submit(gathers, *numbers) for numbers in [(0,), (1, 2), (3, 4), (5, 6, 7), (9,)]]
        act.may_act.set()
        await asyncio.gather(*callers)
        assert act.batches == [[0], [1, 2], [3, 4], [5, 6, 7], [9]]


async def test_who_wants_nothing_does_not_wait() -> None:
    act = Doubling()
    async with gathering(act) as gathers:
        assert await gathers.submit([]) == []
    assert not act.batches


async def test_one_who_goes_away_takes_nobody_along() -> None:
    act = Doubling()
    async with gathering(act) as gathers:
        gone, stays = await submit(gathers, 1), await submit(gathers, 2)
        gone.cancel()
        act.may_act.set()
        assert await stays == [4]
        assert gone.cancelled()


@pytest.mark.parametrize("leaves", [False, True])
async def test_what_fails_fails_for_all_of_the_batch_and_not_for_the_next(leaves: bool) -> None:
    act = Doubling()
    act.failure = Unavailable("not now")
    async with gathering(act) as gathers:
        caller = await submit(gathers, 1)
        if leaves:
            caller.cancel()
        act.may_act.set()
        with pytest.raises(asyncio.CancelledError if leaves else HubspokeError):
            await caller
        act.failure = None
        assert await gathers.submit([2]) == [4]


async def test_a_defect_ends_the_task_and_is_told_to_who_waits() -> None:
    act = Doubling()
    act.failure = ZeroDivisionError()
    act.may_act.set()
    gathers = Gathering[int, int](act, 3)
    task = asyncio.create_task(gathers.run())
    with pytest.raises(ZeroDivisionError):
        await gathers.submit([1])
    with pytest.raises(ZeroDivisionError):
        await task
