"""Closed-loop measurement: so many callers, each of whom starts its next call when the last one has returned.

Beside rate and latency stands what it cost: the processor time of this process and of every process below it. On a
machine that others use as well that is the steadier figure.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

WARM_UP_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Measured:
    """Calls per second, their latency in milliseconds, and the processor time of each process, in ms per call."""

    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms: Mapping[str, float]


def _name(process: psutil.Process, me: psutil.Process) -> str:
    """Return what a process is called in the table: its program, and whose it is unless it is ours."""
    if process == me:
        return "bench"
    script = Path([*process.cmdline(), "", ""][1]).name
    program = script if script in {"hub", "spoke"} else process.name()
    parent = process.parent()
    return program if parent is None or parent == me else f"{_name(parent, me)}'s {program}"


def processor_times() -> dict[str, float]:
    """Return the processor seconds that this process and those below it have used, by name."""
    me, found = psutil.Process(), defaultdict[str, float](float)
    for process in [me, *me.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[_name(process, me)] += times.user + times.system
    return found


async def measure(call: Callable[[], Awaitable[object]], in_flight: int, seconds: float) -> Measured:
    """Keep `in_flight` calls under way for a warm-up and then for `seconds`; only the latter count."""
    latencies: list[float] = []
    begin = time.perf_counter() + WARM_UP_S
    end = begin + seconds
    before: dict[str, float] = {}

    async def caller() -> None:
        while (started := time.perf_counter()) < end:
            await call()
            finished = time.perf_counter()
            if begin <= finished <= end:
                latencies.append(finished - started)

    async def note_start() -> None:
        await asyncio.sleep(WARM_UP_S)
        before.update(processor_times())

    await asyncio.gather(note_start(), *(caller() for _ in range(in_flight)))
    used = processor_times()
    cuts = statistics.quantiles(latencies, n=100)
    cpu_ms = {name: (used[name] - before.get(name, 0.0)) * 1000 / len(latencies) for name in used}
    return Measured(len(latencies) / seconds, cuts[49] * 1000, cuts[98] * 1000, cpu_ms)
