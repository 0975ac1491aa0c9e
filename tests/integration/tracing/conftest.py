"""Pairs of a hub and a spoke that both tell a collector, over a link and by POST."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from common.keyfiles import load_signing_key
from tests.integration.hub.hub_node import HubNode
from tests.integration.link.pair import Pair, linked
from tests.integration.spoke.repositories import make_repository
from tests.integration.tracing.collector import Collector, collecting
from tests.spoke_node import SpokeNode, run_in_process, tables

Opens = Callable[[Path, Collector], AbstractAsyncContextManager[Pair]]
COMMANDS = ["spawn", "status", "kill", "logs", "resume"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans are sent at once; nothing is taken from the environment of whoever runs the tests."""
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "TRACEPARENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    """A collector of this test alone."""
    async with collecting() as running:
        yield running


def toml_of(collector: Collector | None) -> str:
    """The spoke's tables; it takes no reviewers."""
    told = {} if collector is None else {"telemetry": {"endpoint": collector.url}}
    return tables(policy={"commands": COMMANDS, "agent_types": ["worker", "tester"]}, **told)


def hub_toml_of(collector: Collector) -> str:
    """The hub's table."""
    return f'[telemetry]\nendpoint = "{collector.url}"\n'


def over_link(tmp_path: Path, collector: Collector) -> AbstractAsyncContextManager[Pair]:
    """A pair of which only the spoke dials."""
    return linked(tmp_path, toml_of(collector), hub_toml_of(collector))


@asynccontextmanager
async def by_post(tmp_path: Path, collector: Collector) -> AsyncIterator[Pair]:
    """A pair without a link: each knows the other's URL."""
    with HubNode(tmp_path, toml=hub_toml_of(collector)) as hub:
        async with SpokeNode(tmp_path, toml=toml_of(collector), env={"SPOKE_NODE__LINK": "never"}) as spoke:
            jwk = tmp_path / "hub.jwk"
            jwk.write_text(json.dumps(hub.key.public.to_jwk()))
            run_in_process(spoke.directory, "peer", "add", hub.id, "--key", str(jwk), "--url", hub.url)
            key = load_signing_key(spoke.directory / "keys" / f"{spoke.id}.key")
            hub.add_peer(spoke.id, key.public, spoke.url)
            yield Pair(hub, spoke, make_repository(tmp_path / "repository"))


@pytest.fixture(params=[over_link, by_post], ids=["link", "post"])
def opens(request: pytest.FixtureRequest) -> Opens:
    """How the pair talks."""
    way: Opens = request.param
    return way


@pytest.fixture
async def pair(tmp_path: Path, collector: Collector) -> AsyncIterator[Pair]:
    """A pair over a link."""
    async with over_link(tmp_path, collector) as opened:
        yield opened
