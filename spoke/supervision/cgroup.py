"""Control groups, version 2: what the kernel limits and ends for an agent as a whole, where the spoke may have them.

Decides where agents' groups may lie: below the spoke's own group if that was delegated to it (a directory of our user,
systemd's mark, the root of a container's namespace), never where writing works only because we are root. Each limit
that a group cannot keep is handed back, to be kept by other means. Standard library only: the keeper imports it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

from spoke.supervision.run_dir import Limits

_CONTROLLERS: Final = ("memory", "pids")
_OURS: Final = "spoke"
"""The group of the spoke itself: one that has processes of its own cannot limit the groups below it."""
_AGENTS: Final = "agents"
_MARKS: Final = ("user.delegate", "trusted.delegate")  # systemd.resource-control(5), Delegate=
_MOUNT_ROOT: Final = 3
_MOUNT_POINT: Final = 4


class Cgroup:
    """The group of one agent at `path`; every method but `make` and `open_procs` is safe whatever has become of it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def make(self, limits: Limits) -> Limits:
        """Make the group and return the limits that it does not keep; raises OSError when there can be no group."""
        self._path.mkdir(exist_ok=True)
        if limits.memory_bytes is not None and _write(self._path / "memory.max", str(limits.memory_bytes)):
            # Swap would only postpone the end, and half an agent is worth nothing.
            _write(self._path / "memory.swap.max", "0")
            _write(self._path / "memory.oom.group", "1")
            limits = replace(limits, memory_bytes=None)
        if limits.tasks is not None and _write(self._path / "pids.max", str(limits.tasks)):
            limits = replace(limits, tasks=None)
        return limits

    def open_procs(self) -> int:
        """Return a descriptor; a process that writes `0` to it is in the group. Raises OSError."""
        return os.open(self._path / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)

    def kill(self) -> None:
        """Have the kernel SIGKILL all of the group at once, forks under way included (Linux 5.14)."""
        _write(self._path / "cgroup.kill", "1")

    def oom_kills(self) -> int:
        """Return how many processes of the group were killed for want of memory."""
        with suppress(OSError, ValueError):
            for line in (self._path / "memory.events").read_text().splitlines():
                name, _, number = line.partition(" ")
                if name == "oom_kill":
                    return int(number)
        return 0

    def remove(self) -> None:
        """Remove the group; one that is not empty stays."""
        with suppress(OSError):
            self._path.rmdir()


def _write(path: Path, text: str) -> bool:
    """Write to a control file; says whether it is there and took it."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)  # and not open(): that would create it
    except OSError:
        return False
    try:
        return os.write(fd, text.encode()) > 0
    except OSError:
        return False
    finally:
        os.close(fd)


def parse_own_group(cgroups: str, mounts: str) -> tuple[Path, bool] | None:
    """Return our group's directory and whether a namespace begins there, from /proc/self/{cgroup,mountinfo}.

    None where version 2 is not mounted, or our group lies outside of what is.
    """
    own = next((line[3:] for line in cgroups.splitlines() if line.startswith("0::")), None)
    if own is None:
        return None
    for line in mounts.splitlines():
        place, _, rest = line.partition(" - ")
        if rest.split(" ", 1)[0] == "cgroup2":
            root, point = place.split(" ")[_MOUNT_ROOT : _MOUNT_POINT + 1]
            if PurePosixPath(own).is_relative_to(root):
                return Path(point) / PurePosixPath(own).relative_to(root), own in ("/", f"/{_OURS}")
    return None


def find_delegated() -> Path | None:
    """Return the group that was delegated to this process, None when there is none."""
    try:
        found = parse_own_group(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
        if found is None:
            return None
        own, namespace = found
        base = own.parent if own.name == _OURS else own
        return base if is_delegated(base, namespace=namespace) else None
    except OSError:
        return None


def is_delegated(base: Path, *, namespace: bool) -> bool:
    """Say whether the group at `base` is ours to divide; the root of the whole hierarchy never is. Raises OSError."""
    if not (base / "cgroup.type").exists() or not os.access(base / "cgroup.procs", os.W_OK):
        return False
    owner = base.stat().st_uid
    return namespace or (owner == os.geteuid() != 0) or any(_has_mark(base, mark) for mark in _MARKS)


def _has_mark(base: Path, mark: str) -> bool:
    try:
        return os.getxattr(base, mark) == b"1"
    except OSError:
        return False


def prepare(base: Path) -> Path:
    """Make room for agents below a delegated group and return where their groups go; raises OSError.

    The processes of `base` itself, we among them, move into a group of their own beside the agents'.
    """
    ours = base / _OURS
    ours.mkdir(exist_ok=True)
    for pid in (base / "cgroup.procs").read_text().split():
        _write(ours / "cgroup.procs", pid)
    agents = base / _AGENTS
    _enable(base)
    agents.mkdir(exist_ok=True)
    _enable(agents)
    return agents


def _enable(group: Path) -> None:
    for controller in (group / "cgroup.controllers").read_text().split():
        if controller in _CONTROLLERS:
            _write(group / "cgroup.subtree_control", f"+{controller}")
