"""The content of an embedded Valkey at one moment, while it serves: its own RDB, made by a child of the server.

And the way back: an append-only file that consists of that RDB alone, which a server reads at its start like any
other. A server elsewhere is its operator's to back up.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

from redis.asyncio import Redis

from common.errors import Unavailable
from common.valkey import connect, translated

_POLL_S: Final = 0.05
_BUSY_S: Final = 60.0
"""How long the server may be busy with another child, such as one that rewrites its append-only file."""
_RDB: Final = "dump.rdb"
_AOF: Final = "appendonly.aof"


async def take_snapshot(directory: Path) -> BinaryIO:
    """Return the open RDB of the server that runs in `directory`; nothing stays behind. Raises `Unavailable`."""
    path = directory / _RDB
    try:
        async with connect(directory) as client:
            before = await _persistence(client)
            await _begin(client)
            after = await _ended(client)
        if after["rdb_saves"] == before["rdb_saves"]:
            raise Unavailable(
                f"Valkey could not save its content; see {directory / 'valkey.log'}, the disk may be full"
            )
        return path.open("rb")
    finally:
        path.unlink(missing_ok=True)


async def _persistence(client: Redis) -> dict[str, Any]:
    with translated():
        found: dict[str, Any] = await client.info("persistence")
    return found


async def _ended(client: Redis) -> dict[str, Any]:
    while True:
        now = await _persistence(client)
        if not now["rdb_bgsave_in_progress"]:
            return now
        await asyncio.sleep(_POLL_S)


async def _begin(client: Redis) -> None:
    give_up_at = time.monotonic() + _BUSY_S
    while time.monotonic() < give_up_at:
        with suppress(Unavailable), translated():
            await client.bgsave(schedule=False)
            return
        await asyncio.sleep(_POLL_S)
    with translated():
        await client.bgsave(schedule=False)


def place_of_snapshot(directory: Path) -> Path:
    """Return where an RDB must lie for a server in `directory` to begin with it; `adopt_snapshot` completes it."""
    return directory / "appendonlydir" / f"{_AOF}.1.base.rdb"


def adopt_snapshot(directory: Path) -> None:
    """Name the RDB that lies in its place as what the append-only file consists of."""
    base = place_of_snapshot(directory)
    (base.parent / f"{_AOF}.manifest").write_text(f"file {base.name} seq 1 type b\n")
