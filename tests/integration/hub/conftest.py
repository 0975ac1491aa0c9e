"""One hub for all tests that do not stop it; each test has spokes of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.integration.hub.hub_node import HubNode
from tests.integration.hub.standin_spoke import StandinSpoke


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubNode]:
    """A running hub, shared."""
    with HubNode(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture
async def spoke(node: HubNode) -> AsyncIterator[StandinSpoke]:
    """An active spoke of it."""
    async with StandinSpoke(node) as standin:
        yield standin
