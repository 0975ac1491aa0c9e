"""The spoke's composition root: the only place that builds its adapters and ties their lifetimes together.

The order of the `async with` blocks is the order of dependence: what is entered later may use what was entered
before, and goes first when the node stops. Agents are in no block: they belong to their keepers.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog
from aiohttp import ClientSession, web
from redis.asyncio import Redis

from common.audit_file import Audit
from common.clock import SystemClock
from common.configuration import EMBEDDED
from common.directory import announced, exclusive
from common.embedded_valkey import EmbeddedValkey
from common.exchange import Exchange
from common.handshake import Capacity
from common.http import problems, refusals_counted
from common.ids import uuid7_time_ms
from common.inbox import Inbox
from common.introduction import identity_claim
from common.links import Carrier, Links
from common.openapi import serve_openapi
from common.own_keys import OwnKeys
from common.peers import LOCAL_TENANT, Peer
from common.post import PostTransport, open_session
from common.problem_routes import problem_routes
from common.rotating import Announcer, RotationIntake
from common.rotation_store import RotationStore
from common.route import Route, to_aiohttp
from common.service_manager import ServiceManager
from common.serving import serving
from common.store_guard import MarkFile, StoreGuard, Watched
from common.store_metrics import StoreMetrics
from common.trust_store import TrustStore
from common.valkey import check_durability, connect, connect_blocking
from spoke.agent_parts import agent_parts
from spoke.agent_view import AgentView
from spoke.dialer import Dialer, Greeter
from spoke.events import Courier
from spoke.eviction import Eviction
from spoke.federation_routes import FederationRoutes
from spoke.intake import Intake
from spoke.joining import Joiner
from spoke.launching import Launcher
from spoke.local_api import Access, Guard, LocalApi
from spoke.local_spawn import LocalSpawner
from spoke.metrics import Metrics
from spoke.node import Spoke
from spoke.operator_api import OperatorApi
from spoke.petition import Petition
from spoke.policy import LOCAL_POLICY
from spoke.queue import Queue
from spoke.requeue import Requeuer
from spoke.rotating import Rotating
from spoke.router import Router, Rules
from spoke.salvage import Salvage
from spoke.scraping import Scraping
from spoke.stored_command import StoredCommands
from spoke.supervision.supervisor import Supervisor

__all__ = ["Spoke", "serve"]

_log: Final = structlog.get_logger("spoke")
_OPENAPI_PATH: Final = "/openapi.json"
_DAY_MS: Final = 24 * 3600 * 1000
_STOP_S: Final = 10.0


@asynccontextmanager
async def _valkey(spoke: Spoke) -> AsyncIterator[tuple[Redis, Redis, EmbeddedValkey | None]]:
    """Yield a client for calls and one for listening, on a server that keeps what it acknowledges; and that if ours."""
    section = spoke.settings.valkey
    target = spoke.directory.valkey_target(section)
    server = EmbeddedValkey(spoke.directory.valkey) if section.url == EMBEDDED else None
    async with AsyncExitStack() as stack:
        if server is not None:
            await stack.enter_async_context(server)
        client = await stack.enter_async_context(connect(target))
        listener = await stack.enter_async_context(connect_blocking(target))
        for shortfall in await check_durability(client, section.allow_data_loss):
            _log.warning("valkey.may_lose_data", reason=shortfall)
        yield client, listener, server


@dataclass(frozen=True, slots=True)
class _Stores:
    """What lies outside Valkey: the peers, and the audit of what is decided."""

    audit: Audit
    trust: TrustStore


class _Parts:
    """Everything that a running spoke is made of, built once its outside things are open."""

    def __init__(self, spoke: Spoke, client: Redis, stores: _Stores, session: ClientSession, sup: Supervisor) -> None:
        settings, directory, me = spoke.settings, spoke.directory, spoke.me
        trust, audit, clock = stores.trust, stores.audit, SystemClock()
        self._spoke, self._trust = spoke, trust
        self.dials = settings.node.link != "never"
        self.queue = Queue(client, me.instance, spoke.bounds)
        inbox = Inbox(me, trust)
        keys = OwnKeys(spoke.key_files, trust)
        audit.sign_with(keys)
        links, post = Links(), None if settings.node.link == "always" else PostTransport(session)
        exchange = Exchange(me, keys, inbox, Carrier(links, post), clock)
        commands = StoredCommands(me.instance, keys.keyring, trust.current, spoke.policy_of)
        metrics = Metrics()
        agents = agent_parts(spoke, self.queue, commands, sup, self._limits, metrics)
        self.worker, self.janitor = agents.worker, agents.janitor
        watched = Watched(client, self.queue.prefix, MarkFile(directory.path))
        self.store_guard = StoreGuard(
            watched, self.queue.store, clock, Salvage(self.queue, agents.runs, commands, sup, self.worker)
        )
        self.courier = Courier(self.queue, exchange, trust.current, metrics.envelope_events.observe)
        router = Router(self.queue, agents.answers, commands, exchange, partial(self._rules_of, agents.launcher), audit)
        rotating, announcer = _rotating(spoke, trust, self.queue, keys, exchange)
        petition = Petition(Joiner(me, keys, settings.node.url, clock), session, trust)
        self.of_peers = (announcer.run, Eviction(self.queue, trust.current).run, petition.run)
        """What goes on in the background because of changes of trust."""
        intake = Intake(inbox, router, rotating, clock, metrics, audit)
        greeter = Greeter(keys, inbox, exchange, clock, self._capacity, settings.node.labels)
        self.dialer = Dialer(greeter, links, intake, session, trust, self.courier.reached)
        federation = FederationRoutes(partial(_identity, spoke, keys), keys, intake, exchange)
        guard, view = Guard(Access(spoke.token, settings.local.remote), audit), AgentView(self.queue, self._limits)
        local = LocalApi(
            guard,
            LocalSpawner(me.instance, keys, self.queue, exchange, clock, agents.launcher.check),
            view,
            self.queue,
            agents.runs,
            Scraping(metrics, StoreMetrics(metrics.table, client, self.queue.store), self.queue, trust, links),
        )
        operator = OperatorApi(
            guard, view, self.queue, Requeuer(keys, self.queue, commands, exchange, clock), self.janitor
        )
        self.app = _application(
            federation.routes(), [*local.routes(), *operator.routes(), *problem_routes()], guard, metrics
        )

    def _limits(self) -> Mapping[str, int]:
        """Return whose agents may start now and how many at once: a peer that is not active starts none."""
        active = (peer for peer in self._trust.current().peers() if peer.state == "active" and peer.kind == "hub")
        limits = {peer.tenant: self._spoke.policy_of(peer).agents for peer in active}
        return {**limits, LOCAL_TENANT: LOCAL_POLICY.agents}

    def _rules_of(self, launcher: Launcher, peer: Peer) -> Rules:
        return Rules(self._spoke.policy_of(peer), self._oldest_ms(), uuid7_time_ms, launcher.check)

    async def _capacity(self) -> Capacity:
        load = await self.queue.load()
        return Capacity(agents=self._spoke.settings.limits.agents, running=load["active"], queued=load["queued"])

    def _oldest_ms(self) -> int:
        return SystemClock().now_ms() - self._spoke.settings.limits.retention_days * _DAY_MS


def _application(
    federation: Iterable[web.RouteDef], routes: Sequence[Route], guard: Guard, metrics: Metrics
) -> web.Application:
    described = web.get(_OPENAPI_PATH, guard(serve_openapi("hubspoke spoke", routes)))
    app = web.Application(middlewares=[refusals_counted(metrics.refuse_request), problems])
    app.add_routes([*federation, *to_aiohttp(routes), described])
    return app


def _identity(spoke: Spoke, keys: OwnKeys) -> dict[str, Any]:
    """Return who we are now, for an IDENTITY."""
    return identity_claim(
        spoke.me.instance, spoke.me.kind, spoke.settings.node.url, keys.public_keys(SystemClock().now_ms() / 1000)
    )


def _rotating(
    spoke: Spoke, trust: TrustStore, queue: Queue, keys: OwnKeys, exchange: Exchange
) -> tuple[Rotating, Announcer]:
    """Return what takes the rotations of hubs, and what tells hubs of ours."""
    clock, rotations = SystemClock(), RotationStore(trust)
    intake = RotationIntake(spoke.me.instance, rotations, clock, spoke.settings.node.overlap_s)
    announcer = Announcer(spoke.key_files, keys, rotations, exchange, trust.current, clock)
    return Rotating(queue, intake, exchange, spoke.policy_of), announcer


async def _listen(parts: _Parts, listener: Redis) -> None:
    """Pass what the scripts publish on to those who wait for it."""
    async for channel, message in parts.queue.messages(listener):
        if channel == "changes":
            parts.courier.changed(message)
        else:
            parts.worker.heard(channel, message)


def _report_valkey(reason: str) -> None:
    _log.error("valkey.ended", reason=reason)


async def _work(
    parts: _Parts, audit: Audit, listener: Redis, server: EmbeddedValkey | None, stop: asyncio.Event
) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(audit.run()),
            group.create_task(ServiceManager.of(os.environ).run()),
            group.create_task(_listen(parts, listener)),
            group.create_task(parts.worker.run()),
            group.create_task(parts.store_guard.watch()),
            group.create_task(parts.courier.run()),
            group.create_task(parts.janitor.run()),
            *(group.create_task(run()) for run in parts.of_peers),
        ]
        if parts.dials:
            tasks.append(group.create_task(parts.dialer.run()))
        if server is not None:
            tasks.append(group.create_task(server.keep_running(_report_valkey)))
        await stop.wait()
        _stop_within(_STOP_S)
        for task in tasks:
            task.cancel()


def _stop_within(seconds: float) -> None:
    """End the process when it has not ended by then, whatever holds it up: all of it may be cut off (fault 33)."""

    def cut_off() -> None:
        _log.error("node.cut_off", after_s=seconds)
        os._exit(1)

    timer = threading.Timer(seconds, cut_off)
    timer.daemon = True
    timer.start()


async def serve(spoke: Spoke, ready: Callable[[str], None]) -> None:
    """Run until SIGTERM or SIGINT; calls `ready` with the URL once envelopes are taken. Agents go on running."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        stack.enter_context(exclusive(spoke.directory.path))
        audit = stack.enter_context(closing(spoke.open_audit()))
        stores = _Stores(audit, stack.enter_context(closing(spoke.open_trust(audit))))
        client, listener, server = await stack.enter_async_context(_valkey(spoke))
        stack.enter_context(audit.serving())
        session = await stack.enter_async_context(open_session(spoke.reach))
        supervisor = await stack.enter_async_context(Supervisor())
        parts = _Parts(spoke, client, stores, session, supervisor)
        await parts.store_guard.open()
        stack.push_async_callback(parts.store_guard.close)
        url = await stack.enter_async_context(serving(parts.app, spoke.settings, spoke.directory.path))
        stack.enter_context(announced(spoke.directory.path, url))
        _log.info("node.ready", node=spoke.me.instance, url=url)
        ready(url)
        await _work(parts, audit, listener, server, stop)
        _log.info("node.stopping", node=spoke.me.instance)
