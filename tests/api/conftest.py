"""One hub and one spoke, real and linked, which `schemathesis` may do anything to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.hub.hub_node import HubNode
from tests.integration.link.pair import Pair, join
from tests.integration.spoke.repositories import make_repository
from tests.spoke_node import SpokeNode, tables

_UNREACHABLE = "http://127.0.0.1:9"


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    """Both nodes. The spoke takes the repository that the documents name as an example and starts nothing."""
    # Webhooks of made-up addresses stay on this machine.
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, _UNREACHABLE)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    toml = tables(limits={"agents": 0}, policy={"repositories": ["https://git.example.org/team/**"]})
    with HubNode(tmp_path) as hub, SpokeNode(tmp_path, toml=toml) as spoke:
        pair = Pair(hub, spoke, make_repository(tmp_path / "repository"))
        asyncio.run(_connect(pair))
        yield pair


async def _connect(pair: Pair) -> None:
    await join(pair.hub, pair.spoke)
    await pair.up()
