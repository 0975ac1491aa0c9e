"""Natural batching: while one batch is under way whatever else is wanted gathers, and goes together in the next.

With nothing under way an item goes at once: no timer, no added latency. The work belongs to `run`, a task of the node,
so that a caller that goes away takes nobody else's work along.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from common.errors import HubspokeError

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


class Gathering(Generic[_Item, _Answer]):
    """Calls `act` with at most `most` items at a time, one call at a time, and hands each caller its own answer."""

    def __init__(self, act: Callable[[Sequence[_Item]], Awaitable[Sequence[_Answer]]], most: int) -> None:
        self._act = act
        self._most = most
        self._waiting: list[tuple[_Item, asyncio.Future[_Answer]]] = []
        self._wanted = asyncio.Event()

    async def submit(self, items: Sequence[_Item]) -> list[_Answer]:
        """Return the answers to `items`, in order; raises what `act` raised for their batch."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[_Answer]] = [loop.create_future() for _ in items]
        self._waiting.extend(zip(items, futures, strict=True))
        self._wanted.set()
        return await asyncio.gather(*futures)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._wanted.wait()
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            if not self._waiting:
                self._wanted.clear()
            await self._work_off(batch)

    async def _work_off(self, batch: Sequence[tuple[_Item, asyncio.Future[_Answer]]]) -> None:
        try:
            answers = await self._act([item for item, _ in batch])
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            if not isinstance(error, HubspokeError):
                raise  # a defect: the node must not go on without this task
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)
