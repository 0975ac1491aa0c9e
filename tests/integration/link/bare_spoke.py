"""A spoke that dials a hub with a bare WebSocket client, to do right or wrong at every step."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
from aiohttp import WSMsgType

from common.envelope import EnvelopeType, HelloBody, VerifiedEnvelope
from common.handshake import LINK_PATH, SUBPROTOCOL
from common.keyring import SigningKey
from tests.envelopes import NONCE, sign
from tests.integration.hub.hub_node import HubNode
from tests.integration.hub.standin_spoke import StandinSpoke, is_question

Socket = aiohttp.ClientWebSocketResponse[Any]
CAPACITY: Final = {"agents": 4, "running": 1, "queued": 7}


class BareSpoke(StandinSpoke):
    """A spoke without a URL."""

    @classmethod
    def registered_at(cls, hub: HubNode) -> BareSpoke:
        """Return a new spoke that is an active peer of the hub."""
        made = cls(hub)
        hub.add_peer(made.id, made.key.public, None)
        return made

    @asynccontextmanager
    async def dial(self, **options: Any) -> AsyncIterator[Socket]:
        """Open a WebSocket without a handshake."""
        asked = {"protocols": (SUBPROTOCOL,), "max_msg_size": 2**21, **options}
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(self.node.url + LINK_PATH, **asked) as socket,
        ):
            yield socket

    def hello(self, nonce: str, *, key: SigningKey | None = None, **changes: Any) -> bytes:
        """A HELLO; `changes` are to its payload."""
        told = {"nonce": nonce, "challenge": NONCE, "capacity": CAPACITY, "labels": {"os": "linux"}}
        return sign({**self.claims_to_hub(), **told, **changes}, key=key or self.key, typ=EnvelopeType.HELLO)

    async def greet(self, socket: Socket) -> VerifiedEnvelope:
        """Go through the handshake and return the hub's HELLO."""
        await send(socket, self.hello(await challenge(socket)))
        answer = self.open(await received(socket))
        assert isinstance(answer.body, HelloBody)
        assert (answer.body.nonce, answer.claims.aud) == (NONCE, self.id)
        return answer

    @asynccontextmanager
    async def linked(self) -> AsyncIterator[Socket]:
        """Open a link."""
        async with self.dial() as socket:
            await self.greet(socket)
            yield socket

    async def ask(self, socket: Socket, raw: bytes) -> VerifiedEnvelope:
        """Send an envelope and return the verified answer."""
        await send(socket, raw)
        while True:
            envelope = self.open(await received(socket))
            if not is_question(envelope):
                return envelope
            await send(socket, self.reply(envelope))

    async def answer_questions(self, socket: Socket) -> None:
        """Answer what the hub asks, until cancelled."""
        while True:
            for command in await self.serve(socket, questions=True):
                assert command["command"] == "status"

    async def serve(self, socket: Socket, *, questions: bool = False) -> list[dict[str, Any]]:
        """Take one COMMAND, act on it, answer it, and return its commands.

        The status of agents, which the hub asks by itself, too, is answered in passing unless it is what is waited for.
        """
        while True:
            envelope = self.open(await received(socket))
            await send(socket, self.reply(envelope))
            if questions or not is_question(envelope):
                return [dict(command) for command in envelope.body.model_dump()["commands"]]


async def challenge(socket: Socket) -> str:
    """Return the hub's challenge."""
    document = json.loads(await received(socket))
    nonce: str = document.pop("challenge")
    assert document == {}
    return nonce


async def send(socket: Socket, raw: bytes) -> None:
    """Send bytes as a text message."""
    await socket.send_frame(raw, WSMsgType.TEXT)


async def received(socket: Socket) -> bytes:
    """Return the next message."""
    message = await socket.receive(timeout=20)
    assert message.type is WSMsgType.TEXT, message
    return bytes(message.data.encode())


async def problem(socket: Socket) -> dict[str, Any]:
    """Return the next message, which is a problem document."""
    document: dict[str, Any] = json.loads(await received(socket))
    assert document["type"] == f"/problems/{document['code']}"
    return document


async def closed(socket: Socket) -> tuple[int, str]:
    """Return the code and the reason with which the other side closes now."""
    message = await socket.receive(timeout=20)
    assert message.type is WSMsgType.CLOSE, message
    return message.data, message.extra or ""
