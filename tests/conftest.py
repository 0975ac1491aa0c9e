"""Fixtures of every test: one real Valkey per worker process, and a key prefix per test.

The server is the embedded one of the project, durable settings and all. A test that stops, starves or reconfigures a
server starts its own with `EmbeddedValkey`.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from common.embedded_valkey import EmbeddedValkey
from common.valkey import connect, connect_blocking


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """The server of this worker process; `valkey_server.directory` is what `connect` takes."""
    server = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    with asyncio.Runner() as runner:
        runner.run(server.__aenter__())
        yield server
        runner.run(server.__aexit__(None, None, None))


@pytest.fixture
async def valkey(valkey_server: EmbeddedValkey) -> AsyncIterator[Redis]:
    """A client of it, made for this test's event loop."""
    async with connect(valkey_server.directory) as client:
        yield client


@pytest.fixture
async def valkey_blocking(valkey_server: EmbeddedValkey) -> AsyncIterator[Redis]:
    """A client without a deadline on answers, for pub/sub and blocking reads."""
    async with connect_blocking(valkey_server.directory) as client:
        yield client


@pytest.fixture
def key_prefix() -> str:
    """What this test's keys begin with; no other test has it."""
    return f"test:{uuid.uuid4().hex}:"
