"""Agents for these tests, as small real programs, and waiting for a condition with a deadline."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from spoke.supervision.run_dir import LaunchSpec

PATH: Final = "/usr/local/bin:/usr/bin:/bin"

ESCAPE: Final = """
import os, signal, sys, time
def escape():
    os.setsid()
    if os.fork():
        os._exit(0)
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open("escaped.tmp", "w") as file:
        file.write(str(os.getpid()))
    os.rename("escaped.tmp", "escaped")
    time.sleep(1000)
if os.fork() == 0:
    escape()
while not os.path.exists("escaped"):
    time.sleep(0.005)
"""
"""Double fork, setsid, another group, SIGTERM ignored; what follows runs in the main process once all that is done."""

HOP: Final = """
import os, signal, sys
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("hopping", flush=True)
    while True:
        if os.fork():
            os._exit(0)
        os.setsid()
signal.pause()
"""
"""One process that is never the same for longer than a fork takes, each time in a new session."""

ORPHANS: Final = """
import os, signal
for _ in range(50):
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    os.wait()
print("orphaned", flush=True)
signal.pause()
"""
"""Leaves fifty orphans that end at once, for somebody else to reap."""


def shell(script: str, cwd: Path, **spec: Any) -> LaunchSpec:
    """Return a spec that runs `script` by sh in `cwd`."""
    return program(("/bin/sh", "-c", script), cwd, **spec)


def python(script: str, cwd: Path, **spec: Any) -> LaunchSpec:
    """Return a spec that runs `script` by a Python without site packages in `cwd`."""
    return program((sys.executable, "-I", "-S", "-c", script), cwd, **spec)


def program(argv: tuple[str, ...], cwd: Path, **spec: Any) -> LaunchSpec:
    """Return a spec that runs `argv` with nothing but a PATH in `cwd`."""
    settings = {"env": {"PATH": PATH}, "timeout_s": 60.0, "grace_s": 10.0, **spec}
    return LaunchSpec(argv=argv, cwd=str(cwd), **settings)


async def until(condition: Callable[[], object], deadline_s: float = 20.0) -> None:
    """Return when `condition` holds; fails the test after the deadline."""
    give_up_at = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < give_up_at, "the condition did not come true in time"
        await asyncio.sleep(0.005)


def says(run_dir: Path, word: str) -> Callable[[], bool]:
    """Return a condition: the agent's log holds `word`."""
    log = run_dir / "log"
    return lambda: log.exists() and word.encode() in log.read_bytes()
