"""Our own line: spawns through a real hub's outbox and sender to a real `spoke serve` that accepts and queues them.

The hub runs in this process, composed as `hub serve` composes it, so that the load comes in below its HTTP API, as the
others' does; it logs and audits as always. The spoke is a process of its own, told to start nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler
from redis.asyncio import Redis

from common import logs
from common.agent_state import AgentType
from common.commands import Context, SpawnFields
from common.handshake import LINK_PATH
from common.keyfiles import load_signing_key
from common.keyring import PublicKey
from common.listener import listening
from common.memory import settle
from common.node_valkey import open_valkey
from common.peers import Peer
from common.post import open_session
from common.strict_json import encode
from common.trust_store import NewPeer
from hub.agents import Agents
from hub.app import Parts as HubParts
from hub.node import Hub, Stores, open_stores
from hub.rights import rights_of
from hub.settings import HubDirectory, load
from hub.settlement import Settlement
from hub.setup import set_up
from hub.spawning import Spawned, Wish
from hub.telling import Telling
from tests.bench.measure import Measured, measure
from tests.spoke_node import SpokeNode, eventually, run_in_process, tables

_UNLIMITED: Final = {"agents": 0, "queue": 100_000_000}
_POLICY: Final = {
    "agents": 1,
    "queued": 100_000_000,
    "rate_per_s": 1_000_000,
    "commands_per_s": 1_000_000,
    "store_mib": 0,
}
_TYPE: Final[AgentType] = "worker"
_NUMBERS: Final = itertools.count()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Delivered:
    """Lets a caller wait for the moment in which its spawn's answer is recorded."""

    def __init__(self, agents: Agents) -> None:
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._record = agents.record
        agents.record = self._recorded  # type: ignore[method-assign]  # the one place that learns of it

    async def _recorded(
        self, peer: Peer, settlements: Sequence[Settlement], now_ms: int, *rest: Any, **more: Any
    ) -> Any:
        answer = await self._record(peer, settlements, now_ms, *rest, **more)
        for settlement in settlements:
            if future := self._waiting.pop(settlement.agent_id, None):
                future.set_result(None)
        return answer

    def expect(self, agent_id: str) -> asyncio.Future[None]:
        self._waiting[agent_id] = future = asyncio.get_running_loop().create_future()
        return future


async def spawns_by_post(scratch: Path, in_flight: int, seconds: float) -> Measured:
    """Spawn until each is accepted and its reply recorded; the hub offers no link, so all goes by POST."""
    return await _spawns(scratch, in_flight, seconds, link=False)


async def spawns_by_link(scratch: Path, in_flight: int, seconds: float) -> Measured:
    """The same over the spoke's link, with events on their way back over it as well."""
    return await _spawns(scratch, in_flight, seconds, link=True)


@web.middleware
async def _without_link(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.path == LINK_PATH:
        raise web.HTTPNotFound
    return await handler(request)


async def _spawns(scratch: Path, in_flight: int, seconds: float, *, link: bool) -> Measured:
    with (scratch / "hub.log").open("w") as log:
        logs.configure(log)
        async with opened(scratch, link=link) as line:
            return await measure(line.spawn, in_flight, seconds)


@dataclass
class Line:
    """A running hub and its spoke."""

    parts: HubParts
    stores: Stores
    client: Redis
    """Of the hub's Valkey."""
    spawn: Callable[[], Awaitable[None]]
    """Spawns an agent and returns when the spoke's answer is recorded."""


@asynccontextmanager
async def opened(scratch: Path, *, link: bool) -> AsyncIterator[Line]:
    """Run both and yield them once they have met."""
    directory = scratch / f"spawns-{next(_NUMBERS)}"
    directory.mkdir()
    async with AsyncExitStack() as stack:
        hub = _hub(directory)
        node = SpokeNode(directory, toml=tables(limits=_UNLIMITED, policy=_POLICY))
        stack.enter_context(node)
        stores = stack.enter_context(open_stores(hub))
        rights = rights_of(hub.me.instance)
        valkey = await stack.enter_async_context(open_valkey(hub.directory, hub.settings.valkey, rights))
        stack.enter_context(stores.audit.serving())
        session = await stack.enter_async_context(open_session())
        parts = HubParts(hub, valkey, stores, session, Telling())
        if not link:
            parts.app.middlewares.insert(0, _without_link)
        await stack.enter_async_context(listening(parts.app, hub.settings.node.listen))
        stores.trust.add(NewPeer(node.id, "spoke", _public_key(node), node.url, {}), "active", 0)
        _introduce(hub, node, directory)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(parts.sender.run()), group.create_task(parts.spawning.enqueuing.run())]
            settle()
            await _until_met(stores, parts, node, link=link)
            yield Line(parts, stores, valkey.client, _spawning(parts, node.id))
            for task in tasks:
                task.cancel()


async def _until_met(stores: Stores, parts: HubParts, node: SpokeNode, *, link: bool) -> None:
    """Wait until the spoke knows by which way it is to be reached."""
    (peer,) = stores.trust.current().peers()
    if link:
        await eventually(lambda: parts.links.find(peer.tenant), "the link is up")
    else:
        await eventually(lambda: node.log_lines("link.not_offered"), "the spoke has asked for a link in vain")


def _spawning(parts: HubParts, spoke: str) -> Callable[[], Awaitable[None]]:
    delivered = _Delivered(parts.agents)
    fields = SpawnFields(
        taskId="T-1",
        agentType=_TYPE,
        context=Context(
            repository="file:///srv/app.git", branch="main", workItems=["fix the login redirect"], skills=["python"]
        ),
    )

    async def call() -> None:
        agent_id = parts.clock.new_id()
        recorded = delivered.expect(agent_id)
        (answer,) = await parts.spawning.spawn([Wish(spoke, fields, agent_id)])
        if not isinstance(answer, Spawned):
            raise answer
        await recorded

    return call


def _hub(directory: Path) -> Hub:
    home = HubDirectory(directory / "hub")
    set_up(home, "hub-eu", f"127.0.0.1:{_free_port()}", None)
    return Hub.load(home, load(home))


def _introduce(hub: Hub, node: SpokeNode, directory: Path) -> None:
    """Register the hub at the spoke by its public key."""
    jwk = directory / "hub.jwk"
    jwk.write_bytes(encode(hub.key.public.to_jwk()))
    url = f"http://{hub.settings.node.listen}"
    run_in_process(node.directory, "peer", "add", "hub-eu", "--key", str(jwk), "--url", url)


def _public_key(node: SpokeNode) -> PublicKey:
    return load_signing_key(node.directory / "keys" / f"{node.id}.key").public
