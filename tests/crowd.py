"""Many spokes in one process that are nothing but their links: real keys, real handshakes, real redialling.

async with Crowd(node, 1000) as crowd:         # registered at the hub, dialling
    await crowd.until_up(1000)
    crowd.handshakes                           # seconds from a dial to the link, of each that was opened

What they are sent they answer with a signed REPLY and do not verify: the hub is what is looked at.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Self

import aiohttp
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.clock import SystemClock
from common.envelope import EnvelopeType
from common.errors import HubspokeError
from common.handshake import LINK_PATH
from common.jose import decode_base64url, encode_base64url
from common.keyring import SigningKey
from common.link import HANDSHAKE_S
from common.trust_store import NewPeer
from common.websocket import LOST, ClientSocket, dial, receive_first, send
from spoke.redial import Ending, redial
from tests.envelopes import sign
from tests.integration.hub.hub_node import HubNode
from tests.integration.hub.standin_spoke import agent_status
from tests.spoke_node import eventually

_CLOCK: Final = SystemClock()
_GOODBYE: Final = frozenset({1000, 1001})


@dataclass
class Member:
    """One spoke of the crowd; `agents` says how often it was asked to spawn each."""

    id: str
    hub: str
    key: SigningKey = field(default_factory=lambda: SigningKey(Ed25519PrivateKey.generate()))
    agents: dict[str, int] = field(default_factory=dict)

    def seal(self, kind: EnvelopeType, **members: Any) -> bytes:
        """An envelope to the hub."""
        now_s = int(time.time())
        claims = {"v": 1, "iss": self.id, "aud": self.hub, "jti": _CLOCK.new_id(), "iat": now_s, "exp": now_s + 60}
        return sign({**claims, **members}, key=self.key, typ=kind)

    async def greet(self, socket: ClientSocket) -> None:
        """Go through the handshake."""
        nonce = json.loads(await receive_first(socket))["challenge"]
        challenge = encode_base64url(os.urandom(32)).decode()
        capacity = {"agents": 4, "running": 0, "queued": 0}
        hello = self.seal(EnvelopeType.HELLO, nonce=nonce, challenge=challenge, capacity=capacity, labels={})
        await send(socket, hello)
        payload = json.loads(decode_base64url((await receive_first(socket)).split(b".")[1]))
        assert payload["nonce"] == challenge

    async def serve(self, socket: ClientSocket) -> int:
        """Answer what comes until the link ends; returns the close code."""
        while True:
            message = await socket.receive()
            if message.type is not aiohttp.WSMsgType.TEXT:
                return message.data if message.type is aiohttp.WSMsgType.CLOSE else LOST
            payload = json.loads(decode_base64url(bytes(message.data).split(b".")[1]))
            results = [self._result(command) for command in payload["commands"]]
            await send(socket, self.seal(EnvelopeType.REPLY, re=payload["jti"], results=results))

    def _result(self, command: dict[str, Any]) -> dict[str, Any]:
        agent_id = command.get("agentId", command["id"])
        if command["command"] == "spawn":
            self.agents[agent_id] = self.agents.get(agent_id, 0) + 1
        return {"id": command["id"], "agent": agent_status(agent_id, taskId=command.get("taskId", "T-1"))}


class Crowd:
    """So many spokes of `node`; they dial until the block ends, with the pauses that a spoke makes."""

    def __init__(self, node: HubNode, count: int) -> None:
        self._node = node
        self.members = [Member(f"crowd-{os.getpid()}-{number}", node.id) for number in range(count)]
        self.up: set[str] = set()
        self.handshakes: list[float] = []
        self.failed = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        with self._node.trust() as store:
            for member in self.members:
                store.add(NewPeer(member.id, "spoke", member.key.public, None, {}), "active", int(time.time()))
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._tasks = [asyncio.create_task(self._keep(member)) for member in self.members]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        assert self._session is not None
        await self._session.close()

    async def until_up(self, count: int, deadline_s: float = 60.0) -> None:
        """Wait until so many links are open."""
        await eventually(lambda: len(self.up) >= count, f"{count} links are open", deadline_s)

    async def _keep(self, member: Member) -> None:
        failures = 0
        while True:
            started = time.monotonic()
            ending = await self._try(member)
            following = redial(ending, time.monotonic() - started, failures, random.random())
            failures = following.failures
            await asyncio.sleep(following.pause_s)

    async def _try(self, member: Member) -> Ending:
        started = time.monotonic()
        assert self._session is not None
        try:
            async with dial(self._session, self._node.url + LINK_PATH) as socket:
                async with asyncio.timeout(HANDSHAKE_S):
                    await member.greet(socket)
                self.handshakes.append(time.monotonic() - started)
                self.up.add(member.id)
                with suppress(HubspokeError):
                    return Ending.GOODBYE if await member.serve(socket) in _GOODBYE else Ending.LOST
        except (HubspokeError, TimeoutError, aiohttp.ClientError, ValueError):
            self.failed += 1
        finally:
            self.up.discard(member.id)
        return Ending.LOST
