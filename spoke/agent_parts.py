"""The part of the composition root that deals with agents: from the directory to the worker and the janitor."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from common.clock import SystemClock
from spoke.answers import Answers
from spoke.attendant import Attendant
from spoke.current_launcher import CurrentLauncher
from spoke.git import Git
from spoke.janitor import Janitor, Keep
from spoke.launching import Launcher
from spoke.metrics import Metrics
from spoke.node import Spoke
from spoke.occupancy import Occupancy
from spoke.patches import Patches
from spoke.queue import Queue
from spoke.runs import Runs
from spoke.settings import LimitsSection, SpokeSettings
from spoke.stored_command import StoredCommands
from spoke.supervision import cgroup
from spoke.supervision.supervisor import Supervisor
from spoke.worker import Worker
from spoke.workspace import Workspaces

_log: Final = structlog.get_logger("spoke")
_DAY_MS: Final = 24 * 3600 * 1000
_GIB: Final = 1024**3


@dataclass(frozen=True, slots=True)
class AgentParts:
    """What works on agents; `runs` are read by others too."""

    runs: Runs
    worker: Worker
    janitor: Janitor
    launcher: CurrentLauncher
    answers: Answers
    remake: Callable[[SpokeSettings], Launcher]

    def prepare(self, settings: SpokeSettings) -> Callable[[], None]:
        """Return what has them work with these settings; raises LocalError `config`, and nothing has changed."""
        launcher = self.remake(settings)

        def adopt() -> None:
            self.launcher.replace(launcher)
            self.janitor.keep = _keep(settings.limits)

        return adopt


def agent_parts(
    spoke: Spoke,
    queue: Queue,
    commands: StoredCommands,
    sup: Supervisor,
    limits: Callable[[], Mapping[str, int]],
    metrics: Metrics,
) -> AgentParts:
    """Build them; `limits` are those under which tenants' agents start now. Raises LocalError `config`."""
    directory, clock = spoke.directory, SystemClock()
    runs, occupancy = Runs(directory.runs), Occupancy()
    workspaces = Workspaces(directory.workspaces, git=Git(dict(os.environ)))
    groups = _groups() if spoke.settings.limits.cgroup == "auto" else None
    launcher = CurrentLauncher(_launcher(spoke, spoke.settings, groups))
    patches = Patches(runs, workspaces)
    attendant = Attendant(queue, commands, workspaces, sup, runs, launcher, clock)
    name, life = _name(directory.path), clock.new_id()
    worker = Worker(
        queue,
        attendant,
        limits,
        node=name,
        life=life,
        occupancy=occupancy,
        lost=lambda cause: metrics.leases_lost.labels(cause).inc(),
    )
    keep = _keep(spoke.settings.limits)
    janitor = Janitor(queue, runs, workspaces, sup, occupancy, clock, keep)
    remake = partial(_launcher, spoke, groups=groups)
    return AgentParts(runs, worker, janitor, launcher, Answers(runs, patches), remake)


def _launcher(spoke: Spoke, settings: SpokeSettings, groups: Path | None) -> Launcher:
    return Launcher(settings.agents, os.environ, settings.limits.log_mib, directory=spoke.directory.path, groups=groups)


def _groups() -> Path | None:
    """Return where the agents' control groups go, None where none were delegated to us."""
    base = cgroup.find_delegated()
    if base is None:
        return None
    try:
        agents = cgroup.prepare(base)
    except OSError as error:
        _log.warning("cgroup.not_used", path=str(base), reason=error.strerror)
        return None
    _log.info("cgroup.used", path=str(agents))
    return agents


def _keep(limits: LimitsSection) -> Keep:
    return Keep(limits.retention_days * _DAY_MS, limits.mirror_days * _DAY_MS, int(limits.disk_gib * _GIB))


def _name(directory: Path) -> str:
    """Name the directory for leases: its inode number, which a copy of the directory does not share."""
    return f"{os.uname().nodename}-{directory.stat().st_ino}"
