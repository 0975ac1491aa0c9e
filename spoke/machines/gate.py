"""`GET /machines/v1/link`: a machine dials in, both prove who they are, and from then on either may ask the other.

A hub is nobody here: only a key that `spoke machine add` registered opens a channel. Without machines there is nothing
at this address. The newest channel of a machine closes the one before, unless that one is another process's and
answers: then the machine's directory was copied, and who came later is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import structlog
from aiohttp import web

from common import strict_json
from common.errors import BadSignature, EnvelopeRejected, HubspokeError, Malformed, RateLimited, Unavailable
from common.http import encode_problem
from common.keyring import SigningKey
from common.link import HANDSHAKE_S
from common.websocket import GOING_AWAY, POLICY, REPLACED, ServerSocket, close, receive_first, send, server_socket
from spoke.machines import frames
from spoke.machines.channel import Channel
from spoke.machines.frames import COPIED, HELLO_TYPE, LINK_PATH, SUBPROTOCOL, Hello, Session
from spoke.machines.registry import Machine, MachineRefused, Machines

MAX_HANDSHAKES: Final = 32
_log: Final = structlog.get_logger("machine")

_Greeted = tuple[Machine, Session, str | None]
"""Who it is, how frames go, and what its process calls itself."""
AnswerMachine = Callable[[Machine, str, dict[str, Any]], Awaitable[dict[str, Any]]]


class Channels:
    """The open channels, one for each machine."""

    def __init__(self) -> None:
        self._by_machine: dict[str, Channel] = {}

    def find(self, machine: str) -> Channel | None:
        """Return the machine's channel while something can be asked over it."""
        channel = self._by_machine.get(machine)
        return channel if channel is not None and channel.open else None

    def all(self) -> dict[str, Channel]:
        """Return the open ones by machine."""
        return {machine: channel for machine, channel in self._by_machine.items() if channel.open}

    @contextmanager
    def holding(self, machine: str, channel: Channel) -> Iterator[None]:
        """Make it the machine's channel until the block ends."""
        if (former := self.find(machine)) is not None:
            _log.warning("machine.link_replaced", machine=machine, reason="it dialed again")
            former.end(REPLACED, "replaced")
        self._by_machine[machine] = channel
        try:
            yield
        finally:
            if self._by_machine.get(machine) is channel:
                del self._by_machine[machine]

    def end_all(self) -> None:
        """Close all: the node stops."""
        for channel in self._by_machine.values():
            channel.end(GOING_AWAY, "stopping")


class Gate:
    """The route of machines, at the spoke `instance`; `key` is made when the first machine is there."""

    def __init__(
        self,
        instance: str,
        key: Callable[[], SigningKey],
        machines: Machines,
        channels: Channels,
        answer: AnswerMachine,
    ) -> None:
        self._instance = instance
        self._key = key
        self._machines = machines
        self._channels = channels
        self._answer = answer
        self._handshakes = 0

    def routes(self) -> list[web.RouteDef]:
        """Return the routes to add to the application."""
        return [web.get(LINK_PATH, self._take)]

    async def _take(self, request: web.Request) -> web.StreamResponse:
        socket = server_socket(SUBPROTOCOL)
        offered = socket.can_prepare(request)
        if not offered or offered.protocol != SUBPROTOCOL or not self._machines.all():
            raise web.HTTPNotFound
        with self._shaking_hands():
            await socket.prepare(request)
            found = await self._greet(socket, request.remote)
        if found is not None:
            await self._serve(socket, *found)
        return socket

    @contextmanager
    def _shaking_hands(self) -> Iterator[None]:
        if self._handshakes >= MAX_HANDSHAKES:
            raise RateLimited("too many machines dial at once; try again")
        self._handshakes += 1
        try:
            yield
        finally:
            self._handshakes -= 1

    async def _greet(self, socket: ServerSocket, remote: str | None) -> _Greeted | None:
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                return await self._shake_hands(socket)
        except TimeoutError:
            error: HubspokeError = EnvelopeRejected("too_slow", f"no HELLO came within {HANDSHAKE_S:.0f} s")
        except HubspokeError as refused:
            error = refused
        _log.warning("machine.refused", remote=remote, code=error.code, reason=error.message)
        with suppress(Unavailable):
            await send(socket, encode_problem(error))
        await close(socket, POLICY, error.code)
        return None

    async def _shake_hands(self, socket: ServerSocket) -> _Greeted:
        """Return who it is, once it has our proof too; raises `EnvelopeRejected`, `Unavailable`."""
        key, nonce = self._key(), frames.fresh_nonce()
        await send(socket, strict_json.encode({"challenge": nonce}))
        jws = frames.parse_signed(await receive_first(socket), HELLO_TYPE)
        machine = self._machines.find(jws.kid)
        if machine is None:
            raise BadSignature("no machine has that key")
        hello = frames.open_hello(jws, machine.key, nonce)
        if hello.aud != self._instance or hello.iss != machine.name:
            raise EnvelopeRejected("wrong_audience", f"this is {self._instance}, and that key is {machine.name}'s")
        if hello.challenge is None:
            raise Malformed("a machine's HELLO carries a challenge")
        await self._check_only(machine, hello.process)
        answer = Hello(iss=self._instance, aud=machine.name, nonce=hello.challenge, machine=machine.id)
        await send(socket, frames.seal_hello(key, answer))
        return machine, Session(key, machine.key, f"{nonce}.{hello.challenge}"), hello.process

    async def _check_only(self, machine: Machine, process: str | None) -> None:
        """Raise `MachineRefused` when another process works with this machine's key, and answers."""
        former = self._channels.find(machine.id)
        if former is not None and former.process != process and await former.is_answered():
            _log.error("machine.copied", machine=machine.id, reason="two processes have its key; the later is refused")
            raise MachineRefused(f"another process works as {machine.name}, and answers", code=COPIED)

    async def _serve(self, socket: ServerSocket, machine: Machine, session: Session, process: str | None) -> None:
        def is_registered() -> bool:
            return self._machines.find(machine.key.kid) == machine

        async def answer(what: str, about: dict[str, Any]) -> dict[str, Any]:
            if not is_registered():
                raise Unavailable("this machine was forgotten here")  # before its channel has noticed
            return await self._answer(machine, what, about)

        channel = Channel(socket, session, answer, is_registered, process)
        with self._channels.holding(machine.id, channel):
            _log.info("machine.link_up", machine=machine.id)
            try:
                await channel.run()
            finally:
                code, reason = channel.ending
                _log.info("machine.link_down", machine=machine.id, code=code, reason=reason)
