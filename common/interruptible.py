"""Running a conversation from a command line so that Ctrl-C ends it whatever happens below."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what the coroutine returns, as `asyncio.run` does; a Ctrl-C meanwhile is a KeyboardInterrupt.

    `asyncio.run` cancels its task for it, and what is being awaited may forget that, as the closing of a connection
    does now and then: then the command would go on as if nobody had asked it to stop.
    """
    return asyncio.run(_heeding(coroutine))


async def _heeding(coroutine: Coroutine[Any, Any, T]) -> T:
    result = await coroutine
    _check_wanted()
    return result


def _check_wanted() -> None:
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
