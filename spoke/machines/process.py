"""The composition root of `spoke machine work`: a worker of a spoke on another machine, in a directory of its own.

It claims from the spoke's Valkey, and starts nothing without the node's word. What runs here goes on, and ends in the
store, while the node is away.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog
from aiohttp import ClientSession
from redis.asyncio import Redis

from common.configuration import EMBEDDED, ConfigError
from common.directory import exclusive
from common.errors import Malformed, Unavailable
from common.node_log import NodeLog
from common.post import open_session
from common.reloading import Reloading
from common.service_manager import ServiceManager
from common.signals import Signals
from common.valkey import connect, connect_blocking
from common.valkey_rights import check_server
from spoke.agent_parts import AgentParts, Deciding, WorkerRole, agent_parts
from spoke.machines.asking import NodesPermission
from spoke.machines.line import Line, Parties
from spoke.machines.registry import read_key
from spoke.machines.serving import MachineService
from spoke.machines.strays import Strays
from spoke.node import Spoke
from spoke.queue import Queue
from spoke.rights import rights_of
from spoke.runs import Runs
from spoke.settings import LIVE, MachineSection, SpokeSettings, load
from spoke.stopping import stop_in_time
from spoke.supervision.supervisor import Supervisor
from spoke.telling import Telling, open_telling

ID_FILE: Final = "machine.id"
_ID: Final = re.compile(r"[a-z0-9][a-z0-9.-]*_[0-9]+")
_log: Final = structlog.get_logger("machine")


class Identity:
    """Under which id the node knows this machine: asked of it once, and kept, since leases are named after it."""

    def __init__(self, directory: Path, changed: Callable[[], None]) -> None:
        self._path = directory / ID_FILE
        self._changed = changed
        self.known = asyncio.Event()
        self.id = ""
        with suppress(FileNotFoundError):
            # One that a power cut left empty would make this a worker of the node's own machine.
            if _ID.fullmatch(kept := self._path.read_text().strip()):
                self._take(kept)

    def _take(self, machine: str) -> None:
        self.id = machine
        self.known.set()

    def welcomed(self, machine: str) -> None:
        """Hear the node's word; another id than before is for the next life of this process. Raises `Malformed`."""
        if not _ID.fullmatch(machine):
            raise Malformed("the node's HELLO names no machine; use the same release on both")
        if machine == self.id:
            return
        half_written = self._path.with_suffix(".new")
        with half_written.open("w") as file:
            file.write(machine + "\n")
            file.flush()
            os.fsync(file.fileno())
        half_written.replace(self._path)
        if self.known.is_set():
            _log.error("machine.id_changed", machine=machine, reason="it was forgotten and added again; start it again")
            self._changed()
        else:
            self._take(machine)


@dataclass(frozen=True, slots=True)
class _Outside:
    """What is open outside of this process, and what ends with it."""

    client: Redis
    listener: Redis
    session: ClientSession
    supervisor: Supervisor
    telling: Telling


class _Machine:
    """Everything that a machine is made of; `agents` are there once its id is known."""

    def __init__(self, spoke: Spoke, section: MachineSection, outside: _Outside, signals: Signals) -> None:
        self._spoke = spoke
        self._section = section
        self._outside = outside
        self.identity = Identity(spoke.directory.path, signals.stop.set)
        self.queue = Queue(outside.client, section.spoke, spoke.bounds)
        parties = Parties(spoke.me.instance, spoke.key, section.spoke, section.node_url, read_key(section.node_key))
        self.line = Line(parties, outside.session, self._serve, self.identity.welcomed)
        self.agents: AgentParts | None = None
        self._service: MachineService | None = None

    async def _serve(self, what: str, about: dict[str, Any]) -> dict[str, Any]:
        if self._service is None:
            raise Unavailable("this machine has just begun")
        return await self._service.answer(what, about)

    def build(self) -> AgentParts:
        """Make what works on agents; the id is known."""
        outside, runs = self._outside, Runs(self._spoke.directory.runs)
        permission = NodesPermission(self.line, self._section.spoke, runs, outside.supervisor)
        deciding = Deciding(permission, self._limits)
        role = WorkerRole(machine=self.identity.id)
        self.agents = agent_parts(self._spoke, self.queue, deciding, outside.supervisor, role, outside.telling.tracing)
        self._service = MachineService(self.agents.disk, self.agents.runs)
        return self.agents

    def _limits(self) -> Mapping[str, int]:
        """Return whose agents may start here now: nobody's while the node is away, or there is no room."""
        rules = self.line.rules
        if rules is None or self.agents is None:
            return {}
        self.queue.bounds = replace(self._spoke.bounds, agents=rules.agents, retention_days=rules.retention_days)
        return rules.limits if self.agents.worker.load < self._spoke.settings.limits.agents else {}

    def prepare(self, settings: SpokeSettings) -> Callable[[], None]:
        """Return what has it work with these settings; raises LocalError `config`."""
        adopt_for_agents = self.agents.prepare(settings) if self.agents is not None else None

        def adopt() -> None:
            self._spoke.settings = settings
            if adopt_for_agents is not None:
                adopt_for_agents()

        return adopt


async def _listen(machine: _Machine, agents: AgentParts, listener: Redis) -> None:
    async for channel, message in machine.queue.messages(listener):
        agents.worker.heard(channel, message)


async def _work(machine: _Machine, outside: _Outside, signals: Signals, ready: Callable[[], None]) -> None:
    async with asyncio.TaskGroup() as group:
        stopping = group.create_task(signals.stop.wait())
        tasks = [group.create_task(machine.line.run()), group.create_task(ServiceManager.of(os.environ).run())]
        known = group.create_task(machine.identity.known.wait())
        await asyncio.wait({stopping, known}, return_when=asyncio.FIRST_COMPLETED)
        if not signals.stop.is_set():
            agents = machine.build()
            strays = Strays(machine.queue, agents.runs, outside.supervisor, agents.worker, lambda: machine.identity.id)
            running = (agents.worker.run(), strays.run(), agents.janitor.run())
            tasks += [group.create_task(each) for each in (*running, _listen(machine, agents, outside.listener))]
            _log.info("machine.ready", machine=machine.identity.id)
            ready()
            await stopping
        stop_in_time()
        for task in (*tasks, known):
            task.cancel()


def section_of(spoke: Spoke) -> MachineSection:
    """Return what says for whom this machine works; raises `ConfigError`."""
    section = spoke.settings.machine
    if section is None:
        raise ConfigError(f"{spoke.directory.path} is no machine's directory; make one with: spoke machine init")
    if spoke.settings.valkey.url == EMBEDDED:
        raise ConfigError(f"set [valkey] url in {spoke.directory.settings_file} to the Valkey of {section.spoke}")
    return section


async def work(spoke: Spoke, ready: Callable[[], None], log: NodeLog) -> None:
    """Work until SIGTERM or SIGINT; calls `ready` once it does. SIGHUP reads the settings again. Agents go on.

    Raises LocalError `already_running`, `ConfigError`.
    """
    signals, section = Signals.of(asyncio.get_running_loop()), section_of(spoke)
    async with AsyncExitStack() as stack:
        stack.enter_context(exclusive(spoke.directory.path))
        telling = stack.enter_context(open_telling(spoke))
        target = spoke.directory.valkey_target(spoke.settings.valkey)
        client = await stack.enter_async_context(connect(target))
        listener = await stack.enter_async_context(connect_blocking(target))
        with suppress(Unavailable):  # it may come later; the worker waits for it
            await check_server(client, rights_of(section.spoke), allow_data_loss=True)
        session = await stack.enter_async_context(open_session(spoke.reach))
        supervisor = await stack.enter_async_context(Supervisor())
        outside = _Outside(client, listener, session, supervisor, telling)
        machine = _Machine(spoke, section, outside, signals)
        follow = partial(log.follow, spoke.directory.path)
        reloading = Reloading(lambda: load(spoke.directory), machine.prepare, follow, LIVE, spoke.settings)
        reload = asyncio.ensure_future(signals.reload_by(reloading.reload))
        try:
            await _work(machine, outside, signals, ready)
        finally:
            reload.cancel()
        _log.info("machine.stopping", machine=machine.identity.id)
