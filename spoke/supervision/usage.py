"""How much memory and how many tasks an agent uses, for limits that no control group keeps.

Measured from outside, so an agent can be over its limit for as long as lies between two looks. Memory is counted as
the kernel would divide it: what processes share counts once (PSS), read only when the cheap sum says that it may be
too much. Standard library only: the keeper imports it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from spoke.supervision import linux
from spoke.supervision.course import Excess
from spoke.supervision.run_dir import Limits

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_KIB: Final = 1024


def find_excess(keeper_pid: int, limits: Limits) -> tuple[Excess, str] | None:
    """Return (`oom` | `processes`, what was measured) when the descendants of the keeper use more than they may."""
    found = linux.descendants_of(keeper_pid)
    tasks = sum(stat.threads for stat in found.values() if stat.state != "Z")
    if limits.tasks is not None and tasks > limits.tasks:
        return "processes", f"{tasks} processes and threads, {limits.tasks} are allowed"
    if (
        limits.memory_bytes is None
        or sum(stat.rss_pages for stat in found.values()) * _PAGE_BYTES <= limits.memory_bytes
    ):
        return None
    used = sum(_share(process, stat) for process, stat in found.items())
    if used <= limits.memory_bytes:
        return None
    return "oom", f"{used >> 20} MiB of memory, {limits.memory_bytes >> 20} MiB are allowed"


def _share(process: linux.Process, stat: linux.ProcessStat) -> int:
    """Return the proportional share of one process; where it cannot be read, all that it has in memory."""
    try:
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * _KIB
    except OSError:  # another user's, or ended just now
        return stat.rss_pages * _PAGE_BYTES
    return 0


def tasks_of_user() -> int:
    """Return how many processes and threads our user has now: RLIMIT_NPROC counts all of them together."""
    me = os.getuid()
    total = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := linux.stat_of(int(entry.name))) is not None:
            try:
                total += stat.threads if entry.stat().st_uid == me else 0
            except OSError:  # ended just now
                continue
    return total
