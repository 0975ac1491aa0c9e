"""`make bench-starts`: from a start to the first instruction of the agent, beside what starts programs without us.

The agent is a shell that writes one byte into a FIFO; the time is taken when that byte comes. Measured in one run:

- bare: `asyncio.create_subprocess_exec` of the same program;
- celery: a task, signed, that runs the same program, sent to a worker of 16 processes by a Valkey as durable as ours;
- nursery: `Supervisor.start`, with a run directory, a durable launch record, a keeper and a log of its own, until the
  ending is recorded; also with a limit of its own, which takes a fork, and with the run directories in memory, for what
  the disk adds;
- a workspace, cold (its repository was never seen) and warm, beside plain `git clone` and `git worktree add`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from common.clock import SystemClock
from common.embedded_valkey import EmbeddedValkey
from common.repository import parse_repository
from spoke.git import Git
from spoke.supervision.cgroup import parse_own_group
from spoke.supervision.run_dir import LaunchSpec, Limits
from spoke.supervision.supervisor import Supervisor
from spoke.workspace import Workspaces
from tests.bench.celery_app import DIRECTORY, application, make_key
from tests.integration.spoke.repositories import make_repository

MOST: Final = 16
"""Starts under way at once, at most."""
_ROW: Final = "{:<34}{:>10}{:>12}{:>10}{:>10}{:>10}{:>10}"
_ROUNDS: Final = 6
"""Everything is measured in turn: what other programs do at one time then falls on all."""
_FILES: Final = 200
_UNLIMITED: Final = Limits()
_MEMORY: Final = Path("/dev/shm")


@dataclass
class Gate:
    """A FIFO in which each agent tells that it runs; `arrivals` are the times by its number."""

    path: Path
    arrivals: dict[int, float] = field(default_factory=dict)
    waiting: dict[int, asyncio.Event] = field(default_factory=dict)

    def open(self) -> None:
        """Listen."""
        os.mkfifo(self.path)
        self._fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def close(self) -> None:
        """Listen no more."""
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    def _read(self) -> None:
        now = time.perf_counter()
        for line in os.read(self._fd, 65536).split():
            self.arrivals[int(line)] = now
            self.waiting.setdefault(int(line), asyncio.Event()).set()

    def argv(self, number: int) -> tuple[str, ...]:
        """Return the program that tells it."""
        return ("/bin/sh", "-c", f"echo {number} > {self.path}")

    async def came(self, number: int) -> float:
        """Wait for it."""
        await self.waiting.setdefault(number, asyncio.Event()).wait()
        return self.arrivals[number]


Start = Callable[[int], Awaitable[None]]


@dataclass
class Line:
    """What was measured of one way of starting: latencies in ms, starts a second by round, processor time in ms."""

    start: Start
    latencies: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu_ms: float = 0.0

    def cells(self, at_once: int, base: Line) -> list[str]:
        """Return what is printed of it, beside `base`."""
        ordered = sorted(self.latencies)
        p50, p99 = statistics.median(ordered), ordered[int(len(ordered) * 0.99) - 1]
        ratio = p50 / statistics.median(base.latencies)
        rate, cpu_ms = statistics.median(self.rates), self.cpu_ms / len(ordered)
        return [str(at_once), f"{rate:.0f}", f"{p50:.2f}", f"{p99:.2f}", f"{ratio:.1f}", f"{cpu_ms:.2f}"]


class Meter:
    """Counts the processor time of this process and all that come of it, in a control group: keepers are no children.

    Where none can be made, it says nothing (NaN).
    """

    def __init__(self) -> None:
        own = parse_own_group(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
        self._own = Path(os.devnull) if own is None else own[0]
        self._group = self._own / f"hubspoke-bench-{os.getpid()}"

    def __enter__(self) -> Self:
        with suppress(OSError):
            self._group.mkdir()
            (self._group / "cgroup.procs").write_text("0")
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            (self._own / "cgroup.procs").write_text("0")
            self._group.rmdir()

    def read_ms(self) -> float:
        """Return what was used so far, in ms."""
        with suppress(OSError):
            return int((self._group / "cpu.stat").read_text().split()[1]) / 1000
        return math.nan


async def measure(gate: Gate, meter: Meter, line: Line, numbers: range, at_once: int) -> None:
    """Add one round to the line: a start is under way until its first instruction, the round until all have ended."""
    slots, endings = asyncio.Semaphore(at_once), []

    async def one(number: int) -> None:
        async with slots:
            began = time.perf_counter()
            endings.append(asyncio.ensure_future(line.start(number)))
            line.latencies.append((await gate.came(number) - began) * 1000)

    began, used_ms = time.perf_counter(), meter.read_ms()
    await asyncio.gather(*(one(number) for number in numbers))
    await asyncio.gather(*endings)
    line.rates.append(len(numbers) / (time.perf_counter() - began))
    line.cpu_ms += meter.read_ms() - used_ms


class CeleryWorker:
    """Has a worker of celery run programs; its client is no asyncio, so each call takes a thread."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def start(self, gate: Gate) -> Start:
        """Return what starts a program and waits until celery has taken the task, not for its end."""

        async def start(number: int) -> None:
            arguments = [list(gate.argv(number)), str(gate.path.parent)]
            await asyncio.to_thread(self._app.send_task, "start", args=arguments)

        return start


@asynccontextmanager
async def celery_worker(directory: Path) -> AsyncIterator[CeleryWorker]:
    """Run a worker with as many processes as starts are under way at most."""
    async with EmbeddedValkey(directory):
        make_key(directory)
        app = application(directory)
        command = ("-A", "tests.bench.celery_app", "worker", "--concurrency", str(MOST), "--loglevel", "ERROR")
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "celery", *command, "--without-gossip", "--without-mingle", "--without-heartbeat"),
            env={**os.environ, DIRECTORY: str(directory)},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            yield CeleryWorker(app)
        finally:
            worker.terminate()
            await worker.wait()
            app.close()


async def compare(gate: Gate, meter: Meter, starts: Mapping[str, Start], count: int) -> None:
    """Measure all of them in turn, one at a time and many at once, and print it."""
    numbers = itertools.count(0, 2 * MOST + count)
    for start in starts.values():  # what is started for the first time, celery's processes too, takes longer
        first = next(numbers)
        await measure(gate, meter, Line(start), range(first, first + 2 * MOST), MOST)
    for at_once in (1, MOST):
        lines = {name: Line(start) for name, start in starts.items()}
        for _ in range(_ROUNDS):
            for line in lines.values():
                first = next(numbers)
                await measure(gate, meter, line, range(first, first + max(1, count // _ROUNDS)), at_once)
        for name, line in lines.items():
            print(_ROW.format(name, *line.cells(at_once, lines["bare"])))


async def run(scratch: Path, count: int) -> None:
    """Measure and print the table."""
    gate = Gate(scratch / "gate")
    gate.open()
    print(_ROW.format("start", "at once", "per second", "p50 ms", "p99 ms", "of bare", "CPU ms"))
    async with AsyncExitStack() as stack:
        meter = stack.enter_context(Meter())
        supervisor = await stack.enter_async_context(Supervisor())
        celery = await stack.enter_async_context(celery_worker(scratch / "celery"))

        async def bare(number: int) -> None:
            process = await asyncio.create_subprocess_exec(*gate.argv(number), cwd=scratch)
            await process.wait()

        def nursery(runs: Path, limits: Limits = _UNLIMITED) -> Start:
            async def start(number: int) -> None:
                directory = runs / str(number)
                directory.mkdir(parents=True)
                env = {"PATH": os.defpath}
                spec = LaunchSpec(gate.argv(number), cwd=str(scratch), env=env, timeout_s=60, limits=limits)
                await supervisor.start(directory, spec)
                await supervisor.wait(directory)

            return start

        starts = {"bare": bare, "celery": celery.start(gate), "nursery": nursery(scratch / "runs")}
        if _MEMORY.is_dir():
            memory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hubspoke-starts-", dir=_MEMORY)))
            starts["nursery, runs in memory"] = nursery(memory)
            starts["the same, with limits"] = nursery(memory, Limits(nofile=100))
        await compare(gate, meter, starts, count)
        print(f"to make a file here takes {_file_ms(scratch / 'runs'):.2f} ms, in memory {_file_ms(_MEMORY):.2f}")
    gate.close()
    await workspaces(scratch, 20)


def _file_ms(directory: Path) -> float:
    """Return the processor time that it takes to make an empty file, in ms; a start makes six."""
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        began = time.process_time()
        for number in range(_FILES):
            Path(scratch, str(number)).touch()
        return (time.process_time() - began) / _FILES * 1000


async def workspaces(scratch: Path, count: int) -> None:
    """Measure what making a workspace costs beside git alone, and print it."""
    origin = make_repository(scratch / "origin")
    repository = parse_repository(origin.as_uri())
    git, clock = Git(os.environ), SystemClock()
    warm = Workspaces(scratch / "warm", git=git)
    await warm.prepare("bench_1", clock.new_id(), repository, "main")
    clone = scratch / "clone"
    await git.run("clone", "--quiet", origin, clone, timeout_s=60, transport="file")

    async def ours_cold(number: int) -> None:
        cold = Workspaces(scratch / f"cold-{number}", git=git)
        await cold.prepare("bench_1", clock.new_id(), repository, "main")

    async def ours_warm(_: int) -> None:
        await warm.prepare("bench_1", clock.new_id(), repository, "main")

    async def git_clone(number: int) -> None:
        await git.run("clone", "--quiet", origin, scratch / f"clone-{number}", timeout_s=60, transport="file")

    async def git_worktree(number: int) -> None:
        add = ("worktree", "add", "--quiet", "-b", f"b{number}", scratch / f"tree-{number}")
        await git.run("-C", clone, *add, timeout_s=60)

    for name, make, beside in (("cold", ours_cold, git_clone), ("warm", ours_warm, git_worktree)):
        theirs, ours = [await _median_ms(each, count) for each in (beside, make)]
        print(_ROW.format(beside.__name__.replace("_", " "), 1, "", f"{theirs:.2f}", "", "1.0", ""))
        print(_ROW.format(f"workspace, {name}", 1, "", f"{ours:.2f}", "", f"{ours / theirs:.1f}", ""))


async def _median_ms(make: Start, count: int) -> float:
    times = []
    for number in range(count):
        began = time.perf_counter()
        await make(number)
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="make bench-starts", description=__doc__)
    parser.add_argument("--count", type=int, default=300, help="starts of each kind")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hubspoke-starts-") as scratch:
        asyncio.run(run(Path(scratch), options.count))


if __name__ == "__main__":
    main()
