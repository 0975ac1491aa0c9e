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
from spoke.answers import OwnDisk
from spoke.attendant import Attendant
from spoke.current_launcher import CurrentLauncher
from spoke.git import Git
from spoke.janitor import Janitor, Keep
from spoke.launching import Launcher
from spoke.machines.places import Places
from spoke.node import Spoke
from spoke.occupancy import Occupancy
from spoke.patches import Patches
from spoke.permission import OwnPermission, Permission
from spoke.policy import LOCAL_POLICY
from spoke.queue import Queue
from spoke.queue_coding import worker_prefix
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

    limits: Callable[[], Mapping[str, int]]
    runs: Runs
    occupancy: Occupancy
    worker: Worker
    janitor: Janitor
    launcher: CurrentLauncher
    disk: OwnDisk
    remake: Callable[[SpokeSettings], Launcher]

    def prepare(self, settings: SpokeSettings) -> Callable[[], None]:
        """Return what has them work with these settings; raises LocalError `config`, and nothing has changed."""
        launcher = self.remake(settings)

        def adopt() -> None:
            self.launcher.replace(launcher)
            self.janitor.keep = _keep(settings.limits)

        return adopt


@dataclass(frozen=True, slots=True)
class WorkerRole:
    """Which of a spoke's workers one is: its name, empty for the node's own, and the id of the machine that it is on.

    `machine` is empty for the node's own.
    """

    name: str = ""
    machine: str = ""


@dataclass(frozen=True, slots=True)
class Deciding:
    """Who decides: whether an attempt may start, and whose agents may start now and how many at once."""

    permission: Permission
    limits: Callable[[], Mapping[str, int]]


def own_deciding(spoke: Spoke, commands: StoredCommands, trust: Callable[[], Trust]) -> Deciding:
    """Return how the node itself decides, and the workers of its directory."""
    return Deciding(OwnPermission(commands, Places(spoke.directory.path)), _limits(spoke, trust))


def stored_commands(spoke: Spoke, keyring: Callable[[], Keyring], trust: Callable[[], Trust]) -> StoredCommands:
    """Return what proves stored commands by the node's own trust."""
    return StoredCommands(spoke.me.instance, keyring, trust, spoke.policy_of)


def agent_parts(
    spoke: Spoke,
    queue: Queue,
    deciding: Deciding,
    sup: Supervisor,
    role: WorkerRole,
    tracing: Tracing,
) -> AgentParts:
    """Build them for the node's own worker or another; raises LocalError `config`."""
    directory, clock, limits = spoke.directory, SystemClock(), deciding.limits
    runs, occupancy = Runs(directory.runs), Occupancy(directory.path)
    groups = _groups() if spoke.settings.limits.cgroup == "auto" else None
    launcher = CurrentLauncher(_launcher(spoke, spoke.settings, groups))
    workspaces = Workspaces(directory.workspaces, git=Git(dict(os.environ)), ignored=launcher.ignored_files)
    patches = Patches(runs, workspaces)
    spans = AgentSpans(tracing, spoke.me.instance)
    attendant = Attendant(queue, deciding.permission, workspaces, sup, runs, launcher, clock, spans=spans)
    node, life = _place(directory.path, role), clock.new_id()
    worker = Worker(queue, attendant, limits, node=node, life=life, occupancy=occupancy)
    keep = _keep(spoke.settings.limits)
    janitor = Janitor(queue, runs, workspaces, sup, occupancy, clock, keep)
    disk, remake = OwnDisk(runs, patches), partial(_launcher, spoke, groups=groups)
    return AgentParts(limits, runs, occupancy, worker, janitor, launcher, disk, remake)


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


def _place(directory: Path, role: WorkerRole) -> str:
    """Name the directory for leases, by its inode number, which a copy of it does not share; and the worker there."""
    place = f"{os.uname().nodename}-{directory.stat().st_ino}"
    named = f"{place}/{role.name}" if role.name else place
    return f"{worker_prefix(role.machine)}{named}" if role.machine else named
