"""A hub that takes links from a real spoke, one step at a time, and may go wrong at each.

hub = BareHub()
async with hub.taking_links(node):
    hub.register(node)
    await hub.linked()
    (result,) = await hub.ask_over_link(node, hub.spawn(repository))
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

from common.envelope import EnvelopeType, EventBody, HelloBody, ReplyBody
from common.handshake import LINK_PATH
from common.link import is_answer
from common.websocket import ServerSocket, server_socket
from tests.envelopes import NONCE, sign
from tests.peer import HubPeer
from tests.spoke_node import SpokeNode, eventually


@dataclass
class BareHub(HubPeer):
    """A `HubPeer` with links; `hellos` are the bodies of the HELLOs that came, `closings` how the spoke closed."""

    hellos: list[HelloBody] = field(default_factory=list)
    closings: list[int | None] = field(default_factory=list)
    dials: int = 0
    refuse_links_with: int | None = None
    """Answer a dial with this status of HTTP."""
    make_challenge: bytes = b'{"challenge":"%s"}' % NONCE.encode()
    make_hello: Callable[[BareHub, SpokeNode, str], bytes] | None = None
    """Return what is sent in place of the HELLO, given the spoke's challenge."""
    socket: ServerSocket | None = None
    _answers: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)

    @asynccontextmanager
    async def taking_links(self, node: SpokeNode) -> AsyncIterator[None]:
        """Listen for the node, on the same port each time."""

        async def take(request: web.Request) -> web.StreamResponse:
            self.dials += 1
            if self.refuse_links_with is not None:
                return web.Response(status=self.refuse_links_with)
            socket = server_socket()
            await socket.prepare(request)
            await self._serve(socket, node)
            return socket

        app = web.Application()
        app.add_routes([web.get(LINK_PATH, take)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        port = 0 if self.url is None else int(self.url.rpartition(":")[2])
        await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield
        finally:
            if self.socket is not None:
                await self.socket.close(code=1001)
            await runner.cleanup()

    async def _serve(self, socket: ServerSocket, node: SpokeNode) -> None:
        await socket.send_frame(self.make_challenge, WSMsgType.TEXT)
        message = await socket.receive()
        if message.type is WSMsgType.TEXT:
            body = self.open(node, message.data).body
            assert isinstance(body, HelloBody)
            assert body.nonce == NONCE
            assert body.challenge is not None
            self.hellos.append(body)
            hello = (self.make_hello or type(self).hello)(self, node, body.challenge)
            await socket.send_frame(hello, WSMsgType.TEXT)
            self.socket = socket
            message = await socket.receive()
        while message.type is WSMsgType.TEXT:
            await self._take(socket, message.data, node)
            message = await socket.receive()
        self.socket = None
        self.closings.append(message.data if message.type is WSMsgType.CLOSE else None)

    def hello(self, node: SpokeNode, nonce: str, **changes: Any) -> bytes:
        """A HELLO; `changes` are to its payload."""
        return sign({**self.claims(node), "nonce": nonce, **changes}, key=self.key, typ=EnvelopeType.HELLO)

    async def _take(self, socket: ServerSocket, raw: bytes, node: SpokeNode) -> None:
        if is_answer(raw):
            self._answers.put_nowait(raw)
            return
        envelope = self.open(node, raw)
        assert isinstance(envelope.body, EventBody)
        await socket.send_frame(self._acknowledge(envelope, envelope.body, node), WSMsgType.TEXT)

    async def linked(self) -> ServerSocket:
        """Wait until a link is up."""
        socket: ServerSocket = await eventually(lambda: self.socket, "the spoke has dialed")
        return socket

    async def send_over_link(self, raw: bytes) -> bytes:
        """Send an envelope and return what answers it."""
        await (await self.linked()).send_frame(raw, WSMsgType.TEXT)
        async with asyncio.timeout(20):
            return await self._answers.get()

    async def ask_over_link(self, node: SpokeNode, *commands: dict[str, Any]) -> list[dict[str, Any]]:
        """Send commands and return their results, from a REPLY that was checked."""
        return self.results(node, await self.send_over_link(self.seal(node, *commands)))

    def results(self, node: SpokeNode, raw: bytes) -> list[dict[str, Any]]:
        """Return the results in a REPLY."""
        body = self.open(node, raw).body
        assert isinstance(body, ReplyBody)
        return [result.model_dump(by_alias=True, exclude_none=True) for result in body.results]


def code_of(raw: bytes) -> str:
    """Return the code of a problem document."""
    code: str = json.loads(raw)["code"]
    return code
