"""What we compare ourselves with: a bare XADD, and the queues saq and celery (signed), on a Valkey as durable as ours.

And NATS JetStream, which acknowledges before its disk has it: its fsync is every two minutes.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import nats
from redis.asyncio import Redis
from saq.queue.redis import RedisQueue

from common.clock import SystemClock
from common.embedded_valkey import EmbeddedValkey
from common.strict_json import encode
from common.valkey import connect
from tests.bench.celery_app import application, make_key
from tests.bench.measure import Measured, measure
from tests.envelopes import spawn

_THREADS: Final = 64
"""celery's client is no asyncio: so many callers at most have a thread of their own."""
NATS_SERVER: Final = shutil.which("nats-server", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
"""Debian keeps it where only root looks."""
_START_S: Final = 10.0


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


async def celery_auth(scratch: Path, in_flight: int, seconds: float) -> Measured:
    """Send a task of the same content with celery, signed by its `auth` serializer."""
    body, loop = spawn(), asyncio.get_running_loop()
    async with EmbeddedValkey(scratch / "celery") as server:
        make_key(server.directory)
        app = application(server.directory)
        with ThreadPoolExecutor(min(in_flight, _THREADS)) as threads:

            async def call() -> Any:
                return await loop.run_in_executor(threads, lambda: app.send_task("spawn", kwargs={"command": body}))

            try:
                return await measure(call, in_flight, seconds)
            finally:
                app.close()


async def jetstream(scratch: Path, in_flight: int, seconds: float) -> Measured:
    """Publish the same content to a stream on disk, each with an id by which the server drops what comes twice."""
    body, clock = encode(spawn()), SystemClock()
    async with _nats(scratch / "nats") as url:
        client = await nats.connect(url)
        try:
            stream = client.jetstream(timeout=_START_S)
            await stream.add_stream(name="bench", subjects=["spawn"])

            async def call() -> Any:
                return await stream.publish("spawn", body, headers={"Nats-Msg-Id": clock.new_id()})

            return await measure(call, in_flight, seconds)
        finally:
            await client.close()


@asynccontextmanager
async def _nats(directory: Path) -> AsyncIterator[str]:
    """Run a server and yield its URL."""
    if NATS_SERVER is None:
        raise FileNotFoundError("nats-server is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [NATS_SERVER, "--jetstream", "--store_dir", str(directory), "--addr", "127.0.0.1", "--port", str(port)]
    server = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(_START_S):
            while True:
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.02)
        yield f"nats://127.0.0.1:{port}"
    finally:
        server.terminate()
        await server.wait()
