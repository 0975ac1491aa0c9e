"""The content of an embedded Valkey at one moment, while it serves: its own RDB, made by a child of the server.

And the way back: an append-only file that consists of that RDB alone, which a server reads at its start like any
other. A server elsewhere is its operator's to back up.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, BinaryIO, Final

from redis.asyncio import Redis

from common.errors import Unavailable
from common.valkey import connect, translated

_POLL_S: Final = 0.05
_RDB: Final = "dump.rdb"
_AOF: Final = "appendonly.aof"


async def take_snapshot(directory: Path, busy_s: float = 60.0) -> BinaryIO:
    """Return the open RDB of the server that runs in `directory`; nothing stays behind. One at a time.

    Waits for `busy_s` while the server has another child, such as one that rewrites its append-only file. Raises
    `Unavailable`.
    """
    path = directory / _RDB
    async with connect(directory) as client:
        await _begin(client, time.monotonic() + busy_s)
        try:
            if (await _ended(client))["rdb_last_bgsave_status"] != "ok":
                log = directory / "valkey.log"
                raise Unavailable(f"Valkey could not save its content; see {log}, the disk may be full")
            return path.open("rb")
        finally:
            path.unlink(missing_ok=True)


async def _ended(client: Redis) -> dict[str, Any]:
    """Wait until the server saves no more, and return what it says of that."""
    while True:
        with translated():
            found: dict[str, Any] = await client.info("persistence")
        if not found["rdb_bgsave_in_progress"]:
            return found
        await asyncio.sleep(_POLL_S)


async def _begin(client: Redis, give_up_at: float) -> None:
    while True:
        try:
            with translated():
                await client.bgsave(schedule=False)
        except Unavailable:
            if time.monotonic() >= give_up_at:
                raise
            await asyncio.sleep(_POLL_S)
        else:
            return


def place_of_snapshot(directory: Path) -> Path:
    """Return where an RDB must lie for a server in `directory` to begin with it; `adopt_snapshot` completes it."""
    return directory / "appendonlydir" / f"{_AOF}.1.base.rdb"


def adopt_snapshot(directory: Path) -> None:
    """Name the RDB that lies in its place as what the append-only file consists of."""
    base = place_of_snapshot(directory)
    (base.parent / f"{_AOF}.manifest").write_text(f"file {base.name} seq 1 type b\n")
