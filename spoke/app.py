"""The spoke's composition root: the only place that builds its adapters and ties their lifetimes together.

The order of the `async with` blocks is the order of dependence: what is entered later may use what was entered
before, and goes first when the node stops. Agents are in no block: they belong to their keepers.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog
from aiohttp import ClientSession, web
from redis.asyncio import Redis

from common.audit_file import Audit
from common.clock import SystemClock
from common.directory import announced, exclusive
from common.embedded_valkey import EmbeddedValkey
from common.exchange import Exchange
from common.handshake import Capacity
from common.http import problems, refusals_counted
from common.ids import uuid7_time_ms
from common.inbox import Inbox
from common.introduction import identity_claim
from common.links import Carrier, Links
from common.memory import settle
from common.node_log import NodeLog
from common.node_valkey import open_valkey
from common.openapi import serve_openapi
from common.own_keys import OwnKeys
from common.peers import Peer
from common.post import PostTransport, open_session
from common.problem_routes import problem_routes
from common.reloading import Reloading
from common.rotating import Announcer, RotationIntake
from common.rotation_store import RotationStore
from common.route import Route, to_aiohttp
from common.service_manager import ServiceManager
from common.serving import serving
from common.signals import Signals
from common.store_guard import MarkFile, StoreGuard, Watched
from common.store_metrics import StoreMetrics
from common.trust_store import TrustStore
from spoke.agent_parts import WorkerRole, agent_parts, own_deciding, stored_commands
from spoke.agent_view import AgentView
from spoke.current_launcher import CurrentLauncher
from spoke.dialer import Dialer, Greeter
from spoke.envelope_spans import EnvelopeSpans
from spoke.events import Courier
from spoke.eviction import Eviction
from spoke.federation_routes import FederationRoutes
from spoke.intake import Intake
from spoke.joining import Joiner
from spoke.local_api import Access, Guard, LocalApi
from spoke.local_spawn import LocalSpawner
from spoke.machines.parts import NodesTrust, machine_parts
from spoke.metrics import Metrics
from spoke.node import Spoke
from spoke.operator_api import OperatorApi
from spoke.petition import Petition
from spoke.planning import Rules
from spoke.queue import Queue
from spoke.requeue import Requeuer
from spoke.rights import rights_of
from spoke.rotating import Rotating
from spoke.router import Router
from spoke.salvage import Salvage
from spoke.scraping import Scraping
from spoke.settings import LIVE, SpokeSettings, load
from spoke.stopping import stop_in_time
from spoke.supervision.supervisor import Supervisor
from spoke.telling import Telling, open_telling

__all__ = ["Spoke", "serve"]

_log: Final = structlog.get_logger("spoke")
_OPENAPI_PATH: Final = "/openapi.json"
_DAY_MS: Final = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class _Stores:
    """What lies outside Valkey: the peers, the audit of what is decided, what is told to those who watch."""

    audit: Audit
    trust: TrustStore
    telling: Telling


class _Parts:
    """Everything that a running spoke is made of, built once its outside things are open."""

    def __init__(self, spoke: Spoke, client: Redis, stores: _Stores, session: ClientSession, sup: Supervisor) -> None:
        settings, directory, me = spoke.settings, spoke.directory, spoke.me
        trust, audit, clock = stores.trust, stores.audit, SystemClock()
        self._spoke, self.dials = spoke, settings.node.link != "never"
        self.queue = Queue(client, me.instance, spoke.bounds)
        keys, inbox, links, exchange = _voice(spoke, stores, session)
        telling, metrics = stores.telling, stores.telling.metrics
        commands = stored_commands(spoke, keys.keyring, trust.current)
        agents = agent_parts(
            spoke, self.queue, own_deciding(spoke, commands, trust.current), sup, WorkerRole(), telling.tracing
        )
        self.machines = machine_parts(spoke, self.queue, agents, NodesTrust(trust, keys.keyring, commands), sup)
        self.worker, self.janitor, self._agents, self.audit = agents.worker, agents.janitor, agents, audit
        watched = Watched(client, self.queue.prefix, MarkFile(directory.path))
        self.store_guard = StoreGuard(
            watched, self.queue.store, clock, Salvage(self.queue, agents.runs, commands, sup, self.worker)
        )
        self.courier = Courier(self.queue, exchange, trust.current, metrics.envelope_events.observe)
        rules, spans = partial(self._rules_of, agents.launcher), EnvelopeSpans(telling, clock)
        router = Router(self.queue, self.machines.answers, commands, exchange, rules, audit, spans)
        rotating, announcer = _rotating(spoke, trust, self.queue, keys, exchange)
        petition = Petition(Joiner(me, keys, settings.node.url, clock), session, trust)
        losing, eviction = self.machines.losing, Eviction(self.queue, trust.current)
        self.of_trust = (announcer.run, eviction.run, petition.run, losing.run)
        """What goes on in the background because of changes of trust."""
        intake = Intake(inbox, router, rotating, clock, metrics, audit)
        greeter = Greeter(keys, inbox, exchange, clock, self._capacity, lambda: spoke.settings.node.labels)
        self.dialer = Dialer(greeter, links, intake, session, trust, self.courier.reached)
        federation = FederationRoutes(partial(_identity, spoke, keys), keys, intake, exchange)
        guard, view = Guard(Access(spoke.token, settings.local.remote), audit), AgentView(self.queue, agents.limits)
        local = LocalApi(
            guard,
            LocalSpawner(me.instance, keys, self.queue, exchange, clock, agents.launcher.check),
            view,
            self.queue,
            self.machines.elsewhere,
            Scraping(
                metrics,
                StoreMetrics(metrics.table, client, self.queue.store),
                self.queue,
                trust,
                links,
                self.machines.linked,
            ),
            telling.tracing,
        )
        requeuer = Requeuer(keys, self.queue, commands, exchange, clock)
        operator = OperatorApi(guard, view, self.queue, requeuer, self.janitor, self.machines.linked)
        self.app = _application(
            [*federation.routes(), *self.machines.gate.routes()],
            [*local.routes(), *operator.routes(), *problem_routes()],
            guard,
            metrics,
        )

    def prepare(self, settings: SpokeSettings) -> Callable[[], None]:
        """Return what has everything work with these settings from now on; raises LocalError `config`."""
        adopt_for_agents = self._agents.prepare(settings)

        def adopt() -> None:
            self._spoke.settings = settings
            self.queue.bounds = self._spoke.bounds
            self.audit.bounds = settings.audit.bounds
            adopt_for_agents()
            self.worker.heard("wake", "")  # there may be more room, or other agents' turn

        return adopt

    def _rules_of(self, launcher: CurrentLauncher, peer: Peer) -> Rules:
        return Rules(self._spoke.policy_of(peer), self._oldest_ms(), uuid7_time_ms, launcher.check)

    async def _capacity(self) -> Capacity:
        load = await self.queue.load()
        return Capacity(agents=self._spoke.settings.limits.agents, running=load["active"], queued=load["queued"])

    def _oldest_ms(self) -> int:
        return SystemClock().now_ms() - self._spoke.settings.limits.retention_days * _DAY_MS


def _voice(spoke: Spoke, stores: _Stores, session: ClientSession) -> tuple[OwnKeys, Inbox, Links, Exchange]:
    """Return what speaks to peers and hears them."""
    keys, inbox, links = OwnKeys(spoke.key_files, stores.trust), Inbox(spoke.me, stores.trust), Links()
    stores.audit.sign_with(keys)
    post = None if spoke.settings.node.link == "always" else PostTransport(session)
    return keys, inbox, links, Exchange(spoke.me, keys, inbox, Carrier(links, post), SystemClock())


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


def _reloading(spoke: Spoke, parts: _Parts, log: NodeLog) -> Reloading[SpokeSettings]:
    return Reloading(
        lambda: load(spoke.directory), parts.prepare, partial(log.follow, spoke.directory.path), LIVE, spoke.settings
    )


async def _work(
    parts: _Parts,
    listener: Redis,
    server: EmbeddedValkey | None,
    reloading: Reloading[SpokeSettings],
    signals: Signals,
    *,
    works: bool,
) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(parts.audit.run()),
            group.create_task(signals.reload_by(reloading.reload)),
            group.create_task(ServiceManager.of(os.environ).run()),
            group.create_task(_listen(parts, listener)),
            group.create_task(parts.store_guard.watch()),
            group.create_task(parts.courier.run()),
            group.create_task(parts.janitor.run()),
            *(group.create_task(run()) for run in parts.of_trust),
        ]
        if works:
            tasks.append(group.create_task(parts.worker.run()))
        if parts.dials:
            tasks.append(group.create_task(parts.dialer.run()))
        if server is not None:
            tasks.append(group.create_task(server.keep_running(_report_valkey)))
        await signals.stop.wait()
        stop_in_time()
        parts.machines.channels.end_all()
        for task in tasks:
            task.cancel()


async def serve(spoke: Spoke, ready: Callable[[str], None], log: NodeLog, *, works: bool = True) -> None:
    """Run until SIGTERM or SIGINT; calls `ready` with the URL once envelopes are taken. Agents go on running.

    SIGHUP reads the settings again. One that does not work itself leaves all agents to `spoke worker`.
    """
    signals = Signals.of(asyncio.get_running_loop())
    async with AsyncExitStack() as stack:
        stack.enter_context(exclusive(spoke.directory.path))
        telling = stack.enter_context(open_telling(spoke))
        audit = stack.enter_context(closing(spoke.open_audit()))
        stores = _Stores(audit, stack.enter_context(closing(spoke.open_trust(audit))), telling)
        rights = rights_of(spoke.me.instance)
        valkey = await stack.enter_async_context(open_valkey(spoke.directory, spoke.settings.valkey, rights))
        stack.enter_context(audit.serving())
        session = await stack.enter_async_context(open_session(spoke.reach))
        supervisor = await stack.enter_async_context(Supervisor())
        parts = _Parts(spoke, valkey.client, stores, session, supervisor)
        await parts.store_guard.open()
        stack.push_async_callback(parts.store_guard.close)
        url = await stack.enter_async_context(serving(parts.app, spoke.settings, spoke.directory.path))
        stack.enter_context(announced(spoke.directory.path, url))
        _log.info("node.ready", node=spoke.me.instance, url=url)
        settle()
        ready(url)
        await _work(parts, valkey.blocking, valkey.server, _reloading(spoke, parts, log), signals, works=works)
        _log.info("node.stopping", node=spoke.me.instance)
