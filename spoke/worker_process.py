"""The composition root of `spoke worker`: a worker of its own beside the node, on the node's queue and directory.

It verifies what it starts by the node's own trust store, which it reads and never changes. It takes no envelopes, tells
no hub anything and sweeps nothing: all that stays with the node. Agents belong to their keepers here as there, so any
worker of the directory can see another's agents to their end.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from functools import partial
from typing import Final

import structlog
from redis.asyncio import Redis

from common.directory import exclusive
from common.node_log import NodeLog
from common.own_keys import OwnKeys
from common.reloading import Reloading
from common.service_manager import ServiceManager
from common.signals import Signals
from common.valkey import connect, connect_blocking
from spoke.agent_parts import AgentParts, WorkerRole, agent_parts, own_deciding, stored_commands
from spoke.node import Spoke
from spoke.queue import Queue
from spoke.settings import LIVE, SpokeSettings, load
from spoke.stopping import stop_in_time
from spoke.supervision.supervisor import Supervisor
from spoke.telling import open_telling
from spoke.worker import Worker

_log: Final = structlog.get_logger("spoke")


async def _listen(queue: Queue, listener: Redis, worker: Worker) -> None:
    async for channel, message in queue.messages(listener):
        worker.heard(channel, message)


def _reloading(spoke: Spoke, queue: Queue, agents: AgentParts, log: NodeLog) -> Reloading[SpokeSettings]:
    def prepare(settings: SpokeSettings) -> Callable[[], None]:
        adopt_for_agents = agents.prepare(settings)

        def adopt() -> None:
            spoke.settings = settings
            queue.bounds = spoke.bounds
            adopt_for_agents()
            agents.worker.heard("wake", "")

        return adopt

    return Reloading(
        lambda: load(spoke.directory), prepare, partial(log.follow, spoke.directory.path), LIVE, spoke.settings
    )


async def _work(
    queue: Queue, listener: Redis, worker: Worker, reloading: Reloading[SpokeSettings], signals: Signals
) -> None:
    async with asyncio.TaskGroup() as group:
        running = (
            ServiceManager.of(os.environ).run(),
            signals.reload_by(reloading.reload),
            _listen(queue, listener, worker),
            worker.run(),
        )
        tasks = [group.create_task(each) for each in running]
        await signals.stop.wait()
        stop_in_time()
        for task in tasks:
            task.cancel()


async def work(spoke: Spoke, name: str, ready: Callable[[], None], log: NodeLog) -> None:
    """Work as the worker `name` until SIGTERM or SIGINT, whether the node runs at the time or not.

    Calls `ready` once it works. SIGHUP reads the settings again. Agents go on. Raises LocalError `already_running`.
    """
    signals = Signals.of(asyncio.get_running_loop())
    async with AsyncExitStack() as stack:
        stack.enter_context(exclusive(spoke.directory.path, f"worker-{name}"))
        telling = stack.enter_context(open_telling(spoke))
        target = spoke.directory.valkey_target(spoke.settings.valkey)
        client = await stack.enter_async_context(connect(target))
        listener = await stack.enter_async_context(connect_blocking(target))
        audit = stack.enter_context(closing(spoke.open_audit()))
        trust = stack.enter_context(closing(spoke.open_trust(audit)))
        supervisor = await stack.enter_async_context(Supervisor())
        queue = Queue(client, spoke.me.instance, spoke.bounds)
        keys = OwnKeys(spoke.key_files, trust)
        deciding = own_deciding(spoke, stored_commands(spoke, keys.keyring, trust.current), trust.current)
        agents = agent_parts(spoke, queue, deciding, supervisor, WorkerRole(name), telling.tracing)
        _log.info("worker.ready", node=spoke.me.instance, worker=name)
        ready()
        await _work(queue, listener, agents.worker, _reloading(spoke, queue, agents, log), signals)
        _log.info("worker.stopping", worker=name)
