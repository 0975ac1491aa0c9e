"""Requests and answers on the pages, made to a live hub: status, headers and every member are those shown."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.docs.blocks import Block, of_kind
from tests.docs.completing import completing
from tests.docs.examples import Examples
from tests.integration.hub.hub_node import HubNode
from tests.integration.hub.receiver import Receiver
from tests.spoke_node import DEADLINE_S, eventually


@dataclass(frozen=True, slots=True)
class Message:
    """A request or an answer as it is written on a page."""

    start: str
    headers: dict[str, str]
    body: str


def messages(text: str) -> list[Message]:
    """Return the messages of a block: the second begins at the line of its status."""
    request, _, answer = text.partition("\nHTTP/1.1 ")
    parts = [request, f"HTTP/1.1 {answer}"] if answer else [request]
    found = []
    for part in parts:
        head, _, body = part.strip().partition("\n\n")
        start, *headers = head.splitlines()
        found.append(Message(start, dict(line.split(": ", 1) for line in headers), body))
    return found


def check_json(shown: str, real: Any) -> None:
    """Hold a document of a page beside a real one: the same members in the same order, the same values."""
    Examples().check(json.dumps(json.loads(shown)) + "\n", json.dumps(real) + "\n")


class Listener(Receiver):
    """A receiver that keeps the headers, too."""

    headers: dict[str, str]

    async def _take(self, request: web.Request) -> web.Response:
        answer = await super()._take(request)
        if answer.status < 300:
            self.headers = dict(request.headers)
        return answer


class Hub:
    """The hub of the page, and what asks it."""

    def __init__(self, node: HubNode, session: aiohttp.ClientSession) -> None:
        self.node = node
        self._session = session

    async def answer(self, request: Message, shown: Message) -> None:
        """Make the request and compare the answer."""
        method, path, _ = request.start.split()
        asked = self._session.request(method, self.node.url + path, data=request.body or None, headers=request.headers)
        async with asked as response, asyncio.timeout(DEADLINE_S):
            assert shown.start == f"HTTP/1.1 {response.status} {response.reason}"
            for name, value in shown.headers.items():
                assert response.headers[name].partition(";")[0] == value
            if response.content_type == "text/event-stream":
                await self._stream(response, shown.body)
            else:
                check_json(shown.body, await response.json())

    async def _stream(self, response: aiohttp.ClientResponse, shown: str) -> None:
        """Wait until each of the events that are shown has come, in their order."""
        wanted = [f"{event}\n" for event in shown.split("\n\n")]
        opened = False
        while wanted:
            event = (await response.content.readuntil(b"\n\n")).decode().strip() + "\n"
            if Examples().fits(wanted[0], event):
                wanted.pop(0)
            if not opened:
                opened = True
                await self.node.spawn("build-1", taskId="T-42")

    async def tells(self, shown: Message) -> None:
        """Have a webhook tell of an agent and compare what comes."""
        wanted = json.loads(shown.body)["type"].removeprefix("agent.")
        async with Listener() as receiver:
            _, hook = await self.node.call("POST", "/api/v1/webhooks", {"url": receiver.url, "events": [wanted]})
            receiver.secrets.append(hook["secret"])
            await self.node.spawn("build-1", taskId="T-42")
            (told, *_) = await eventually(lambda: receiver.told, "the webhook is told")
        assert shown.start == "POST /hook HTTP/1.1"
        for name, value in shown.headers.items():
            Examples().check(f"{value}\n", f"{receiver.headers[name]}\n")
        assert told.pop("id") == receiver.headers["Webhook-Id"]
        check_json(shown.body, told)


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    """A hub with a spoke whose agents complete."""
    with HubNode(tmp_path) as node:
        headers = {"Authorization": f"Bearer {node.token}"}
        async with completing(node), aiohttp.ClientSession(headers=headers) as session:
            yield Hub(node, session)


@pytest.mark.slow
@pytest.mark.parametrize("block", of_kind("http"), ids=str)
async def test_a_hub_speaks_as_the_page_shows(block: Block, hub: Hub) -> None:
    match messages(block.text):
        case [request, answer]:
            await hub.answer(request, answer)
        case [told]:
            await hub.tells(told)


def test_a_document_with_another_member_is_not_the_one_shown() -> None:
    check_json('{"a": 1, "at": "2026-11-26T15:05:56Z"}', {"a": 1, "at": "2027-01-01T00:00:00.5Z"})
    for other in ({"a": 1}, {"a": 1, "at": "2027-01-01T00:00:00Z", "b": None}, {"a": 2, "at": "2027-01-01T00:00:00Z"}):
        with pytest.raises(AssertionError):
            check_json('{"a": 1, "at": "2026-11-26T15:05:56Z"}', other)
