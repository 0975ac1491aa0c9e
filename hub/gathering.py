"""Natural batching: while one batch is under way whatever else is wanted gathers, and goes together in the next.

With nothing under way an item goes at once: no timer, no added latency. The work belongs to `run`, a task of the node,
so that a caller that goes away takes nobody else's work along.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from common.errors import HubspokeError

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


class _Submitted(NamedTuple, Generic[_Item, _Answer]):
    """What one caller wants and where it waits for the answers."""

    items: Sequence[_Item]
    answers: asyncio.Future[Sequence[_Answer]]


class Gathering(Generic[_Item, _Answer]):
    """Calls `act` with what callers submitted, one call at a time, and hands each caller its own answers.

    As many callers at a time as have at most `most` items together; whoever has more goes in pieces, one by one.
    """

    def __init__(self, act: Callable[[Sequence[_Item]], Awaitable[Sequence[_Answer]]], most: int) -> None:
        self._act = act
        self._most = most
        self._waiting: deque[_Submitted[_Item, _Answer]] = deque()
        self._wanted = asyncio.Event()

    async def submit(self, items: Sequence[_Item]) -> Sequence[_Answer]:
        """Return the answers to `items`, in order; raises what `act` raised for a batch with one of them."""
        if len(items) <= self._most:
            return await self._submit(items) if items else []
        pieces = [items[at : at + self._most] for at in range(0, len(items), self._most)]
        return [answer for piece in pieces for answer in await self._submit(piece)]

    async def _submit(self, items: Sequence[_Item]) -> Sequence[_Answer]:
        submitted: _Submitted[_Item, _Answer] = _Submitted(items, asyncio.get_running_loop().create_future())
        self._waiting.append(submitted)
        self._wanted.set()
        return await submitted.answers

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._wanted.wait()
            batch = self._next()
            if not self._waiting:
                self._wanted.clear()
            await self._work_off(batch)

    def _next(self) -> list[_Submitted[_Item, _Answer]]:
        batch = [self._waiting.popleft()]
        room = self._most - len(batch[0].items)
        while self._waiting and (room := room - len(self._waiting[0].items)) >= 0:
            batch.append(self._waiting.popleft())
        return batch

    async def _work_off(self, batch: Sequence[_Submitted[_Item, _Answer]]) -> None:
        try:
            answers = await self._act([item for submitted in batch for item in submitted.items])
        except Exception as error:
            for submitted in batch:
                if not submitted.answers.done():
                    submitted.answers.set_exception(error)
            if not isinstance(error, HubspokeError):
                raise  # a defect: the node must not go on without this task
            return
        if len(answers) != sum(len(submitted.items) for submitted in batch):
            raise AssertionError("what was asked for and what was answered are not as many")
        at = 0
        for submitted in batch:
            following = at + len(submitted.items)
            if not submitted.answers.done():
                submitted.answers.set_result(answers[at:following])
            at = following
