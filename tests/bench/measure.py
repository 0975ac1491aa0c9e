"""Closed-loop measurement: so many callers, each of whom starts its next call when the last one has returned."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

WARM_UP_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Measured:
    """Calls per second and their latency in milliseconds."""

    per_second: float
    p50_ms: float
    p99_ms: float


async def measure(call: Callable[[], Awaitable[object]], in_flight: int, seconds: float) -> Measured:
    """Keep `in_flight` calls under way for a warm-up and then for `seconds`; only the latter count."""
    latencies: list[float] = []
    begin = time.perf_counter() + WARM_UP_S
    end = begin + seconds

    async def caller() -> None:
        while (started := time.perf_counter()) < end:
            await call()
            finished = time.perf_counter()
            if begin <= finished <= end:
                latencies.append(finished - started)

    await asyncio.gather(*(caller() for _ in range(in_flight)))
    cuts = statistics.quantiles(latencies, n=100)
    return Measured(len(latencies) / seconds, cuts[49] * 1000, cuts[98] * 1000)
