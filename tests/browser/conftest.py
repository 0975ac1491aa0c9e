"""One hub and one spoke, real and linked, for all tests that leave them as they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.hub.hub_node import HubNode
from tests.integration.link.pair import Pair, join
from tests.integration.spoke.repositories import make_repository
from tests.spoke_node import Go, SpokeNode, tables

if TYPE_CHECKING:
    from tests.browser.chromium import Tab

NewTab = Callable[..., AbstractAsyncContextManager["Tab"]]


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Both nodes; the hub knows the spoke as `build-1`."""
    directory = tmp_path_factory.mktemp("pair")
    policy = {"commands": ["spawn", "status", "kill", "logs", "diff", "send", "resume"]}
    with HubNode(directory) as hub, SpokeNode(directory, toml=tables(policy=policy)) as spoke:
        pair = Pair(hub, spoke, make_repository(directory / "repository"))
        asyncio.run(_connect(pair))
        yield pair


async def _connect(pair: Pair) -> None:
    await join(pair.hub, pair.spoke)
    await pair.up()


@pytest.fixture
def go(tmp_path: Path) -> Go:
    """What the agents of a test wait for."""
    return Go(tmp_path / "go")


@pytest.fixture
async def new_tab(pair: Pair) -> AsyncIterator[NewTab]:
    """Return a maker of tabs on the page of the hub; each ends with nothing wrong in it."""
    from contextlib import asynccontextmanager

    from tests.browser.chromium import chromium, tab

    async with chromium() as browser:

        @asynccontextmanager
        async def make(url: str = "", **options: Any) -> AsyncIterator[Tab]:
            async with tab(browser, url or pair.hub.url, **options) as opened:
                yield opened
                assert opened.wrong == []

        yield make
