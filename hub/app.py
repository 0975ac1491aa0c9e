"""The hub's composition root: the only place that builds its adapters and ties their lifetimes together.

The order of the `async with` blocks is the order of dependence: what is entered later may use what was entered before,
and goes first when the node stops. What waits in the outbox stays there and is sent after the next start.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import structlog
from aiohttp import ClientSession, web
from redis.asyncio import Redis

from common.audit_file import Audit
from common.clock import Clock, SystemClock
from common.directory import announced, exclusive
from common.embedded_valkey import EmbeddedValkey
from common.exchange import Exchange
from common.http import problems, refusals_counted
from common.inbox import Inbox
from common.links import Carrier, Links
from common.memory import settle
from common.node_log import NodeLog
from common.node_valkey import NodeValkey, open_valkey
from common.openapi import serve_openapi
from common.own_keys import OwnKeys
from common.post import PostTransport, open_session
from common.problem_routes import problem_routes
from common.reloading import Reloading
from common.rotating import Announcer, RotationIntake
from common.rotation_store import RotationStore
from common.route import to_aiohttp
from common.scripts import ScriptSet
from common.service_manager import ServiceManager
from common.serving import serving
from common.signals import Signals
from common.store_guard import MarkFile, StoreGuard, Watched
from common.store_mark import KnownStore
from hub.agents import Agents
from hub.api.agents import AgentsApi
from hub.api.events import EventsApi
from hub.api.freezing import FreezingApi
from hub.api.log_stream import LogStreamApi
from hub.api.many import ManyApi
from hub.api.peers import PeersApi
from hub.api.route import Route
from hub.api.streaming import still_known
from hub.api.webhooks import WebhooksApi
from hub.auth import Doorkeeper, Identities
from hub.courier import Ways
from hub.dashboard.wiring import Behind, Dashboard
from hub.delivery import Delivery
from hub.descriptors import raise_limit
from hub.federation_routes import FederationRoutes
from hub.feed import Feed
from hub.freezing import Freezing
from hub.indexing import DATA_FORMAT, make_indexes
from hub.intake import Intake
from hub.inviting import Inviting
from hub.joining import Joining
from hub.keyspace import Keyspace
from hub.killing import Killing
from hub.link_routes import Greeter, LinkRoutes
from hub.metrics import Metrics
from hub.node import Hub, Stores, open_stores
from hub.operations import Operations
from hub.outbox import Outbox
from hub.placing import Placing
from hub.queries import Queries
from hub.reconciling import Reconciling
from hub.requests import in_spans, measured
from hub.retention import Bounds, Retention
from hub.rights import rights_of
from hub.scraping import Scraping
from hub.sender import Sender
from hub.settings import LIVE, HubSettings, load
from hub.spawning import Spawning
from hub.telling import Telling, open_telling
from hub.webhook_post import WebhookPost
from hub.webhook_progress import ProgressStore
from hub.webhook_store import WebhookStore
from hub.webhooks import Webhooks

_log: Final = structlog.get_logger("hub")
_OPENAPI_PATH: Final = "/api/v1/openapi.json"


def _agent_routes(one: AgentsApi, placing: Placing, killing: Killing, clock: Clock, audit: Audit) -> list[Route]:
    return [*one.routes(), *ManyApi(one, placing, killing, clock, audit).routes()]


def _webhooks(
    hub: Hub, store: WebhookStore, session: ClientSession, feed: Feed, progress: ProgressStore, metrics: Metrics
) -> Webhooks:
    def told(outcome: str) -> None:
        metrics.webhook_messages.labels(outcome).inc()

    def patience_s() -> float:
        return hub.settings.webhooks.give_up_h * 3600

    clock = SystemClock()
    post = WebhookPost(session, store, clock)
    return Webhooks(store, Ways(feed, progress, post, clock, patience_s, told), hub.reach)


def _retention(hub: Hub, client: Redis, keys: Keyspace, scripts: ScriptSet, metrics: Metrics) -> Retention:
    return Retention(client, keys, scripts, _kept(hub.settings), SystemClock(), metrics.agents_pruned.inc)


def _kept(settings: HubSettings) -> Bounds:
    return Bounds(settings.retention.ended_days, settings.retention.ended_agents)


def _application(
    behind: Behind, routes: Sequence[Route], others: Sequence[web.RouteDef], telling: Telling
) -> web.Application:
    """Return the application: API and page are the admin's side, behind one door."""
    dashboard = Dashboard(behind)
    entrance = dashboard.entrance
    scopes = {(route.method, route.path): route.needs for route in routes} | entrance.scopes()
    door = Doorkeeper(behind.identities, entrance, scopes, behind.audit)
    app = web.Application(
        middlewares=[
            measured(telling.metrics),
            refusals_counted(telling.metrics.refuse_request),
            problems,
            entrance.middleware(),
            door.middleware(),
            in_spans(telling.tracing),
        ]
    )
    app.on_response_prepare.append(entrance.give_orders)
    described = [*routes, *problem_routes()]
    document = web.get(_OPENAPI_PATH, serve_openapi("hubspoke hub", described))
    app.add_routes([*others, *to_aiohttp(described), document, *dashboard.routes])
    return app


class Parts:
    """Everything that a running hub is made of, built once its outside things are open."""

    def __init__(self, hub: Hub, valkey: NodeValkey, store: Stores, session: ClientSession, telling: Telling) -> None:
        me, clock, metrics = hub.me, SystemClock(), telling.metrics
        self._hub, trust, self.audit = hub, store.trust, store.audit
        self.clock, self.url = clock, hub.settings.node.url
        keys, scripts, own_keys = Keyspace(me.instance), ScriptSet("hub"), OwnKeys(hub.key_files, trust)
        self.audit.sign_with(own_keys)
        rotations, inbox = RotationStore(trust), Inbox(me, trust)
        self.links = Links()
        exchange = Exchange(me, own_keys, inbox, Carrier(self.links, PostTransport(session)), clock)
        delivery, self.store = Delivery(exchange, telling), KnownStore(me.skew_s)
        self.agents = agents = Agents(valkey.client, keys, scripts, self.store)
        self.outbox = outbox = Outbox(valkey.client, keys, scripts, hub.settings.outbox.limit)
        self.retention = _retention(hub, valkey.client, keys, scripts, metrics)
        self.sender = Sender(outbox, agents, delivery, trust, clock, metrics)
        self.feed = Feed(valkey.client, valkey.blocking, keys)
        rotation_intake = RotationIntake(me.instance, rotations, clock, hub.settings.node.overlap_s)
        intake = Intake(me, inbox, agents, exchange, clock, metrics, rotation_intake, self.audit, self.sender.heard)
        self.announcer = Announcer(hub.key_files, own_keys, rotations, exchange, trust.current, clock)
        joining = Joining(me, own_keys, trust, agents, exchange, clock, self.sender.hurry)
        self.reconciling = Reconciling(trust, agents, outbox, exchange, self.sender, clock)
        greeter = Greeter(own_keys, inbox, exchange, clock)
        links = LinkRoutes(greeter, self.links, intake, agents, trust, metrics, self._link_opened)
        self.spawning = spawning = Spawning(trust, agents, outbox, self.sender, clock, metrics)
        self.webhooks = _webhooks(hub, store.webhooks, session, self.feed, ProgressStore(valkey.client, keys), metrics)
        inviting = Inviting(me.instance, own_keys, trust, clock)
        behind = Behind(
            me.instance,
            AgentsApi(agents, spawning, Queries(delivery, agents, clock), trust, self.audit),
            PeersApi(trust, agents, inviting, self.sender.hurry, self._own_url, self.links),
            FreezingApi(Freezing(trust, outbox, self.sender, clock), agents, self.audit),
            agents,
            self.feed,
            trust,
            Operations(agents, trust, Scraping.of(metrics, valkey.client, agents, trust, self.links), self.audit),
            Identities(hub.token, store.tokens, clock),
            self.audit,
            clock,
            self._own_url,
        )
        still = still_known(behind.identities)
        routes = [
            *_agent_routes(
                behind.agents_api,
                Placing(trust, agents, self.links),
                Killing(trust, agents, outbox, self.sender, clock),
                clock,
                self.audit,
            ),
            *EventsApi(self.feed, still).routes(),
            *LogStreamApi(behind.agents_api, agents, self.feed, still).routes(),
            *WebhooksApi(self.webhooks).routes(),
            *behind.peers_api.routes(),
            *behind.freezing_api.routes(),
            *behind.operations.routes(),
        ]
        others = [
            *FederationRoutes(intake, joining, metrics, self._own_url).routes(),
            *links.routes(),
        ]
        self.app = _application(behind, routes, others, telling)
        self.app.on_shutdown.append(self._stop_watchers)

    def prepare(self, settings: HubSettings) -> Callable[[], None]:
        """Return what has everything work with these settings from now on."""

        def adopt() -> None:
            self._hub.settings = settings
            self.outbox.limit = settings.outbox.limit
            self.retention.bounds = _kept(settings)
            self.audit.bounds = settings.audit.bounds

        return adopt

    def _link_opened(self, tenant: str) -> None:
        self.sender.hurry(tenant)
        self.reconciling.heard(tenant)

    async def store_lost(self) -> None:
        """Say what a hub cannot get back by itself; everything else the spokes are asked, or tell."""
        _log.error(
            "outbox.lost",
            reason="commands that no spoke had answered are gone with the store, and agents whose spokes say nothing "
            "new are not listed; spawn and kill again what is missing (the same id is the same agent)",
        )
        self.reconciling.ask_all()

    def _own_url(self) -> str | None:
        return self.url

    async def _stop_watchers(self, _app: web.Application) -> None:
        self.feed.close()
        self.links.end_all()


def _reloading(hub: Hub, parts: Parts, log: NodeLog) -> Reloading[HubSettings]:
    return Reloading(
        lambda: load(hub.directory), parts.prepare, partial(log.follow, hub.directory.path), LIVE, hub.settings
    )


async def _work(
    parts: Parts, guard: StoreGuard, server: EmbeddedValkey | None, reloading: Reloading[HubSettings], signals: Signals
) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(parts.audit.run()),
            group.create_task(signals.reload_by(reloading.reload)),
            group.create_task(ServiceManager.of(os.environ).run()),
            group.create_task(parts.sender.run()),
            group.create_task(parts.feed.run()),
            group.create_task(parts.webhooks.run()),
            group.create_task(parts.retention.run()),
            group.create_task(parts.reconciling.run()),
            group.create_task(guard.watch()),
            group.create_task(parts.announcer.run()),
            group.create_task(parts.spawning.enqueuing.run()),
        ]
        if server is not None:
            tasks.append(group.create_task(server.keep_running(lambda line: _log.error("valkey.ended", reason=line))))
        await signals.stop.wait()
        for task in tasks:
            task.cancel()


async def serve(hub: Hub, ready: Callable[[str], None], log: NodeLog) -> None:
    """Run until SIGTERM or SIGINT; calls `ready` with the URL once requests are taken. SIGHUP reads settings again."""
    raise_limit()
    signals = Signals.of(asyncio.get_running_loop())
    async with AsyncExitStack() as stack:
        stack.enter_context(exclusive(hub.directory.path))
        telling = stack.enter_context(open_telling(hub))
        stores = stack.enter_context(open_stores(hub))
        valkey = await stack.enter_async_context(
            open_valkey(hub.directory, hub.settings.valkey, rights_of(hub.me.instance))
        )
        stack.enter_context(stores.audit.serving())
        session = await stack.enter_async_context(open_session(hub.reach))
        parts = Parts(hub, valkey, stores, session, telling)
        watched = Watched(valkey.client, Keyspace(hub.me.instance).prefix, MarkFile(hub.directory.path))
        guard = StoreGuard(watched, parts.store, parts.clock, parts.store_lost)
        await guard.open()
        stores.trust.raise_format(DATA_FORMAT)
        await make_indexes(valkey.client, Keyspace(hub.me.instance), ScriptSet("hub"))
        stack.push_async_callback(guard.close)
        url = await stack.enter_async_context(serving(parts.app, hub.settings, hub.directory.path))
        parts.url = parts.url or url
        stack.enter_context(announced(hub.directory.path, url))
        _log.info("node.ready", node=hub.me.instance, url=url)
        settle()
        ready(url)
        await _work(parts, guard, valkey.server, _reloading(hub, parts, log), signals)
        _log.info("node.stopping", node=hub.me.instance)
