"""How many bodies of one address are waited for (attack rows 43, 64)."""

from __future__ import annotations

import asyncio

import pytest

from common import listener
from tests.integration.common.conftest import TYPE, Dial, Line, Taken, good, post
from tests.spoke_node import eventually

SLOW = post(b"a", TYPE, b"Content-Length: 2")
LIMIT = 8


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MAX_BODIES_PER_ADDRESS", LIMIT)


async def slow(url: str, dial: Dial, count: int) -> list[Line]:
    """Begin requests whose body does not come, one after the other."""
    lines = [await dial(url) for _ in range(count)]
    for line in lines:
        await line.send(SLOW)
    return lines


async def status(line: Line, raw: bytes = good()) -> int:
    await line.send(raw)
    return int((await line.answer()).split()[1])


@pytest.mark.attack(43)
async def test_one_more_is_refused_at_once_and_others_are_served(url: str, dial: Dial, taken: Taken) -> None:
    waiting = await slow(url, dial, LIMIT)

    async def is_full() -> bool:
        return await status(await dial(url), SLOW) == 429

    async with asyncio.timeout(5):
        assert await eventually(is_full, "the limit is reached", 5)
    # A body that is there already is not waited for, and another address has bodies of its own.
    assert await status(await dial(url)) == 200
    assert await status(await dial(url, "127.0.0.2"), SLOW[:-1] + b"ab") == 200
    (other,) = [await dial(url, "127.0.0.2")]
    await other.send(SLOW)
    await other.send(b"b")
    assert b" 200 " in await other.answer()
    await waiting[0].send(b"b")
    assert b" 200 " in await waiting[0].answer()
    (again,) = await slow(url, dial, 1)
    await again.send(b"b")
    assert b" 200 " in await again.answer()
    assert taken.count(b"ab") == 5


async def test_a_connection_that_breaks_is_not_counted_any_more(url: str, dial: Dial) -> None:
    for line in await slow(url, dial, LIMIT):
        line.abort()

    async def is_served() -> bool:
        (line,) = await slow(url, dial, 1)
        await line.send(b"b")
        return b" 200 " in await line.answer()

    await eventually(is_served, "the address is served again")
