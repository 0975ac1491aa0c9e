"""Tasks whose errors a TaskGroup must not wrap: what a task came to is its value, and raised where it is wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from common.errors import HubspokeError
from spoke.held import KilledBeforeStart, LeaseLost

_T = TypeVar("_T")


async def outcome_of(work: Awaitable[_T]) -> tuple[_T | None, BaseException | None]:
    """Return what `work` returned or raised, so that a TaskGroup does not wrap what the caller expects bare."""
    try:
        return await work, None
    except (HubspokeError, OSError, LeaseLost, KilledBeforeStart) as error:
        return None, error


def value_of(task: asyncio.Task[tuple[_T | None, BaseException | None]]) -> _T:
    """Return what an `outcome_of` holds, or raise it."""
    found, error = task.result()
    if error is not None:
        raise error
    return found  # type: ignore[return-value]  # None only beside an error, or because it is the value
