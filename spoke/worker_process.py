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
from typing import Final

import structlog
from redis.asyncio import Redis

from common.directory import exclusive
from common.own_keys import OwnKeys
from common.service_manager import ServiceManager
from common.valkey import connect, connect_blocking
from spoke.agent_parts import WorkerRole, agent_parts
from spoke.node import Spoke
from spoke.queue import Queue
from spoke.stopping import stop_in_time, stop_signalled
from spoke.supervision.supervisor import Supervisor
from spoke.telling import open_telling
from spoke.worker import Worker

_log: Final = structlog.get_logger("spoke")


def _lost(cause: str) -> None:
    _log.warning("lease.taken_over", cause=cause)


async def _listen(queue: Queue, listener: Redis, worker: Worker) -> None:
    async for channel, message in queue.messages(listener):
        worker.heard(channel, message)


async def _work(queue: Queue, listener: Redis, worker: Worker, stop: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as group:
        running = (ServiceManager.of(os.environ).run(), _listen(queue, listener, worker), worker.run())
        tasks = [group.create_task(each) for each in running]
        await stop.wait()
        stop_in_time()
        for task in tasks:
            task.cancel()


async def work(spoke: Spoke, name: str, ready: Callable[[], None]) -> None:
    """Work as the worker `name` until SIGTERM or SIGINT, whether the node runs at the time or not.

    Calls `ready` once it works. Agents go on running. Raises LocalError `already_running`.
    """
    stop = stop_signalled()
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
        role = WorkerRole(name, _lost)
        worker = agent_parts(spoke, queue, keys.keyring, trust.current, supervisor, role, telling.tracing).worker
        _log.info("worker.ready", node=spoke.me.instance, worker=name)
        ready()
        await _work(queue, listener, worker, stop)
        _log.info("worker.stopping", worker=name)
