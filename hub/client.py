"""A typed client of the hub's admin API, for the command line and for programs.

Answers are the JSON objects of the API. Raises `Refused` with the hub's `code` when the hub says no, and
`NodeUnreachable` when there is no hub to ask: then nobody knows whether a request took effect, and a spawn with the
same `agentId` may be repeated.
"""

from __future__ import annotations

import io
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from common import strict_json
from common.command_line import Unreachable
from common.errors import HubspokeError, Malformed
from hub.records import ENDED

_API: Final = "/api/v1"
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
    """One event of a stream; `event_id` is what to resume from."""

    event: str
    event_id: str
    data: dict[str, Any]


class HubClient:
    """Asks one hub; use it with `async with`. Without `tls` it believes the authorities of the system."""

    def __init__(self, url: str, token: str, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"}
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
        return self._session

    def _gone(self, error: Exception) -> NodeUnreachable:
        why = type(error).__name__
        return NodeUnreachable(f"no hub answers at {self._url} ({why}); start it with hub serve")

    async def _call(
        self, method: str, path: str, *, body: Any = None, query: Mapping[str, str | int] | None = None
    ) -> dict[str, Any]:
        encoded = None if body is None else io.BytesIO(strict_json.encode(body))
        headers = {} if encoded is None else {"Content-Type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S, sock_connect=_CONNECT_TIMEOUT_S)
        try:
            async with self._open().request(
                method, self._url + path, data=encoded, params=query, headers=headers, timeout=timeout
            ) as response:
                return _answer(response.status, await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._gone(error) from error

    async def spawn(self, spawn: Mapping[str, Any]) -> dict[str, Any]:
        """Start an agent, as `POST /api/v1/agents` takes it."""
        return await self._call("POST", f"{_API}/agents", body=dict(spawn))

    async def agent(self, agent_id: str, *, live: bool = False) -> dict[str, Any]:
        """Return one agent; `live` asks its spoke first."""
        return await self._call("GET", f"{_API}/agents/{agent_id}", query={"live": "true"} if live else None)

    async def agents(self, query: Mapping[str, str | int]) -> dict[str, Any]:
        """Return one page of agents."""
        return await self._call("GET", f"{_API}/agents", query=query)

    async def kill(self, agent_id: str, *, grace_s: int | None = None, reason: str | None = None) -> dict[str, Any]:
        """Stop an agent."""
        body = {"graceS": grace_s, "reason": reason}
        given = {name: value for name, value in body.items() if value is not None}
        return await self._call("POST", f"{_API}/agents/{agent_id}/kill", body=given)

    async def place(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Start many agents, as `POST /api/v1/agents/place` takes them; all refused is an answer like any other."""
        try:
            return await self._call("POST", f"{_API}/agents/place", body=dict(batch))
        except Refused as error:
            if error.code != "all_refused":
                raise
            return error.problem

    async def kill_many(self, selector: Mapping[str, Any]) -> dict[str, Any]:
        """Stop all agents of a task, of a spoke, or all."""
        return await self._call("POST", f"{_API}/agents/kill", body=dict(selector))

    async def log(self, agent_id: str, offset: int) -> dict[str, Any]:
        """Return a piece of an agent's log."""
        return await self._call("GET", f"{_API}/agents/{agent_id}/logs", query={"offset": offset})

    async def peers(self) -> list[dict[str, Any]]:
        """Return all peers."""
        answer = await self._call("GET", f"{_API}/peers")
        return list(answer["peers"])

    async def change_peer(self, instance: str, action: str, **body: str) -> dict[str, Any]:
        """Do `approve` (with `fingerprint`), `suspend`, `resume` or `revoke`."""
        return await self._call("POST", f"{_API}/peers/{instance}/{action}", body=body or None)

    async def freeze(self, instance: str, *, kill_agents: bool = False, reason: str | None = None) -> dict[str, Any]:
        """Have a spoke refuse this hub's spawns, and end its agents if asked."""
        given = {} if reason is None else {"reason": reason}
        return await self._call("POST", f"{_API}/peers/{instance}/freeze", body={"killAgents": kill_agents, **given})

    async def thaw(self, instance: str) -> dict[str, Any]:
        """Have a spoke take this hub's spawns again."""
        return await self._call("POST", f"{_API}/peers/{instance}/thaw")

    async def add_webhook(self, url: str, events: Sequence[str] = (), spokes: Sequence[str] = ()) -> dict[str, Any]:
        """Have `url` told of what happens; the answer holds the secret, which is shown only here."""
        return await self._call(
            "POST", f"{_API}/webhooks", body={"url": url, "events": list(events), "spokes": list(spokes)}
        )

    async def webhooks(self) -> list[dict[str, Any]]:
        """Return all webhooks."""
        answer = await self._call("GET", f"{_API}/webhooks")
        return list(answer["webhooks"])

    async def webhook(self, webhook_id: str) -> dict[str, Any]:
        """Return one webhook and how it goes."""
        return await self._call("GET", f"{_API}/webhooks/{webhook_id}")

    async def test_webhook(self, webhook_id: str) -> dict[str, Any]:
        """Have a message sent now; returns whether it was taken."""
        return await self._call("POST", f"{_API}/webhooks/{webhook_id}/test")

    async def resume_webhook(self, webhook_id: str) -> dict[str, Any]:
        """Try one again at once, also when it was given up."""
        return await self._call("POST", f"{_API}/webhooks/{webhook_id}/resume")

    async def remove_webhook(self, webhook_id: str) -> dict[str, Any]:
        """Tell one nothing more."""
        return await self._call("DELETE", f"{_API}/webhooks/{webhook_id}")

    async def ready(self) -> dict[str, Any]:
        """Return what `/readyz` says when the node is ready."""
        return await self._call("GET", "/readyz")

    async def events(self, query: Mapping[str, str], last_event_id: str = "") -> AsyncIterator[ServerSentEvent]:
        """Yield events until the hub ends the stream; the first one, `open`, comes at once and carries an id."""
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_SILENCE_S)
        try:
            async with self._open().get(
                f"{self._url}{_API}/events", params=query, headers=headers, timeout=timeout
            ) as response:
                if response.status >= _FAILED:
                    _answer(response.status, await response.read())
                async for event in _read_events(response.content):
                    yield event
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._gone(error) from error

    async def changes(self, agent_id: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the agent as it is, and again after each change, until it has ended."""
        position = ""
        while True:
            async for event in self.events({"agentId": agent_id}, position):
                position = event.event_id or position
                agent = await self.agent(agent_id)
                yield agent
                if shown(agent) in ENDED:
                    return


def shown(agent: Mapping[str, Any]) -> str:
    """Return what to show as an agent's status: also `refused` and `expired`, when its spawn never arrived."""
    delivery = agent["delivery"]["state"]
    return delivery if agent["status"] == "pending" and delivery != "delivered" else str(agent["status"])


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
