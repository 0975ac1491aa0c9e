"""An open channel between a node and a machine: either side asks, the other answers, over one WebSocket.

A frame that is not the next one of the session ends the channel. Asked at once is at most `OUTSTANDING`; what has no
answer when the channel ends, or in time, is `Unavailable`: nobody knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import structlog
from aiohttp import WSMsgType

from common.errors import COMMAND_RETRYABLE, CommandRefused, EnvelopeRejected, HubspokeError, Malformed, Unavailable
from common.websocket import GOING_AWAY, LOST, POLICY, Socket, close, send
from spoke.agent_record import TamperedRecord
from spoke.held import LeaseLost
from spoke.machines.frames import Answer, Ask, Session, read_body

OUTSTANDING: Final = 64
ANSWER_S: Final = 30.0
HERE: Final = "here"
"""The question whether anybody is at the other end."""
_HERE_S: Final = 3.0
_WATCH_S: Final = 0.5
_LOST: Final = "lease_lost"
_log: Final = structlog.get_logger("machine")

Serve = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


class Channel:
    """`serve` answers what the other side asks; `may_go_on` is asked all the time whether the channel may stay."""

    def __init__(
        self,
        socket: Socket,
        session: Session,
        serve: Serve,
        may_go_on: Callable[[], bool],
        process: str | None = None,
    ) -> None:
        """`process` is what the other side named itself in its HELLO."""
        self.process = process
        self._socket = socket
        self._session = session
        self._serve = serve
        self._may_go_on = may_go_on
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._asked = 0
        self._ended = asyncio.Event()
        self.ending = (LOST, "")
        """The close code and its reason."""

    @property
    def open(self) -> bool:
        """Whether anything can be asked."""
        return not self._ended.is_set()

    def end(self, code: int, reason: str) -> None:
        """Close it soon; the first reason counts."""
        if self.open:
            self.ending = (code, reason)
            self._ended.set()

    async def ask(self, what: str, about: dict[str, Any], timeout_s: float = ANSWER_S) -> dict[str, Any]:
        """Return the answer; raises what the other side refused with, or `Unavailable`."""
        if not self.open or len(self._waiting) >= OUTSTANDING:
            raise Unavailable("the channel is closed, or too much is asked at once")
        self._asked += 1
        number = self._asked
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            async with asyncio.timeout(timeout_s):
                await self._send({"ask": number, "what": what, "about": about})
                return await answer
        except TimeoutError as error:
            raise Unavailable("no answer came in time") from error
        finally:
            self._waiting.pop(number, None)

    async def is_answered(self) -> bool:
        """Whether somebody is at the other end and answers within seconds, whatever the answer is."""
        try:
            await self.ask(HERE, {}, _HERE_S)
        except Unavailable:
            return False
        except HubspokeError:
            return True
        return True

    async def run(self) -> None:
        """Serve until the channel ends."""
        reading = asyncio.ensure_future(self._read())
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            while self.open and not reading.done():
                if not self._allowed():
                    self.end(POLICY, "connection_inactive")
                await asyncio.wait({reading, ended}, timeout=_WATCH_S, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                self.end(*reading.result())
        finally:
            self.end(GOING_AWAY, "stopping")
            await self._wind_up([reading, ended])

    def _allowed(self) -> bool:
        try:
            return self._may_go_on()
        except HubspokeError:
            return False

    async def _wind_up(self, waited: list[asyncio.Future[Any]]) -> None:
        tasks = [*waited, *self._serving]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(Unavailable("the channel ended before the answer"))
        await close(self._socket, *self.ending)

    async def _read(self) -> tuple[int, str]:
        while True:
            message = await self._socket.receive()
            if message.type is WSMsgType.CLOSE:
                return message.data or LOST, message.extra or ""
            if message.type is not WSMsgType.TEXT:
                return LOST, "the connection ended"
            try:
                self._take(read_body(self._session.open(message.data)))
            except EnvelopeRejected as error:
                _log.warning("machine.frame_refused", code=error.code, reason=error.message)
                return POLICY, error.code

    def _take(self, body: Ask | Answer) -> None:
        if isinstance(body, Answer):
            self._settle(body)
            return
        if len(self._serving) >= OUTSTANDING:
            raise Malformed("too much is asked at once")
        task = asyncio.ensure_future(self._answer(body))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    def _settle(self, body: Answer) -> None:
        answer = self._waiting.get(body.answer)
        if answer is None or answer.done():
            return  # whoever asked waits no more
        if body.error is None:
            answer.set_result(body.told)
        else:
            answer.set_exception(_read_error(body.error.code, body.error.message))

    async def _answer(self, body: Ask) -> None:
        answer: dict[str, Any] = {"answer": body.ask}
        try:
            answer["told"] = {} if body.what == HERE else await self._serve(body.what, body.about)
        except LeaseLost:
            answer["error"] = {"code": _LOST, "message": ""}
        except HubspokeError as error:
            answer["error"] = {"code": error.code, "message": error.message}
        except Exception:
            _log.exception("machine.request_crashed", what=body.what)
            answer["error"] = {"code": "internal", "message": "the other side failed; its log has the details"}
        with suppress(Unavailable):  # whoever has gone needs no answer
            await self._send(answer)

    async def _send(self, body: dict[str, Any]) -> None:
        # Sealed and written before anything is awaited: the order of the numbers is the order on the wire.
        await send(self._socket, self._session.seal(body))


def _read_error(code: str, message: str) -> Exception:
    if code == _LOST:
        return LeaseLost()
    if code == TamperedRecord.code:
        return TamperedRecord(message)
    if code in COMMAND_RETRYABLE:
        return CommandRefused(code, message)
    return Unavailable(message)
