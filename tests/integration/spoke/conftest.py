"""What tests of a whole spoke share: a repository, hubs of their own, and one node for all that leave it as it is."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.spoke.repositories import make_repository
from tests.peer import HubPeer
from tests.spoke_node import Go, SpokeNode

_numbers = itertools.count(10)


@pytest.fixture(scope="session")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one commit on `main`."""
    return make_repository(tmp_path_factory.mktemp("origin") / "app")


@pytest.fixture
def go(tmp_path: Path) -> Go:
    """What the agents of a test wait for."""
    return Go(tmp_path / "go")


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[SpokeNode]:
    """A spoke of this test alone."""
    async with SpokeNode(tmp_path) as node:
        yield node


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpokeNode]:
    """A spoke for all tests of a module that need no restart."""
    with SpokeNode(tmp_path_factory.mktemp("shared")) as node:
        yield node


@pytest.fixture
def new_hub() -> Callable[[SpokeNode], HubPeer]:
    """Return a maker of hubs with an id and a key of their own, active peers of a node."""

    def make(node: SpokeNode) -> HubPeer:
        number = next(_numbers) % 256
        hub = HubPeer(f"hub-{number}", seed=number)
        hub.register(node)
        return hub

    return make


@pytest.fixture
def hub(shared: SpokeNode, new_hub: Callable[[SpokeNode], HubPeer]) -> HubPeer:
    """An active peer of the shared node."""
    return new_hub(shared)
