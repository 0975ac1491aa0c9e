"""How a client asks a hub: one request and its answer, or a stream of events.

A request whose answer was lost is made again for some seconds where that is harmless, so a hub that restarts is no
error. `NodeUnreachable` means that nobody answers there, or that nobody knows what became of the request; `Refused`
that the hub said no.
"""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast

import aiohttp

from common import strict_json
from common.command_line import Unreachable
from common.errors import HubspokeError, Malformed
from common.trace_context import parse_traceparent
from hub.answers import Change

T = TypeVar("T")
API: Final = "/api/v1"
PAUSE_S: Final = 0.5
PATIENCE: Final = 20
"""So many failures in a row are waited out: a hub that restarts."""
_CONNECT_TIMEOUT_S: Final = 5
_TIMEOUT_S: Final = 30
_SILENCE_S: Final = 45
"""The hub writes at least every 15 s to who watches."""
_FAILED: Final = 400


class NodeUnreachable(Unreachable):
    """No hub answers at the address; start it, or name its directory."""

    code = "node_unreachable"


class Refused(HubspokeError):
    """The hub refused a request; `code` is the hub's, `problem` its whole problem document."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(str(problem.get("detail", "no detail")), code=str(problem.get("code", "internal")))
        self.http_status = status
        self.problem = dict(problem)


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event of a stream: `open` at its beginning, `agent` for a change, `gap` when changes may be gone unseen.

    `event_id` is what to resume from.
    """

    event: str
    event_id: str
    data: dict[str, Any]

    @property
    def change(self) -> Change:
        """The change, of an `agent` event."""
        return cast("Change", self.data)


class Asking:
    """Asks one hub; use it with `async with`. Without `tls` it believes the authorities of the system.

    `is_up`, for who can tell without connecting, is asked before the token goes out: while the hub is down another
    program may listen in its place. What it asks for belongs to the span that `traceparent` names, if that is one.
    """

    def __init__(
        self,
        url: str,
        token: str,
        tls: ssl.SSLContext | None = None,
        is_up: Callable[[], bool] | None = None,
        traceparent: str | None = None,
    ) -> None:
        self._tls = tls
        self._is_up = is_up
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"}
        context = parse_traceparent(traceparent)
        if context is not None:
            self._headers["traceparent"] = context.to_traceparent()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._tls or True)
        jar = aiohttp.DummyCookieJar()
        self._session = aiohttp.ClientSession(headers=self._headers, cookie_jar=jar, connector=connector)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("use the client inside async with")
        if self._is_up is not None and not self._is_up():
            raise ConnectionRefusedError("the hub is down")
        return self._session

    def _gone(self, error: Exception) -> NodeUnreachable:
        why = type(error).__name__
        return NodeUnreachable(f"no hub answers at {self._url} ({why}); start it with hub serve")

    async def ask(
        self,
        kind: type[T],
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, str | int] | None = None,
        again: bool = True,
    ) -> T:
        """Return the answer, a `kind`; `again` says that it does no harm to ask twice.

        Raises `Refused`, `NodeUnreachable`.
        """
        lost = 0
        while True:
            try:
                return cast("T", await self._try(method, path, body, query))
            except (aiohttp.ClientConnectorError, TimeoutError) as error:
                # Nobody was there to take it, or waiting longer may take for ever. After a lost answer it is a restart.
                if not lost or isinstance(error, TimeoutError):
                    raise self._gone(error) from error
                failure: Exception = error
            except (aiohttp.ClientError, OSError) as error:
                failure = error
            lost += 1
            if not again or lost > PATIENCE:
                raise self._gone(failure) from failure
            await asyncio.sleep(PAUSE_S)

    async def _try(self, method: str, path: str, body: Any, query: Mapping[str, str | int] | None) -> dict[str, Any]:
        encoded = None if body is None else io.BytesIO(strict_json.encode(body))
        headers = {} if encoded is None else {"Content-Type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S, sock_connect=_CONNECT_TIMEOUT_S)
        async with self._open().request(
            method, self._url + path, data=encoded, params=query, headers=headers, timeout=timeout
        ) as response:
            return _answer(response.status, await response.read())

    async def events(self, query: Mapping[str, str], last_event_id: str = "") -> AsyncGenerator[ServerSentEvent, None]:
        """Yield events until the hub ends the stream; the first one, `open`, comes at once and carries an id.

        `query` may hold `agentId`, `spoke`, `taskId`. Raises `Refused`, `NodeUnreachable`.
        """
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_SILENCE_S)
        try:
            async with self._open().get(
                f"{self._url}{API}/events", params=query, headers=headers, timeout=timeout
            ) as response:
                if response.status >= _FAILED:
                    _answer(response.status, await response.read())
                async for event in _read_events(response.content):
                    yield event
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._gone(error) from error


def _answer(status: int, body: bytes) -> dict[str, Any]:
    try:
        answer = strict_json.parse(body)
    except Malformed:
        answer = {}
    if not isinstance(answer, dict):
        answer = {}
    if status >= _FAILED:
        raise Refused(status, answer or {"detail": f"status {status}; is this a hub?"})
    return answer


async def _read_events(lines: aiohttp.StreamReader) -> AsyncIterator[ServerSentEvent]:
    fields: dict[str, str] = {}
    async for line in lines:
        name, _, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(": ")
        if name:
            fields[name] = value
        elif fields:
            data = strict_json.parse(fields.get("data", "{}").encode())
            if "id" in fields or "data" in fields:
                yield ServerSentEvent(fields.get("event", "open"), fields.get("id", ""), data)
            fields = {}
