"""A link: one WebSocket between two instances after its handshake, for envelopes either way (PROTOCOL section 3).

Each text message is an envelope or a problem document. What is no REPLY and no problem is a request and gets one
answer; **answers come in the order of the requests**, which is how a problem finds the request it rejects. At most
`OUTSTANDING` requests of one side may wait for answers, so a side that only reads can never be made to hold more.

Closed: by binary or oversized messages, by more requests than that, by an answer that nobody waits for, when an answer
is overdue, when pings stay unanswered, and at once when the peer is no longer active (attack row 35). What was not
answered by then is `Unavailable`: nobody knows. Nothing is ever inflated (attack row 42).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import structlog
from aiohttp import WSMsgType

from common import jose, strict_json
from common.envelope import EnvelopeType
from common.errors import EnvelopeRejected, HubspokeError, LocalError, Unavailable
from common.http import encode_problem
from common.inbox import BadReply, TrustSource
from common.peers import Peer
from common.post import MAX_PROBLEM_BYTES, read_problem
from common.websocket import GOING_AWAY, INTERNAL, LOST, POLICY, PROTOCOL_ERROR, UNSUPPORTED, Socket, close, send

OUTSTANDING: Final = 8
HANDSHAKE_S: Final = 10.0
ANSWER_S: Final = 30.0
_POLL_S: Final = 0.5
_MAX_HEADER: Final = 1024

Serve = Callable[[bytes], Awaitable[bytes]]
_log: Final = structlog.get_logger("link")


def read_answer(raw: bytes) -> bytes:
    """Return an answer that is an envelope; raises `EnvelopeNotTaken` for a problem document."""
    if not raw.startswith(b"{"):
        return raw
    if len(raw) > MAX_PROBLEM_BYTES:
        raise BadReply(f"the peer's problem document is longer than {MAX_PROBLEM_BYTES} bytes")
    raise read_problem(raw)


def is_answer(raw: bytes) -> bool:
    """Whether a message answers something: a problem document, or an envelope that calls itself a REPLY.

    The header is not believed: it only says who is to verify the envelope.
    """
    return raw.startswith(b"{") or _is_reply(raw[:_MAX_HEADER].split(b".", 1)[0])


@lru_cache(maxsize=64)  # a peer's envelopes of one type have one header as long as its key is the same
def _is_reply(encoded: bytes) -> bool:
    try:
        header = strict_json.parse(jose.decode_base64url(encoded))
    except EnvelopeRejected:
        return False
    return isinstance(header, dict) and header.get("typ") == EnvelopeType.REPLY


def _how_it_ended(message: Any) -> tuple[int, str]:
    if message.type is WSMsgType.CLOSE:
        return message.data or LOST, message.extra or ""
    if message.type is WSMsgType.ERROR:
        return getattr(message.data, "code", LOST), str(message.data)
    return LOST, "the connection ended"


@dataclass(slots=True)
class _Unanswered:
    since: float
    answer: asyncio.Future[bytes] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass(frozen=True, slots=True)
class Opened:
    """Who is at the other end of a link, at which address, since when (ms since the epoch)."""

    peer: Peer
    remote: str
    since_ms: int


class Link:
    """An open link; `serve` answers the peer's requests, `trust` says whether it may go on."""

    def __init__(
        self, socket: Socket, opened: Opened, serve: Serve, trust: TrustSource, *, answer_s: float = ANSWER_S
    ) -> None:
        self.peer = opened.peer
        self.remote = opened.remote
        self.since_ms = opened.since_ms
        self._socket = socket
        self._serve = serve
        self._trust = trust
        self._answer_s = answer_s
        self._slots = asyncio.Semaphore(OUTSTANDING)
        self._unanswered: deque[_Unanswered] = deque()
        self._requests: asyncio.Queue[bytes] = asyncio.Queue(OUTSTANDING)
        self._ending: tuple[int, str] | None = None
        self._ended = asyncio.Event()

    @property
    def open(self) -> bool:
        """Whether envelopes can be sent."""
        return self._ending is None

    @property
    def ending(self) -> tuple[int, str]:
        """The code and the reason with which the link ended, ours or the peer's."""
        return self._ending or (0, "")

    def end(self, code: int, reason: str) -> None:
        """Close the link soon, with a close code and a short reason; the first one counts."""
        if self._ending is None:
            self._ending = (code, reason)
            self._ended.set()

    async def deliver(self, raw: bytes) -> bytes:
        """Send one envelope and return the bytes of its answer; raises `EnvelopeNotTaken` or `Unavailable`."""
        await self._slots.acquire()
        if not self.open:
            # Passes the wake-up on: everybody who waits for a slot is to hear that there will be none.
            self._slots.release()
            raise Unavailable(f"the link with {self.peer.instance} was closed")
        sent = _Unanswered(time.monotonic())
        self._unanswered.append(sent)
        try:
            # The frame is written before anything is awaited: the order of the queue is the order on the wire.
            await send(self._socket, raw)
            return read_answer(await sent.answer)
        finally:
            # Its answer still comes, and has its place in the order.
            sent.answer.cancel()

    async def run(self) -> None:
        """Serve until the link ends."""
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(self._serve_all())
            group.create_task(self._watch())
            try:
                self.end(*await self._read())
            finally:
                serving.cancel()
                self.end(GOING_AWAY, "stopping")
                self._fail_unanswered()

    async def _read(self) -> tuple[int, str]:
        """Take messages until the socket is closed; returns how the other side, or the network, closed it."""
        while True:
            message = await self._socket.receive()
            if message.type is WSMsgType.TEXT:
                self._take(message.data)
            elif message.type is WSMsgType.BINARY:
                self.end(UNSUPPORTED, "binary message")
            else:
                return _how_it_ended(message)

    def _take(self, raw: bytes) -> None:
        if not self.open:
            return
        if not is_answer(raw):
            if self._requests.full():
                self.end(POLICY, "too many requests without an answer")
            else:
                self._requests.put_nowait(raw)
        elif self._unanswered:
            sent = self._unanswered.popleft()
            self._slots.release()
            if not sent.answer.done():
                sent.answer.set_result(raw)
        else:
            self.end(PROTOCOL_ERROR, "an answer to nothing")

    def _fail_unanswered(self) -> None:
        while self._unanswered:
            answer = self._unanswered.popleft().answer
            if not answer.done():
                answer.set_exception(Unavailable(f"the link with {self.peer.instance} ended before the answer"))
        self._slots.release()

    async def _serve_all(self) -> None:
        # Who has gone needs no answer.
        with suppress(Unavailable):
            while True:
                await send(self._socket, await self._answer(await self._requests.get()))
                self._check_active()

    async def _answer(self, raw: bytes) -> bytes:
        try:
            return await self._serve(raw)
        except HubspokeError as error:
            return encode_problem(error)
        except Exception:
            _log.exception("request.crashed", peer=self.peer.instance)
            return encode_problem(LocalError("the node failed; its log has the details", code="internal"))

    async def _watch(self) -> None:
        while self.open:
            self._check_active()
            if self._unanswered and time.monotonic() - self._unanswered[0].since > self._answer_s:
                self.end(POLICY, "an answer is overdue")
            try:
                async with asyncio.timeout(_POLL_S):
                    await self._ended.wait()
            except TimeoutError:
                pass
        await close(self._socket, *self.ending)

    def _check_active(self) -> None:
        try:
            peer = self._trust.current().find(self.peer.instance)
        except Unavailable:
            self.end(INTERNAL, "unavailable")
            return
        if peer is None or peer.tenant != self.peer.tenant or peer.state != "active":
            self.end(POLICY, "connection_inactive")
