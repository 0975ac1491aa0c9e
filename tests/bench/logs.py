"""`make bench-logs`: what great logs cost: memory of every part at its peak, and how fast they are written and read.

A real hub and a real spoke; an agent prints so much, then the command line reads it through the federation. Printed for
each: how long the agent took, how fast `hub logs` printed it, and the peak of the resident memory of the agent's
keeper, the spoke, the hub and the command line (VmHWM; what they had before is in the first line).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.integration.hub.hub_node import HUB
from tests.integration.link.pair import Pair, linked
from tests.spoke_node import tables

PROGRAM: Final = Path(__file__).with_name("flood.py")
_ROW: Final = "{:<22}{:>9}{:>12}{:>12}{:>10}{:>10}{:>10}{:>10}"


def peak_mib(pid: int) -> float:
    """Return the greatest resident memory that a process has had, in MiB; 0 when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return 0.0


async def keeper_peak(pair: Pair, agent_id: str, over: asyncio.Event) -> float:
    """Return the peak of an agent's keeper, looked at until the agent is over."""
    peak = 0.0
    while not over.is_set():
        for file in pair.spoke.directory.glob(f"runs/*/{agent_id}/1/keeper.json"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                peak = max(peak, peak_mib(int(json.loads(file.read_text())["pid"])))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await over.wait()
    return peak


def read_log(pair: Pair, agent_id: str, most_mib: int) -> tuple[float, float, float]:
    """Read so much by the command line; returns seconds, MiB that it printed, and its peak in MiB."""
    started, taken, peak = time.monotonic(), 0, 0.0
    command = [str(HUB), "--dir", str(pair.hub.directory), "logs", agent_id, "--raw"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as reading:
        assert reading.stdout is not None
        while taken < most_mib * 1024 * 1024 and (piece := reading.stdout.read(1024 * 1024)):
            taken, peak = taken + len(piece), max(peak, peak_mib(reading.pid))
        reading.stdout.close()
    return time.monotonic() - started, taken / 1024 / 1024, peak


async def measure(pair: Pair, item: str, most_mib: int) -> None:
    """Let an agent print, read it, and tell."""
    started, over = time.monotonic(), asyncio.Event()
    agent_id = await pair.spawn(item)
    looking = asyncio.create_task(keeper_peak(pair, agent_id, over))
    await pair.until(agent_id, "completed")
    wrote_s = time.monotonic() - started
    over.set()
    read_s, read_mib, peak = await asyncio.to_thread(read_log, pair, agent_id, most_mib)
    mib = int(item.split()[1])
    print(
        _ROW.format(
            item, f"{wrote_s:.1f} s", f"{mib / wrote_s:.0f} MiB/s", f"{read_mib / read_s:.0f} MiB/s",
            f"{await looking:.0f}", f"{peak_mib(pair.spoke.pid):.0f}", f"{peak_mib(pair.hub.pid):.0f}", f"{peak:.0f}",
        ),
        flush=True,
    )  # fmt: skip


async def run(scratch: Path, gib: int) -> None:
    """Measure and print the table."""
    agent = {"profile": "command", "command": [sys.executable, "-I", "-S", str(PROGRAM)], "env": []}
    toml = tables(**{"agents.worker": agent, "agents.worker.limits": {"log_mib": gib * 1100}})
    async with linked(scratch, toml) as pair:
        print(_ROW.format("printed", "in", "written", "read", "keeper", "spoke", "hub", "hub logs"))
        before = f"{peak_mib(pair.spoke.pid):.0f}", f"{peak_mib(pair.hub.pid):.0f}"
        print(_ROW.format("nothing", "", "", "", "", *before, ""), flush=True)
        for item in ("lines 64", "line 100", "bytes 64", "ansi 64", f"lines {gib * 1024}"):
            await measure(pair, item, most_mib=512)


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="make bench-logs", description=__doc__)
    parser.add_argument("--gib", type=int, default=5, help="the size of the greatest log")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hubspoke-logs-", dir=os.environ.get("TMPDIR")) as scratch:
        asyncio.run(run(Path(scratch), options.gib))


if __name__ == "__main__":
    main()
