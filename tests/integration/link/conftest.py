"""One hub for all tests that do not stop it; each test has spokes of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.hub.hub_node import HubNode
from tests.integration.link.bare_spoke import BareSpoke


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubNode]:
    """A running hub, shared."""
    with HubNode(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture
def spoke(hub: HubNode) -> BareSpoke:
    """An active spoke of it, without a URL."""
    return BareSpoke.registered_at(hub)
