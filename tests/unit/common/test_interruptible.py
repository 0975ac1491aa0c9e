from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress

import pytest

from common.interruptible import run_async


async def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(10)


async def _forget() -> str:
    with suppress(asyncio.CancelledError):
        await _interrupt()
    return "as if nothing had been asked"


async def _go_on() -> str:
    with suppress(TimeoutError):
        async with asyncio.timeout(0):
            await asyncio.sleep(10)
    return "done"


@pytest.mark.parametrize("forgetful", [False, True])
def test_ctrl_c_ends_what_runs_also_where_something_below_forgets_it(forgetful: bool) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_async(_forget() if forgetful else _interrupt())


def test_what_ended_by_a_time_limit_is_no_interruption() -> None:
    assert run_async(_go_on()) == "done"


async def _answer() -> int:
    return 7


def test_what_a_coroutine_returns_is_returned() -> None:
    assert run_async(_answer()) == 7
