"""Somebody with a browser, without the browser: cookies, forms with what their pages hold, and where they end.

async with Visitor(node.url) as visitor:
    await visitor.log_in(node.token)
    page = await visitor.look("/agents")
    page = await visitor.send("/spawn", {...})      # as the page's own form would
"""

from __future__ import annotations

import io
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlencode

import aiohttp

from tests.spoke_node import DEADLINE_S


@dataclass(frozen=True, slots=True)
class Answer:
    """What came, and from which path in the end."""

    status: int
    path: str
    text: str
    headers: Mapping[str, str]

    @property
    def csrf(self) -> str:
        """What the page's forms carry."""
        found = re.search(r'name="csrf" value="([^"]+)"', self.text)
        return found[1] if found else ""


class Visitor:
    """Visits the page of a hub at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = aiohttp.ClientSession(
            cookie_jar=aiohttp.CookieJar(unsafe=True), timeout=aiohttp.ClientTimeout(DEADLINE_S)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    async def ask(self, method: str, path: str, **more: object) -> Answer:
        """Send a request as it is."""
        async with self.session.request(method, self.url + path, **more) as response:  # type: ignore[arg-type]  # passed on
            return Answer(response.status, response.url.path_qs, await response.text(), response.headers)

    async def look(self, path: str, **headers: str) -> Answer:
        """Look at a page, following where it leads."""
        return await self.ask("GET", path, headers=headers)

    async def post(
        self, path: str, fields: Mapping[str, str], headers: Mapping[str, str] | None = None, *, follow: bool = True
    ) -> Answer:
        """Send a form as it is."""
        sent = {"Content-Type": "application/x-www-form-urlencoded", **(headers or {})}
        body = io.BytesIO(urlencode(fields).encode())
        return await self.ask("POST", path, data=body, headers=sent, allow_redirects=follow)

    async def send(self, path: str, fields: Mapping[str, str] | None = None) -> Answer:
        """Send a form of the hub's own page."""
        csrf = (await self.look("/agents")).csrf
        return await self.post(path, {"csrf": csrf, **(fields or {})}, {"Origin": self.url})

    async def log_in(self, token: str, following: str = "/") -> Answer:
        """Log in with a token."""
        return await self.post("/login", {"token": token, "next": following}, {"Origin": self.url})

    @asynccontextmanager
    async def watch(self, path: str) -> AsyncIterator[AsyncIterator[str]]:
        """Yield the messages of a live part, as they come."""
        async with self.session.get(self.url + path) as response:
            assert response.status == 200, await response.text()
            yield _messages(response.content)


async def _messages(content: aiohttp.StreamReader) -> AsyncIterator[str]:
    lines: list[str] = []
    async for raw in content:
        line = raw.decode().rstrip("\n")
        if line.startswith("data: "):
            lines.append(line.removeprefix("data: "))
        elif not line and lines:
            yield "\n".join(lines)
            lines = []
