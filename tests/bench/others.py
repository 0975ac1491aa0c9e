"""What we compare ourselves with, on a Valkey that is as durable as ours: a bare XADD, and the queue saq."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from saq.queue.redis import RedisQueue

from common.embedded_valkey import EmbeddedValkey
from common.strict_json import encode
from common.valkey import connect
from tests.bench.measure import Measured, measure
from tests.envelopes import spawn


async def bare_xadd(scratch: Path, in_flight: int, seconds: float) -> Measured:
    """Append a spawn's JSON to a stream and nothing else."""
    body = encode(spawn())
    async with EmbeddedValkey(scratch / "xadd") as server, connect(server.directory) as client:

        async def call() -> Any:
            return await client.xadd("stream", {"command": body})

        return await measure(call, in_flight, seconds)


async def saq_enqueue(scratch: Path, in_flight: int, seconds: float) -> Measured:
    """Enqueue a job of the same content with saq."""
    body = spawn()
    # saq needs a client of its own making; the path of our socket is short enough here.
    async with (
        EmbeddedValkey(scratch / "saq") as server,
        Redis(unix_socket_path=str(server.directory / "valkey.sock")) as client,
    ):
        queue = RedisQueue(client)

        async def call() -> Any:
            return await queue.enqueue("spawn", command=body)

        try:
            return await measure(call, in_flight, seconds)
        finally:
            await queue.disconnect()
