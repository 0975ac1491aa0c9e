"""Our own line: spawns through a real hub's outbox and sender to a real `spoke serve` that accepts and queues them.

The hub runs in this process, composed as `hub serve` composes it, so that the load comes in below its HTTP API, as the
others' does; the spoke is a process of its own, told to start nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import structlog

from common.agent_state import AgentType
from common.commands import Context, SpawnFields
from common.keyfiles import load_signing_key
from common.keyring import PublicKey
from common.listener import listening
from common.node_valkey import open_valkey
from common.peers import Peer
from common.post import open_session
from common.strict_json import encode
from common.trust_store import NewPeer
from hub.agents import Agents
from hub.app import Parts as HubParts
from hub.node import Hub, open_stores
from hub.rights import rights_of
from hub.settings import HubDirectory, load
from hub.settlement import Settlement
from hub.setup import set_up
from hub.spawning import Spawned, Wish
from tests.bench.measure import Measured, measure
from tests.spoke_node import SpokeNode, run_in_process, tables

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


async def signed_spawns(scratch: Path, in_flight: int, seconds: float) -> Measured:
    """Spawn through hub and spoke until each is accepted and its reply recorded."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    directory = scratch / f"spawns-{next(_NUMBERS)}"
    directory.mkdir()
    async with AsyncExitStack() as stack:
        hub = _hub(directory)
        node = SpokeNode(directory, toml=tables(limits=_UNLIMITED, policy=_POLICY))
        stack.enter_context(node)
        stores = stack.enter_context(open_stores(hub))
        _introduce(hub, node, directory)
        rights = rights_of(hub.me.instance)
        valkey = await stack.enter_async_context(open_valkey(hub.directory, hub.settings.valkey, rights))
        session = await stack.enter_async_context(open_session())
        parts = HubParts(hub, valkey, stores, session)
        stores.trust.add(NewPeer(node.id, "spoke", _public_key(node), node.url, {}), "active", 0)
        await stack.enter_async_context(listening(parts.app, hub.settings.node.listen))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(parts.sender.run()), group.create_task(parts.spawning.enqueuing.run())]
            found = await _load(parts, node.id, in_flight, seconds)
            for task in tasks:
                task.cancel()
        return found


async def _load(parts: HubParts, spoke: str, in_flight: int, seconds: float) -> Measured:
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

    return await measure(call, in_flight, seconds)


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
