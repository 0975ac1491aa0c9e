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
from common.keyring import Keyring
from common.peers import LOCAL_TENANT, Trust
from common.tracing import Tracing
from spoke.agent_spans import AgentSpans
from spoke.answers import Answers
from spoke.attendant import Attendant
from spoke.current_launcher import CurrentLauncher
from spoke.git import Git
from spoke.janitor import Janitor, Keep
from spoke.launching import Launcher
from spoke.node import Spoke
from spoke.occupancy import Occupancy
from spoke.patches import Patches
from spoke.policy import LOCAL_POLICY
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
    """What works on agents; `limits` are those under which tenants' agents start now, `runs` are read by others too."""

    commands: StoredCommands
    limits: Callable[[], Mapping[str, int]]
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
    keyring: Callable[[], Keyring],
    trust: Callable[[], Trust],
    sup: Supervisor,
    name: str,
    tracing: Tracing,
) -> AgentParts:
    """Build them for the worker `name`, empty for the node's own; raises LocalError `config`."""
    directory, clock = spoke.directory, SystemClock()
    commands = StoredCommands(spoke.me.instance, keyring, trust, spoke.policy_of)
    limits = _limits(spoke, trust)
    runs, occupancy = Runs(directory.runs), Occupancy(directory.path)
    groups = _groups() if spoke.settings.limits.cgroup == "auto" else None
    launcher = CurrentLauncher(_launcher(spoke, spoke.settings, groups))
    workspaces = Workspaces(directory.workspaces, git=Git(dict(os.environ)), ignored=launcher.ignored_files)
    patches = Patches(runs, workspaces)
    spans = AgentSpans(tracing, spoke.me.instance)
    attendant = Attendant(queue, commands, workspaces, sup, runs, launcher, clock, spans=spans)
    node, life = _place(directory.path, name), clock.new_id()
    worker = Worker(queue, attendant, limits, node=node, life=life, occupancy=occupancy)
    keep = _keep(spoke.settings.limits)
    janitor = Janitor(queue, runs, workspaces, sup, occupancy, clock, keep)
    answers, remake = Answers(runs, patches), partial(_launcher, spoke, groups=groups)
    return AgentParts(commands, limits, runs, worker, janitor, launcher, answers, remake)


def _limits(spoke: Spoke, trust: Callable[[], Trust]) -> Callable[[], Mapping[str, int]]:
    """Return what says whose agents may start now and how many at once: a peer that is not active starts none."""

    def limits() -> Mapping[str, int]:
        active = (peer for peer in trust().peers() if peer.state == "active" and peer.kind == "hub")
        return {**{peer.tenant: spoke.policy_of(peer).agents for peer in active}, LOCAL_TENANT: LOCAL_POLICY.agents}

    return limits


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


def _place(directory: Path, worker: str) -> str:
    """Name the directory for leases, by its inode number, which a copy of it does not share; and the worker there."""
    place = f"{os.uname().nodename}-{directory.stat().st_ino}"
    return f"{place}/{worker}" if worker else place
