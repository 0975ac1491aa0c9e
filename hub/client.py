"""`HubClient`: a hub for programs, asynchronous and typed; the command line is one of them (docs/client.md).

async with HubClient("https://hub.example.org", token) as hub:
    spawned = await hub.spawn("build-1", Work("https://git.example.org/team/app.git", ["fix the login redirect"]))
    agent = await hub.wait(spawned["agentId"])

What takes time (`follow`, `watch`, `wait`, `logs`) goes on over restarts of the hub for some seconds each.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Final

from hub.answers import Agent, shown
from hub.api_client import ApiClient
from hub.asking import PATIENCE, PAUSE_S, NodeUnreachable, Refused, ServerSentEvent
from hub.records import ENDED
from hub.work import Work

__all__ = ["HubClient", "NodeUnreachable", "Refused", "ServerSentEvent", "Work", "shown"]

_AWAY: Final = frozenset({"unreachable", "unavailable", "bad_reply"})
"""Codes of a spoke that is away for a moment."""
_BUSY: Final = "rate_limited"
"""The code of a spoke that takes no more this second: a long log is many questions."""


class HubClient(ApiClient):
    """Asks one hub; use it with `async with`. Without `tls` it believes the authorities of the system."""

    async def every_agent(self, *, spoke: str = "", status: str = "", task_id: str = "") -> AsyncIterator[Agent]:
        """Yield all agents that fit, newest first, however many pages they are."""
        cursor: str | None = ""
        while cursor is not None:
            page = await self.agents(spoke=spoke, status=status, task_id=task_id, limit=1000, cursor=cursor)
            for agent in page["agents"]:
                yield agent
            cursor = page["cursor"]

    async def follow(self, query: Mapping[str, str], last_event_id: str = "") -> AsyncGenerator[ServerSentEvent, None]:
        """Yield events for ever, each once, coming back where a stream ended; `query` is that of `events`.

        `open` comes whenever a stream begins; after a `gap` list once, something may be missing.
        """
        position, failures = last_event_id, 0
        while True:
            try:
                async with aclosing(self.events(query, position)) as events:
                    async for event in events:
                        failures, position = 0, event.event_id or position
                        yield event
            except NodeUnreachable:
                failures += 1
                if failures > PATIENCE:
                    raise
            await asyncio.sleep(PAUSE_S)

    async def watch(self, agent_id: str) -> AsyncGenerator[Agent, None]:
        """Yield the agent as it is, and again after each change, until it has ended."""
        async with aclosing(self.follow({"agentId": agent_id})) as events:
            async for _ in events:
                agent = await self.agent(agent_id)
                yield agent
                if shown(agent) in ENDED:
                    return

    async def wait(self, agent_id: str, timeout_s: float | None = None) -> Agent:
        """Return the agent once it has ended; raises `TimeoutError`."""
        async with asyncio.timeout(timeout_s):
            return [agent async for agent in self.watch(agent_id)][-1]

    async def logs(self, agent_id: str, *, follow: bool = False) -> AsyncIterator[str]:
        """Yield the log in pieces from its beginning; with `follow` until the agent has ended.

        An agent that is started again meanwhile begins a new log, which follows on the former one.
        """
        offset, failures, ended, attempt = 0, 0, not follow, None
        while True:
            try:
                if follow and attempt is None:
                    attempt = (await self.agent(agent_id))["attempt"]
                piece = await self.log(agent_id, offset)
            except (NodeUnreachable, Refused) as error:
                failures += 1
                code = error.code if isinstance(error, Refused) else "unreachable"
                if failures > PATIENCE or (code != _BUSY and (not follow or code not in _AWAY)):
                    raise
                await asyncio.sleep(PAUSE_S)
                continue
            failures = 0
            yield piece["data"]
            if piece["nextOffset"] > offset:
                offset = piece["nextOffset"]
            elif ended:
                return
            else:
                # Asked before the last look at the log: what was written up to the end is yielded.
                agent = await self.agent(agent_id)
                ended = shown(agent) in ENDED
                if attempt and attempt < agent["attempt"]:
                    offset, ended = 0, False
                attempt = agent["attempt"]
                if not ended:
                    await asyncio.sleep(PAUSE_S)

    async def diff(self, agent_id: str) -> AsyncIterator[str]:
        """Yield the git patch of what an agent changed so far, in pieces."""
        offset, ended = 0, False
        while not ended:
            piece = await self.patch(agent_id, offset)
            yield piece["data"]
            offset, ended = piece["nextOffset"], piece["eof"] or piece["nextOffset"] == offset
